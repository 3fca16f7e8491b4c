"""Masks by a task: on the images' own pixels and voxels, whatever their size and orientation."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medmeta_jax import cli, deploy_verbs, registry, runs, verbs
from medmeta_jax.data.pool import Scaling
from medmeta_jax.data.samples import DataError, fit_image
from medmeta_jax.deploy import (
    artefact as artefacts,
    export as exports,
    marking,
    model as models,
    task_file,
)
from medmeta_jax.deploy.artefact import ArtefactError, Marked
from medmeta_jax.deploy.model import Model
from medmeta_jax.deploy.predictor import Predictor
from medmeta_jax.labels import MASKS
from medmeta_jax.options import Adapt, Export, Predict
from medmeta_jax.settings import ConfigError, TrainConfig

from ..test_segmentation import CONFIG, SIZE, write_blocks


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of masks, of a few steps."""
    folder = tmp_path_factory.mktemp("marking")
    config = dataclasses.replace(
        CONFIG, data=write_blocks(folder / "blocks"), meta_steps=2, dispatch=2, validate_every=2,
        baselines="none", algorithm="pixel_logistic", hyper={}, devices=2,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setenv("MEDMETA_RUNS", str(folder / "runs"))
        found = verbs.train(config, resume=None, told_to_stop=lambda: False)
    return str(found["run"])


def write_support(where: Path, count: int = 3) -> str:
    """A bright block (200) and a dark one (9) in each image, but for the last one's bright one."""
    rng = np.random.default_rng(4)
    for part in ("images", "masks"):
        (where / part).mkdir(parents=True)
    for i in range(count):
        image, mask = rng.integers(110, 140, (SIZE, SIZE)), np.zeros((SIZE, SIZE), np.uint8)
        for value, level, left in ((200, 230, 0), (9, 20, 7)):
            if value == 200 and i == count - 1:
                continue
            image[2 + i : 6 + i, left : left + 4], mask[2 + i : 6 + i, left : left + 4] = (
                level,
                value,
            )
        Image.fromarray(image.astype(np.uint8)).save(where / "images" / f"{i}.png")
        Image.fromarray(mask).save(where / "masks" / f"{i}.png")
    return str(where)


@pytest.fixture(scope="module")
def task(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("marking-task")
    support = write_support(where / "support")
    found = deploy_verbs.adapt(Adapt(run, support, str(where / "t"), structure="200"))
    assert found["classes"] == {"200": 2}  # the last image does not show it
    return where / "t"


def wide_picture(where: Path, seed: int = 0) -> np.ndarray:
    """A picture [20, 30] with a bright block in rows 4 to 11 and columns 5 to 14."""
    image = np.random.default_rng(seed).integers(110, 140, (20, 30)).astype(np.uint8)
    image[4:12, 5:15] = 230
    where.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(where)
    return image


@pytest.mark.slow
def test_pictures_get_masks_of_their_own_size(task: Path, tmp_path: Path) -> None:
    """What the learner says at the network's size, brought back."""
    image = wide_picture(tmp_path / "new" / "deep" / "a.png")
    wide_picture(tmp_path / "new" / "b.png", 1)
    out = tmp_path / "out"
    found = deploy_verbs.predict(Predict(str(task), str(tmp_path / "new"), str(out)))
    assert found["images"] == 2
    rows = list(csv.DictReader((out / "masks.csv").open()))
    assert [row["image"] for row in rows] == ["b.png", "deep/a.png"]
    mask = np.asarray(Image.open(out / rows[1]["mask"]))
    assert mask.shape == (20, 30)
    assert set(np.unique(mask)) == {0, 255}
    assert int(rows[1]["marked"]) == (mask == 255).sum()
    arrays, about = task_file.read(task)
    model = models.load(runs.existing(about["run"]), 0)
    kept = task_file.task_of(model, arrays, about, task)
    x = (fit_image(image[..., None], SIZE).astype(np.float32) / 255 - model.scaling.shift) * (
        model.scaling.scale
    )
    p = jax.nn.softmax(model.learner.predict(kept.adapted, x[None], np.ones(1, bool)))[0, ..., 1]
    # 30 columns are 12 pixels, 20 rows are 8 of them, from the third on.
    expected = Image.fromarray(np.asarray(p)[2:10]).resize((30, 20), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(mask == 255, np.asarray(expected) > 0.5)
    assert 0 < (mask == 255).mean() < 1
    assert Image.open(out / "overlays.png").size[0] > 100


class Threshold:
    """What stands in for a predictor: a pixel is marked as it is bright."""

    def __init__(self, size: int) -> None:
        scaling = Scaling(np.zeros(1, np.float32), np.ones(1, np.float32))
        self.model: Any = Model(
            TrainConfig(image_size=size), None, None, None, scaling, 2, 2, None, {}, MASKS
        )  # type: ignore[arg-type]

    def mark(self, task: Any, images: np.ndarray) -> Marked:
        return Marked(images[..., 0].astype(np.float32) / 255, np.ones(len(images)))


# Of voxels to mm, in orders that files come in; the second is turned about an axis too.
ORDERS = (
    np.diag([1.0, 1.0, 1.0, 1.0]),
    np.asarray([[0, 0, -1.0, 3], [-0.98, 0.2, 0, 1], [0.2, 0.98, 0, 5], [0, 0, 0, 1]]),
    np.asarray([[-1.0, 0, 0, 9], [0, 0, 1, 0], [0, -1, 0, 4], [0, 0, 0, 1]]),
)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("order", range(len(ORDERS)))
def test_a_volume_is_marked_on_its_own_voxels(plane: str, order: int, tmp_path: Path) -> None:
    """By a threshold, and without a change of scale, the mask is the volume's own."""
    rng = np.random.default_rng(order)
    values = rng.choice(np.asarray([0, 1000], np.int16), (8, 8, 8), p=[0.7, 0.3])
    name = "v.nii.gz" if order else "v.nii"
    image = nib.Nifti1Image(values, ORDERS[order])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / name)
    read = {"plane": plane, "intensity": "range"}
    made = marking.volume(Threshold(8), None, tmp_path / name, name, read)  # type: ignore[arg-type]
    (tmp_path / made.file).write_bytes(made.content)
    found: Any = nib.load(tmp_path / made.file)
    assert made.file == name.replace("v.", "v_mask.")
    np.testing.assert_array_equal(np.asarray(found.dataobj), values > 0)
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / name).affine)  # type: ignore[attr-defined]
    assert found.header.get_xyzt_units() == ("mm", "sec")
    assert made.marked == (values > 0).sum()
    voxel = abs(np.linalg.det(ORDERS[order][:3, :3]))
    assert made.mm3 == pytest.approx(made.marked * voxel)


def test_voxels_that_are_not_cubes_are_marked_where_they_are(tmp_path: Path) -> None:
    """Thick slices seen from the side: pixels are square for the network, and voxels are not."""
    values = np.zeros((16, 12, 4), np.int16)
    values[4:12, 3:9, 1:3] = 1000
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 4.0, 1.0])), tmp_path / "v.nii.gz")
    for plane in ("axial", "coronal"):
        read = {"plane": plane, "intensity": "range"}
        path = tmp_path / "v.nii.gz"
        made = marking.volume(Threshold(16), None, path, "v.nii.gz", read)  # type: ignore[arg-type]
        (tmp_path / "m.nii.gz").write_bytes(made.content)
        found = np.asarray(nib.load(tmp_path / "m.nii.gz").dataobj)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(found, values > 0)
        assert made.mm3 == 8 * 6 * 2 * 4


@pytest.mark.slow
def test_volumes_by_the_command_line(task: Path, tmp_path: Path) -> None:
    """A folder of volumes and one of them alone, whose masks are left out; a 3-D run is another."""
    for name in ("p1_T1w", "p1_T1w_lesion", "p2_T1w"):
        values = np.full((10, 12, 3), 120, np.int16)
        values[2:7, 2:7] = 230
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    cli.main(["predict", str(task), "--images", str(tmp_path), "--out", str(out)])
    rows = list(csv.DictReader((out / "masks.csv").open()))
    assert [row["mask"] for row in rows] == ["p1_T1w_mask.nii.gz", "p2_T1w_mask.nii.gz"]
    one = str(tmp_path / "p2_T1w.nii.gz")
    found = deploy_verbs.predict(Predict(str(task), one, str(tmp_path / "one")))
    assert found["images"] == 1
    alone = tmp_path / "one" / "p2_T1w_mask.nii.gz"
    assert alone.read_bytes() == (out / "p2_T1w_mask.nii.gz").read_bytes()


@pytest.mark.slow
def test_names_that_differ_by_their_ends_alone_stay_apart(task: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp"):
        wide_picture(tmp_path / "new" / name)
    deploy_verbs.predict(Predict(str(task), str(tmp_path / "new"), str(tmp_path / "out")))
    assert (tmp_path / "out" / "a.png_mask.png").exists()
    assert (tmp_path / "out" / "a.bmp_mask.png").exists()


@pytest.mark.slow
def test_what_cannot_be_marked_is_refused(run: str, task: Path, tmp_path: Path) -> None:
    support = write_support(tmp_path / "s")
    with pytest.raises(DataError, match="no image shows a structure 'x'; there are any, 9, 200"):
        deploy_verbs.adapt(Adapt(run, support, str(tmp_path / "t"), structure="x"))
    wide_picture(tmp_path / "classes" / "a" / "0.png")
    with pytest.raises(DataError, match=r"a/0\.png has no mask"):
        deploy_verbs.adapt(Adapt(run, str(tmp_path / "classes"), str(tmp_path / "t")))
    with pytest.raises(DataError, match="holds volumes, and the run was trained on pictures"):
        marking.check_pictures(Threshold(8).model, 3, "x")
    wide_picture(tmp_path / "new" / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out: .* cannot be written"):
        deploy_verbs.predict(Predict(str(task), str(tmp_path / "new"), str(tmp_path / "file")))


def model_of(name: str, **hyper: int) -> Model:
    """A learner of masks as it starts."""
    backbone = registry.factory("backbones", "unet")(width=4, depth=2, norm="support")
    learner = registry.factory("algorithms", name)(backbone, outputs=2, **hyper)
    params = learner.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    scaling = Scaling(np.asarray([0.4], np.float32), np.asarray([2.0], np.float32))
    config = TrainConfig(image_size=8, algorithm=name)
    tasks = {"ways": 1, "shots": 2}
    return Model(config, learner, backbone, params, scaling, 2, 2, None, tasks, MASKS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hyper"), [("pixel_logistic", {}), ("crossblock", {"width": 4, "depth": 2})]
)
def test_an_artefact_marks_the_same(name: str, hyper: dict[str, int]) -> None:
    """A learner without a backbone knows no distance."""
    predictor = Predictor(model_of(name, **hyper))
    rng = np.random.default_rng(0)
    images, others = (rng.integers(0, 256, (n, 8, 8, 1)).astype(np.uint8) for n in (3, 5))
    masks = images[..., 0] > 128
    task = predictor.adapt(images, masks)
    expected = predictor.mark(task, others)
    assert expected.probabilities.shape == (5, 8, 8)
    assert expected.probabilities.std() > 0
    known = name != "crossblock"
    assert np.isfinite(expected.distance).all() == known
    run = artefacts.read(io.BytesIO(exports.artefact(predictor.model, None, {}, support=8)))
    found = run.predict(others, run.adapt(images, masks))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-4)
    with pytest.raises(ArtefactError, match=r"needs masks \(3, 8, 8\), got \(3,\)"):
        run.adapt(images, np.zeros(3))


@pytest.mark.slow
def test_a_task_of_masks_is_exported_whole(task: Path, tmp_path: Path) -> None:
    deploy_verbs.export(Export(str(task), str(tmp_path / "a.medmeta")))
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.uint8)
    np.save(tmp_path / "x.npy", images)
    artefacts.main([str(tmp_path / n) for n in ("a.medmeta", "x.npy", "told.npy")])
    model, kept, _ = deploy_verbs.of_task(task)
    expected = Predictor(model).mark(kept, images).probabilities
    np.testing.assert_allclose(np.load(tmp_path / "told.npy"), expected, atol=1e-5)
