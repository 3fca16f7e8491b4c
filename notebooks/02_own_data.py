# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own data: from NIfTI files to masks on their voxels
#
# A folder of volumes, some with masks, becomes a meta-trained run; the run is adapted to three
# labelled volumes of another scanner, and marks a new one on its own voxels. Everything here is the
# command line, called from Python. It takes about a minute on two cores.
#
# The "patients" are **simulated**: one real average brain (the built-in data's), moved, with other
# contrast and noise for each. They stand for yours, and for nothing clinical.

# %%
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medmeta_jax.cli import main as medmeta
from medmeta_jax.data.anatomy import package_file

MAPS = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
grey, white, t1 = (
    nib.load(package_file("nilearn", MAPS.format(name))).get_fdata(dtype=np.float32) / 255
    for name in ("gm", "wm", "t1")
)
other = np.clip((t1 > 0) - grey - white, 0, 1)

# %%
root = Path(tempfile.mkdtemp())
within = np.argwhere(grey + white > 0.5)
(x0, y0, _), (x1, y1, _) = within.min(0), within.max(0) + 1
crop = (slice(x0, x1, 3), slice(y0, y1, 3), slice(80, 104, 3))


def write_patient(folder, name, seed, contrast, mask):
    """A volume, and its masks: grey matter 1, white matter 2."""
    rng = np.random.default_rng(seed)
    shift, angle = rng.uniform(-3, 3, 3) * (1, 1, 0), rng.uniform(-10, 10)
    tissues = [
        ndimage.shift(ndimage.rotate(t[crop], angle, reshape=False, order=1), shift, order=1)
        for t in (grey, white, other)
    ]
    values = sum(level * tissue for level, tissue in zip(contrast, tissues, strict=True))
    values = values * rng.uniform(0.8, 1.2) + 0.04 * rng.normal(size=values.shape)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = rng.uniform(-20, 20, 3)  # patients do not lie alike
    folder.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image((1000 * values).astype(np.int16), affine)
    nib.save(image, folder / f"{name}_T1w.nii.gz")
    seg = np.where(tissues[1] > 0.5, 2, np.where(tissues[0] > 0.5, 1, 0)).astype(np.uint8)
    if mask:
        nib.save(nib.Nifti1Image(seg, affine), folder / f"{name}_T1w_seg.nii.gz")
    return seg


for i in range(12):
    write_patient(root / "clinic", f"p{i:02}", i, (0.6, 0.9, 0.2), mask=True)
sorted(path.name for path in (root / "clinic").iterdir())[:4]

# %% [markdown]
# ## Look first
#
# `data inspect` reads every file: counts, sizes, copies, what cannot be read, and a contact sheet.

# %%
medmeta(["data", "inspect", str(root / "clinic"), "--out", str(root / "look")])

# %%
import matplotlib.pyplot as plt
from PIL import Image


def show(path, width=9):
    picture = np.asarray(Image.open(path))
    figure, axis = plt.subplots(figsize=(width, width * picture.shape[0] / picture.shape[1]))
    axis.imshow(picture)
    axis.axis("off")
    figure.tight_layout(pad=0)


show(root / "look" / "contact_sheet.png")

# %% [markdown]
# ## Meta-train
#
# Each structure of the masks is a kind of task: from a few slices that show it, mark it in others.
# Patients are on one side of the split, and of each episode, each.

# %%
import os

os.environ["MEDMETA_RUNS"] = str(root / "runs")
options = (
    "--preset segmentation --algorithm pixel_logistic --image-size 32 --net.width 8 --net.depth 2 "
    "--meta-steps 60 --validate-every 30 --val-episodes 10 --test-episodes 20 --shots 3 "
    "--queries 3 --baselines some"
)
medmeta(["train", "--data", str(root / "clinic"), *options.split()])
(run,) = (root / "runs").iterdir()
sorted(path.name for path in run.iterdir())

# %% [markdown]
# `report.html` in the run is all of it on one page. Whether it was worth its training the table
# says: `pixel_logistic-untrained` is the same without any, `threshold` one grey value.
#
# ## Another scanner, three labelled volumes
#
# Here grey matter is bright and white matter dark, which no training image was.

# %%
for i in range(3):
    write_patient(root / "support", f"new{i}", 100 + i, (0.9, 0.5, 0.3), mask=True)
truth = write_patient(root / "patient", "today", 200, (0.9, 0.5, 0.3), mask=False)
task = str(root / "white.task")
support = ["--support", str(root / "support"), "--structure", "2", "--read.slices", "4"]
medmeta(["adapt", str(run), *support, "--out", task])
medmeta(["predict", task, "--images", str(root / "patient"), "--out", str(root / "told")])

# %%
volume = nib.load(root / "patient" / "today_T1w.nii.gz")
mask = nib.load(root / "told" / "today_T1w_mask.nii.gz")
assert volume.shape == mask.shape
assert np.array_equal(volume.affine, mask.affine)
told, true = np.asarray(mask.dataobj) > 0, truth == 2
f"Dice of white matter, in the volume: {2 * (told & true).sum() / (told.sum() + true.sum()):.2f}"

# %%
show(root / "told" / "overlays.png", 4)
