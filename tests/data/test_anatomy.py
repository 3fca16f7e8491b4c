"""The built-in data set: what it holds, and that its split keeps the regions apart."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from medmeta_jax.data import anatomy, sources
from medmeta_jax.data.samples import DataError, Samples


@pytest.fixture(scope="module")
def samples(data_cache: Path) -> Samples:
    return sources.load("anatomy", image_size=28)


def test_what_it_holds(samples: Samples) -> None:
    assert samples.images.shape == (3501, 28, 28, 1)
    assert samples.images.dtype == np.uint8
    assert len(samples.class_names) == 57
    sizes = {side: len(names) for side, names in samples.split.items()}
    assert sizes == {"train": 31, "val": 12, "test": 14}
    assert set().union(*map(set, samples.split.values())) == set(samples.class_names)
    assert np.bincount(samples.labels).min() >= 16
    assert samples.images.std() > 40
    assert len({image.tobytes() for image in samples.images}) > 0.95 * len(samples.images)


def test_meta_test_is_the_template_training_never_sees(samples: Samples) -> None:
    names = np.asarray(samples.class_names)[samples.labels]
    is_test = np.isin(names, samples.split["test"])
    assert set(samples.domains[is_test]) == {"icbm2009c"}
    assert set(samples.domains[~is_test]) == {"icbm2009a"}


def test_blocks_are_apart(data_cache: Path) -> None:
    """Slices of different blocks of one region are 3 mm apart or more."""
    region = np.zeros((60, 40, 60), bool)
    region[20:40, :, 20:40] = True
    brain = np.arange(40, dtype=np.uint8)[None, :, None] * np.ones((60, 1, 60), np.uint8)
    places: dict[str, list[int]] = {}
    for patch in anatomy.region_patches(brain, region, -17.0, "r", "d"):
        assert patch.image.shape == (48, 48)
        places.setdefault(patch.group, []).append(int(patch.image[24, 24]))
    edges = sorted((min(ys), max(ys)) for ys in places.values())
    assert len(edges) >= 4
    assert all(later[0] - earlier[1] >= 3 for earlier, later in itertools.pairwise(edges))


def test_patches_show_the_head_upright() -> None:
    """Rows run from superior to inferior, columns from the subject's left to right."""
    brain = np.zeros((60, 3, 60), np.uint8)
    brain[35, :, 45] = 255  # right of and above the region's centre
    region = np.zeros_like(brain, bool)
    region[20:41, :, 20:41] = True
    patch = next(anatomy.region_patches(brain, region, 0.0, "r", "d")).image
    (row,), (column,) = np.nonzero(patch)
    assert row < 24 < column


def test_meta_test_regions_do_not_lie_beside_meta_train_ones() -> None:
    """Contact (voxel pairs within 6 mm) of the test regions: under 2% with meta-train."""
    _, labels, _ = anatomy.read_volumes(anatomy.TEST_TEMPLATE)
    split, codes = anatomy.read_split(), anatomy.region_codes()
    side = np.zeros(int(labels.max()) + 1, np.int8)
    number = np.zeros(int(labels.max()) + 1, np.int16)
    for i, name in enumerate(n for names in split.values() for n in names):
        for code in codes[name]:
            number[code] = i + 1
    for i, names in enumerate((split["train"], split["val"], split["test"])):
        for name in names:
            side[codes[name]] = i + 1
    sides, regions = side[labels], number[labels]
    pairs = np.zeros((4, 4))
    for axis in range(3):
        for distance in range(1, 7):
            near = [slice(None)] * 3
            far = [slice(None)] * 3
            near[axis], far[axis] = slice(None, -distance), slice(distance, None)
            a, b = sides[tuple(near)], sides[tuple(far)]
            apart = regions[tuple(near)] != regions[tuple(far)]
            np.add.at(pairs, (a[apart], b[apart]), 1)
    pairs = (pairs + pairs.T)[1:, 1:]
    assert pairs[2, 0] / pairs[2].sum() < 0.02
    assert pairs[2, 1] / pairs[2].sum() > 0.05  # the buffer does lie between


def test_a_damaged_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMETA_DATA", str(tmp_path))
    (tmp_path / f"anatomy-{anatomy.VERSION}.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=r"anatomy-v1\.npz: damaged .*remove it to build it again"):
        sources.load("anatomy", image_size=28)


def test_a_missing_carrier_is_named() -> None:
    with pytest.raises(DataError, match="pip install no_such_carrier"):
        anatomy.package_file("no_such_carrier", "x.nii.gz")
    with pytest.raises(DataError, match=r"gone\.nii\.gz: missing; reinstall nilearn"):
        anatomy.package_file("nilearn", "gone.nii.gz")
