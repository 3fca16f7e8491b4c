"""Cubes of a volume: where they are, what they hold, how they are drawn, and the way from a NIfTI
folder to a trained network."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import nibabel as nib
import numpy as np
import pytest

from medmeta_jax.data import nifti, sources
from medmeta_jax.data._cuts import Piece, cut, evenly, middles
from medmeta_jax.data._volumes import Volume, resampled
from medmeta_jax.data.episodes import EpisodeSpec, sample
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import fit_scaling, make_pool
from medmeta_jax.data.reading import load_samples
from medmeta_jax.data.samples import DataError

from .damage import records
from .test_volumes import FRONT, HEAD, RIGHT, SHAPE, marked, volume


def cubes(image: Volume, mask: Volume | None = None, **options: Any) -> list[Piece]:
    given = {
        "plane": "axial", "slices": 0, "intensity": "range", "spacing": 0.0, "patches": 1,
        **options,
    }  # fmt: skip
    return list(cut(image, mask, **given))


def spots(*places: tuple[int, int, int], shape: tuple[int, ...] = (12, 13, 14)) -> Volume:
    """A mask of single voxels, numbered from 1."""
    values = np.zeros(shape, np.uint8)
    for number, place in enumerate(places, 1):
        values[place] = number
    return volume(values)._replace(values=values)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_cube_is_a_stack_of_the_slices(plane: str) -> None:
    """Over the whole of a volume of cubic voxels, and beyond it black."""
    image, mask = volume(marked()), spots(HEAD, shape=SHAPE)
    how = {"plane": plane, "slices": 0, "intensity": "range", "spacing": 0}
    slices = list(cut(image, mask, **how))
    stack = np.stack([one.image for one in slices])
    labels = np.stack([one.mask for one in slices])
    middle = spots((2, 2, 2), shape=SHAPE)
    (found,) = cubes(image, middle, plane=plane, edge=20.0)
    assert found.image.shape == (20, 20, 20, 1)
    places = np.argwhere(found.image[..., 0])
    low = places.min(0)
    window = tuple(slice(a, a + n) for a, n in zip(low, np.ptp(places, 0) + 1, strict=True))
    expected = np.argwhere(stack[..., 0])
    inner = tuple(slice(a, b + 1) for a, b in zip(expected.min(0), expected.max(0), strict=True))
    np.testing.assert_array_equal(found.image[window], stack[inner])
    assert (found.image > 0).sum() == (stack > 0).sum() == 3
    # The patch that is centred on HEAD shows its label in the middle, and its brightest voxel.
    (found,) = cubes(image, mask, plane=plane, edge=3.0)
    assert found.mask[1, 1, 1] == found.mask.sum() == labels.sum() == 1
    assert found.image[1, 1, 1, 0] == 255


def test_front_and_head_and_the_patients_right() -> None:
    """In a cube of axial slices: the head at the end, the front up, the right on the left."""
    (found,) = cubes(volume(marked()), spots((1, 2, 2), shape=SHAPE), edge=7.0)
    at = {
        value: tuple(np.argwhere(found.image[..., 0] == round(value / 200 * 255))[0].tolist())
        for value in (50, 100, 200)
    }
    middle = np.array([1, 2, 2])
    for value, place in ((50, RIGHT), (100, FRONT), (200, HEAD)):
        x, y, z = np.asarray(place) - middle
        assert at[value] == (3 + z, 3 - y, 3 - x)


@pytest.mark.parametrize("spacing", [0.0, 0.7, 1.0, 2.5])
def test_a_cube_is_a_part_of_the_resampled_volume(spacing: float) -> None:
    values = np.random.default_rng(0).uniform(0, 255, (20, 24, 10)).astype(np.float32)
    image = Volume(Path("v.nii"), values, np.diag([1.0, 0.8, 2.0, 1.0]))
    mask = spots((11, 9, 5), shape=values.shape)._replace(affine=image.affine)
    (found,) = cubes(image, mask, spacing=spacing, edge=6.0)
    voxel = spacing or 0.8
    size = round(6 / voxel)
    grey = ((resampled(image, voxel).values - values.min()) / np.ptp(values) * 255).round()
    # The middle of the patch is the voxel of the grid that is nearest to the spot.
    back = np.linalg.inv(resampled(image, voxel).affine) @ image.affine @ [11, 9, 5, 1]
    first = np.ceil(back[:3] - size / 2).astype(int)
    assert (np.abs(first + (size - 1) / 2 - back[:3]) <= 0.5 + 1e-9).all()
    part = grey[tuple(slice(a, a + size) for a in first)]
    np.testing.assert_allclose(found.image[..., 0], part[::-1, ::-1].transpose(2, 1, 0), atol=1)


def test_a_patch_at_the_border_is_padded_and_not_moved() -> None:
    """Around a corner voxel, an eighth of the cube is inside; the lowest value is 0 itself."""
    values = np.full((6, 6, 6), 100.0)
    values[3, 3, 3] = 0
    image, mask = volume(values), spots((5, 5, 0), shape=(6, 6, 6))
    (found,) = cubes(image, mask, edge=5.0)
    # Up to x = 5 (left of the picture's middle is higher x), y = 5, and from z = 0 on.
    expected = np.zeros((5, 5, 5), np.uint8)
    expected[2:, 2:, 2:] = 255
    inside = found.image[..., 0]
    assert found.mask[2, 2, 2] == found.mask.sum() == 1
    np.testing.assert_array_equal(inside, expected)


def test_the_middle_of_a_patch_is_always_of_the_volume() -> None:
    """10 voxels of 1 mm are two of 4 mm; the last of the ten lies beyond the middle of both."""
    image = volume(np.arange(1000).reshape(10, 10, 10) + 1)
    (found,) = cubes(image, spots((9, 9, 9), shape=(10, 10, 10)), edge=4.0, spacing=4.0)
    assert found.image.shape == (1, 1, 1, 1)
    assert found.image.all()


def test_patches_are_around_the_parts_of_the_mask_the_largest_first() -> None:
    """Parts that touch at a corner are one; of two as large, the earlier one; and no more of them
    than are asked for."""
    mask = spots((1, 1, 1), (2, 2, 2), (8, 2, 3), (2, 10, 12), (2, 11, 12), (3, 11, 12))
    found = middles(volume(np.zeros(mask.values.shape)), mask, 5)
    np.testing.assert_allclose(found, [[7 / 3, 32 / 3, 12], [1.5, 1.5, 1.5], [8, 2, 3]])
    assert len(middles(volume(np.zeros(mask.values.shape)), mask, 2)) == 2
    two = spots((9, 9, 9), (1, 1, 1))
    np.testing.assert_array_equal(middles(volume(np.zeros(two.values.shape)), two, 1), [[1, 1, 1]])


def test_labels_of_one_part_are_one_patch() -> None:
    mask = spots((4, 4, 4), (4, 4, 5), (4, 4, 6))
    (found,) = cubes(volume(np.arange(12 * 13 * 14).reshape(12, 13, 14)), mask, patches=3, edge=3.0)
    assert found.mask[:, 1, 1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("masked", [False, True])
def test_without_a_mask_patches_are_spread_over_the_middle(masked: bool) -> None:
    """The same where a mask shows nothing."""
    image = volume(np.arange(20 * 10 * 10).reshape(20, 10, 10))
    mask = spots(shape=(20, 10, 10)) if masked else None
    found = middles(image, mask, 2)
    np.testing.assert_allclose(found, [[5.5, 4.5, 4.5], [13.5, 4.5, 4.5]])
    assert [one.place for one in cubes(image, mask, patches=3, edge=2.0)] == [0, 1, 2]


def test_places_are_even_and_as_many_as_asked_for() -> None:
    shape = np.array([40, 40, 10])
    for count in range(1, 30):
        places = evenly(shape, np.array([1.0, 1.0, 4.0]), count)
        assert len({tuple(place) for place in places}) == count
        assert (np.min(places, 0) >= 0.1 * shape - 0.5).all()
        assert (np.max(places, 0) <= 0.9 * shape - 0.5).all()
    # Cells are cubes in mm, and not in voxels.
    eight = np.asarray(evenly(shape, np.array([1.0, 1.0, 4.0]), 8))
    assert [len(set(column)) for column in eight.T.round(3).tolist()] == [2, 2, 2]
    flat = np.asarray(evenly(shape, np.array([1.0, 1.0, 1.0]), 4))
    assert [len(set(column)) for column in flat.T.round(3).tolist()] == [2, 2, 1]


def test_a_cube_too_large_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"v\.nii: a patch of 300 mm would be of 300 voxels of 1 mm"
    ):
        cubes(volume(marked()), edge=300.0)


def test_what_is_no_number_is_black_and_spoils_nothing() -> None:
    values = np.full((9, 9, 9), 50.0)
    values[4, 4, 4], values[0, 0, 0] = np.nan, 0.0
    (found,) = cubes(volume(values), spots((4, 4, 4), shape=(9, 9, 9)), edge=3.0, spacing=1.0)
    assert found.image[1, 1, 1, 0] == 0
    assert (found.image == 255).sum() == 26
    # Between voxels it counts as the lowest value: its share is (3/4)³ in each of the eight.
    (found,) = cubes(volume(values), spots((4, 4, 4), shape=(9, 9, 9)), edge=1.0, spacing=0.5)
    assert (found.image == round(255 * (1 - 0.75**3))).all()


def test_statistics_are_of_the_voxels_within() -> None:
    values = np.arange(27.0).reshape(3, 3, 3)
    (found,) = cubes(volume(values), spots((1, 1, 1), shape=(3, 3, 3)), edge=3.0,
                     within=values >= 20)  # fmt: skip
    assert (found.image > 0).sum() == 6


def write(root: Path, kinds: int = 6, patients: int = 4) -> Path:
    """Volumes in class folders, a class's brightness along one of the axes; a ball marked."""
    rng = np.random.default_rng(0)
    for kind, patient in itertools.product(range(kinds), range(patients)):
        (root / f"kind{kind}").mkdir(parents=True, exist_ok=True)
        waves = np.sin((kind // 3 + 1) * np.moveaxis(np.indices((12, 12, 6)), 0, -1)[..., kind % 3])
        values = (100 * waves + rng.normal(0, 20, waves.shape)).astype(np.float32)
        mask = np.zeros(values.shape, np.uint8)
        mask[2:5, 3:6, 2:4], mask[8:10, 8:10, 3:5] = 1, 1
        for name, array in ((f"p{patient}_T1w", values), (f"p{patient}_T1w_ball", mask)):
            image = nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0]))
            nib.save(image, root / f"kind{kind}" / f"{name}.nii")
    return root


def test_patches_of_files(tmp_path: Path) -> None:
    found = records(write(tmp_path, 2, 1), patches=5, edge=6.0)
    assert [(r.name, r.label, r.group, r.modality) for r in found] == [
        (f"patch={i}", f"kind{kind}", f"kind{kind}/p0", "t1w")
        for kind in range(2) for i in range(2)
    ]  # fmt: skip
    assert {r.image.shape for r in found} == {(6, 6, 6, 1)}
    assert [int(r.mask.sum()) for r in found] == [36, 16] * 2, "2 mm slices, voxels of 1 mm"
    assert sources.catalogue(str(tmp_path), patches=1).about.startswith("3-D patches of")
    assert {r.image.ndim for r in records(tmp_path)} == {3}


def medmeta(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medmeta_jax", *arguments, "--json"],
        cwd=where, capture_output=True, text=True, timeout=300,
        env={**os.environ, "MEDMETA_RUNS": str(where / "runs")},
    )  # fmt: skip


@pytest.mark.slow
def test_from_volumes_to_a_trained_network(tmp_path: Path) -> None:
    """prepare, inspect and train, by their commands, with the default augmentation."""
    write(tmp_path / "raw")
    options = ("--read.patches", "2", "--read.edge", "6")
    done = medmeta(tmp_path, "data", "prepare", "raw", "--out", "made", *options)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert (manifest["samples"], manifest["masks"], manifest["groups"]) == (48, 48, 24)
    done = medmeta(tmp_path, "data", "inspect", "made", "--out", "look")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sizes"] == [{"size": [6, 6, 6, 1], "images": 48}]
    assert (tmp_path / "look" / "contact_sheet.png").is_file()
    train = (
        "train", "--data", "made", "--image-size", "6", "--queries", "2", "--meta-steps", "2",
        "--meta-batch", "1", "--val-episodes", "2", "--test-episodes", "3", "--dispatch", "2",
        "--validate-every", "2", "--baselines", "none", "--net.width", "4", "--net.depth", "2",
        "--algorithm", "protonet",
    )  # fmt: skip
    done = medmeta(tmp_path, *train)
    assert done.returncode == 0, done.stderr
    (learner,) = json.loads(done.stdout)["results"]
    assert 0 <= learner["accuracy"]["mean"] <= 1


def test_volumes_are_not_turned_into_classes(tmp_path: Path) -> None:
    """By name, before anything is compiled; and not by the function itself either."""
    found = nifti.catalogue(str(write(tmp_path, 2, 2)), patches=1, edge=6.0)
    samples = load_samples(found, image_size=4)
    pool = make_pool(samples, samples.class_names, fit_scaling(samples.images))
    spec = EpisodeSpec(ways=2, queries=1)
    check_pool(pool, spec, samples.class_names, "meta-train")
    turned = dataclasses.replace(spec, rotate=True)
    with pytest.raises(DataError, match=r"meta-train: images are volumes, .* rotate_classes"):
        check_pool(pool, turned, samples.class_names, "meta-train")
    with pytest.raises(ValueError, match=r"rotate turns pictures, x must be \[n, S, S, C\]"):
        sample(jax.random.key(0), pool, turned)
    episode = sample(jax.random.key(0), pool, spec)
    assert episode.support.x.shape == (2, 4, 4, 4, 1)
    assert set(np.unique(pool.same)) == set(range(4))


def test_the_example_gives_patches_too(tmp_path: Path) -> None:
    found = sources.sources()["nifti"].example(tmp_path / "raw")
    samples = load_samples(nifti.catalogue(found, patches=3, edge=4.0), image_size=5)
    assert samples.images.shape == (72, 5, 5, 5, 1)
