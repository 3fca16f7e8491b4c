"""Volumes: their orientation, scaling, grids and slices, and what is refused."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medmeta_jax.data._cuts import check_cut, counted, cut, spread
from medmeta_jax.data._volumes import (
    Volume,
    onto,
    read_mask,
    read_volume,
    resampled,
    sampled,
)
from medmeta_jax.data.samples import DataError

RIGHT, FRONT, HEAD = (3, 2, 2), (1, 4, 2), (1, 2, 5)  # marked voxels of a RAS+ volume
SHAPE = (4, 5, 6)


def marked() -> np.ndarray:
    """Each of the three voxels has a value of its own."""
    values = np.zeros(SHAPE, np.int16)
    values[RIGHT], values[FRONT], values[HEAD] = 50, 100, 200
    return values


def save(path: Path, values: np.ndarray, affine: Any = None, **header: Any) -> Path:
    image = nib.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for field, value in header.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def volume(values: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1), first: float = 0) -> Volume:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = first
    return Volume(Path("v.nii"), np.asarray(values, np.float32), affine)


@pytest.mark.parametrize(
    "axes", ["RAS", "LPS", "LAS", "PIR", "SAL"], ids=lambda axes: f"stored-{axes}"
)
def test_whatever_the_order_of_axes_the_volume_is_the_same(tmp_path: Path, axes: str) -> None:
    """Values, and the world's place of each voxel."""
    affine = np.array([[2.0, 0, 0, -7], [0, 3, 0, 11], [0, 0, 4, 5], [0, 0, 0, 1]])
    whole = nib.Nifti1Image(marked(), affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(whole.as_reoriented(turn), tmp_path / "v.nii.gz")
    found = read_volume(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(found.values, marked())
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    np.testing.assert_allclose(found.spacing, [2, 3, 4])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_values_of_any_real_kind(tmp_path: Path, dtype: str) -> None:
    found = read_volume(save(tmp_path / "v.nii", marked().astype(dtype)))
    np.testing.assert_array_equal(found.values, marked())
    as_stored = dtype in ("uint8", "int16", "uint16")
    assert found.values.dtype == (dtype if as_stored else "float32")


def test_stored_values_are_scaled_by_slope_and_intercept(tmp_path: Path) -> None:
    """Stored 0, 1, 2 and so on, times 2.5, less 1000: written by hand, past the library."""
    path = save(tmp_path / "v.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([2.5, -1000], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(data)
    np.testing.assert_array_equal(
        read_volume(path).values, np.arange(24).reshape(2, 3, 4) * 2.5 - 1000
    )


def test_one_volume_of_four_dimensions(tmp_path: Path) -> None:
    values = np.stack([marked(), marked() + 7], axis=-1)
    path = save(tmp_path / "v.nii.gz", values)
    np.testing.assert_array_equal(read_volume(path).values, marked())
    np.testing.assert_array_equal(read_volume(path, 1).values, marked() + 7)
    for frame in (-1, 2):
        with pytest.raises(DataError, match=r"v\.nii\.gz: the option frame must be from 0 to 1"):
            read_volume(path, frame)


@pytest.mark.parametrize(
    ("plane", "place", "at"),
    [
        # Rows down, columns to the right. x = 3 of 4 is the patient's right: RAS+ grows to it.
        ("axial", 2, {50: (5 - 1 - 2, 0), 100: (0, 4 - 1 - 1)}),
        ("coronal", 2, {50: (6 - 1 - 2, 0), 200: (0, 4 - 1 - 1)}),
        ("sagittal", 1, {100: (6 - 1 - 2, 0), 200: (0, 5 - 1 - 2)}),
    ],
)
def test_slices_are_drawn_as_radiologists_see_them(
    plane: str, place: int, at: dict[int, tuple[int, int]]
) -> None:
    slices = list(cut(volume(marked()), None, plane=plane, slices=0, intensity="range", spacing=0))
    assert len(slices) == {"axial": 6, "coronal": 5, "sagittal": 4}[plane]
    expected = np.zeros_like(slices[place].image)
    for value, where in at.items():
        expected[where] = round(value / 200 * 255)
    np.testing.assert_array_equal(slices[place].image, expected)
    assert slices[place].place == place


def test_a_slice_is_scaled_by_its_volume_and_takes_its_mask_along() -> None:
    values = np.zeros((3, 4, 2))
    values[..., 1] = 100
    values[0, 0, 1] = np.nan
    mask = volume(np.zeros((3, 4, 2)))._replace(values=(values == 100).astype(np.uint8))
    dark, bright = cut(volume(values), mask, plane="axial", slices=0, intensity="range", spacing=0)
    assert (dark.image == 0).all()
    assert bright.image[-1, -1, 0] == 0, "no number: the lowest"
    assert (bright.image == 255).sum() == (bright.mask == 1).sum() == 11
    assert not dark.mask.any()


def test_statistics_are_of_the_voxels_within() -> None:
    values = np.array([0.0, 10, 20, 30]).reshape(4, 1, 1)
    (one,) = cut(
        volume(values), None, plane="axial", slices=0, intensity="range", spacing=0,
        within=values > 0,
    )  # fmt: skip
    assert one.image.ravel().tolist() == [255, 128, 0, 0]  # 10 is the lowest that counts


def test_pixels_are_square(tmp_path: Path) -> None:
    """4 x 5 x 6 voxels of 1 x 2 x 3 mm: 4 x 10 x 18 mm."""
    made = volume(marked(), (1, 2, 3))
    shapes = {
        (plane, spacing): next(
            cut(made, made._replace(values=marked().astype(np.uint8)), plane=plane, slices=1,
                intensity="range", spacing=spacing)
        )
        for plane in ("axial", "coronal", "sagittal") for spacing in (0.0, 0.5)
    }  # fmt: skip
    sizes = {key: one.image.shape[:2] for key, one in shapes.items()}
    assert sizes == {
        ("axial", 0.0): (10, 4), ("axial", 0.5): (20, 8),
        ("coronal", 0.0): (18, 4), ("coronal", 0.5): (36, 8),
        ("sagittal", 0.0): (9, 5), ("sagittal", 0.5): (36, 20),
    }  # fmt: skip
    for one in shapes.values():
        assert one.mask.shape == one.image.shape[:2]
        assert set(one.mask.ravel()) <= {0, 50, 100, 200}, "a mask's labels are never blended"


def test_slices_are_spread_over_the_middle() -> None:
    assert spread(20, 0) == spread(20, 20) == spread(20, 30) == list(range(20))
    assert spread(20, 1) == [10]
    assert spread(100, 4) == [20, 40, 60, 80]
    for depth in range(1, 60):
        for slices in range(1, depth):
            places = spread(depth, slices)
            assert len(set(places)) == slices
            assert 0 <= places[0] <= places[-1] < depth


def test_onto_another_grid() -> None:
    """Values 0, 10, 20 at 0, 2 and 4 mm; on a grid of 1 mm from 1 to 5 mm, where 5 is outside."""
    coarse = volume(np.array([0.0, 10, 20]).reshape(3, 1, 1), (2, 1, 1))
    fine = volume(np.zeros((5, 1, 1)), first=0)._replace(
        affine=np.array([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
    moved = onto(coarse, fine)
    np.testing.assert_allclose(moved.values.ravel(), [5, 10, 15, 20, np.nan])
    np.testing.assert_array_equal(moved.affine, fine.affine)
    labels = coarse._replace(values=np.array([0, 7, 9], np.uint8).reshape(3, 1, 1))
    mask = onto(labels, fine, mask=True)
    assert mask.values.dtype == np.uint8
    assert mask.values.ravel()[[1, 3, 4]].tolist() == [7, 9, 0]
    assert set(mask.values.ravel().tolist()) <= {0, 7, 9}
    assert onto(coarse, coarse) is coarse


def change(path: Path, at: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(b""), "not a readable NIfTI file"),
        (lambda p: p.write_bytes(p.read_bytes()[:-5]), "not a readable NIfTI file"),
        (lambda p: p.write_bytes(p.read_bytes()[:200]), "not a readable NIfTI file"),
        (lambda p: change(p, 344, b"xxxx"), "NIfTI"),
        (lambda p: change(p, 40, np.array([3, 32767, 32767, 32767], "<i2").tobytes()),
         r"a volume of \(32767, 32767, 32767\) voxels is not to be read"),
        (lambda p: change(p, 40, np.array([3, 900, 900, 900], "<i2").tobytes()),
         "not a readable NIfTI file"),
        (lambda p: save(p, np.zeros((4, 4), np.int16)), r"a volume of \(4, 4\) voxels"),
        (lambda p: save(p, np.zeros((2, 2, 2), np.complex64)), "voxels of complex64 are no"),
        (lambda p: save(p, np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "are no"),
        (lambda p: save(p, marked(), np.diag([1, 1, 500, 1])), r"voxels of \[1.0, 1.0, 500.0\] mm"),
        (lambda p: change(p, 280, np.full(4, np.nan, "<f4").tobytes()), "mm|NIfTI|affine"),
        (lambda p: change(p, 280, np.zeros(12, "<f4").tobytes()), r"voxels of \[0.0, 0.0, 0.0\]"),
        (lambda p: save(p, np.full(SHAPE, np.nan, np.float32)), "there is no value to scale by"),
    ],
)  # fmt: skip
def test_damage_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = save(tmp_path / "v.nii", marked())
    damage(path)

    def slices() -> list[Any]:
        how = {"plane": "axial", "slices": 0, "intensity": "range", "spacing": 0}
        return list(cut(read_volume(path), None, **how))

    with pytest.raises(DataError, match=rf"v\.nii: .*({message})"):
        slices()


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii.gz", marked())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"v\.nii\.gz: not a readable NIfTI file"):
        read_volume(path)
    path.write_bytes(gzip.compress(b"no header"))
    with pytest.raises(DataError, match=r"v\.nii\.gz: not a readable NIfTI file"):
        read_volume(path)


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (np.zeros((4, 5, 5), np.uint8), np.eye(4), "does not lie on the voxels of v.nii, by shape"),
        (np.zeros(SHAPE, np.uint8), np.diag([1, 1, 1.1, 1]), "does not lie on the voxels"),
        (np.full(SHAPE, 0.5, np.float32), np.eye(4), "taken for a mask of v.nii"),
        (np.full(SHAPE, 256, np.int16), np.eye(4), "taken for a mask of v.nii"),
        (np.full(SHAPE, -1, np.int16), np.eye(4), "taken for a mask of v.nii"),
        (np.full(SHAPE, np.nan, np.float32), np.eye(4), "taken for a mask of v.nii"),
        (np.arange(120, dtype=np.uint8).reshape(SHAPE), np.eye(4), "taken for a mask of v.nii"),
    ],
)
def test_what_is_no_mask_is_refused(
    tmp_path: Path, values: np.ndarray, affine: np.ndarray, message: str
) -> None:
    image = read_volume(save(tmp_path / "v.nii", marked()))
    path = save(tmp_path / "m.nii", values, affine)
    with pytest.raises(DataError, match=rf"m\.nii: {message}"):
        read_mask(path, image)


def test_a_mask_keeps_its_labels(tmp_path: Path) -> None:
    image = read_volume(save(tmp_path / "v.nii", marked()))
    mask = read_mask(save(tmp_path / "m.nii", marked().astype(np.float32)), image)
    assert mask.values.dtype == np.uint8
    np.testing.assert_array_equal(mask.values, marked())


OPTIONS = {
    "plane": "axial", "slices": 1, "intensity": "range", "spacing": 0.0, "patches": 0, "edge": 9.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patches": -1}, "the option patches must be >= 0, got -1"),
        ({"edge": 0.0}, "the option edge must be from 0.01 to 1000.0 mm, got 0.0"),
        ({"edge": float("nan")}, "the option edge must be from 0.01 to 1000.0 mm, got nan"),
        ({"plane": "top"}, "the option plane must be one of sagittal, coronal, axial"),
        ({"intensity": "best"}, "the option intensity must be one of percentile"),
        ({"slices": -1}, "the option slices must be >= 0, got -1"),
        ({"spacing": -1.0}, "the option spacing must be 0 or from 0.01 to 100.0 mm, got -1.0"),
        ({"spacing": float("nan")}, "the option spacing must be 0 or from"),
    ],
)
def test_options_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_cut(**{**OPTIONS, **given})


def test_statistics_are_of_numbers_within() -> None:
    values = np.asarray([[[1.0, np.nan], [3.0, 4.0]]], np.float32)
    within = np.asarray([[[True, True], [False, True]]])
    assert counted(values, within).tolist() == [1, 4]
    assert counted(values, None).tolist() == [1, 3, 4]
    assert counted(values[:, 1:], None).tolist() == [3, 4]
    assert counted(values[:, 1:].astype(np.int16), within[:, 1:]).tolist() == [4]


def test_whole_numbers_are_resampled_as_numbers(tmp_path: Path) -> None:
    """Half a voxel further: the means of neighbours, and no number past the last one."""
    stored = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    volume = Volume(tmp_path, stored, np.eye(4))
    affine = np.eye(4)
    affine[2, 3] = 0.5
    found = onto(volume, Volume(tmp_path, stored, affine)).values
    np.testing.assert_allclose(found[..., 0], [[0.5, 2.5], [4.5, 6.5]])
    assert np.isnan(found[..., 1]).all()


# Axes of 1, 0.5 and 2.5 mm, the first two turned in their plane.
OBLIQUE = np.array([[0.8, -0.3, 0, -7], [0.6, 0.4, 0, 11], [0, 0, 2.5, 5], [0, 0, 0, 1]])


def world(volume: Volume) -> np.ndarray:
    """Where each voxel's centre is, in mm: [x, y, z, 3]."""
    index = np.stack(np.indices(volume.values.shape), -1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


@pytest.mark.parametrize("spacing", [0.3, 0.5, 1.0, 1.3, 2.0, 3.7])
def test_a_ramp_in_mm_stays_it_at_any_spacing(spacing: float) -> None:
    """Finer along some axes, coarser along others: each voxel has the value of its place."""
    slope = np.array([1.0, -2.0, 0.5])
    grid = Volume(Path("v.nii"), np.zeros((40, 80, 30), np.float32), OBLIQUE)
    ramp = grid._replace(values=(world(grid) @ slope).astype(np.float32))
    found = resampled(ramp, spacing)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.spacing, spacing)
    inside = tuple(slice(math.ceil(5 / spacing), -math.ceil(5 / spacing)) for _ in range(3))
    wide = tuple(slice(math.ceil(12 / spacing), -math.ceil(12 / spacing)) for _ in range(3))
    inside = inside if spacing <= 2 else wide  # a wider blur reaches further from the border
    assert found.values[inside].size > 50
    np.testing.assert_allclose(found.values[inside], (world(found) @ slope)[inside], atol=1e-3)


def test_the_new_grid_lies_over_the_old_one() -> None:
    """The same centre, and the same extent to half a voxel."""
    made = Volume(Path("v.nii"), np.zeros((7, 10, 4), np.int16), OBLIQUE)
    for spacing in (0.4, 1.0, 3.0, 50.0):
        found = resampled(made, spacing)
        middles = [v.affine @ [*(np.asarray(v.values.shape) - 1) / 2, 1] for v in (made, found)]
        np.testing.assert_allclose(*middles, atol=1e-9)
        extent = np.asarray(made.values.shape) * made.spacing
        new = np.asarray(found.values.shape)
        assert (np.abs(new * spacing - extent) <= spacing / 2 + 1e-9).all() or 1 in new
    same = resampled(volume(marked()), 1.0)
    np.testing.assert_array_equal(same.values, marked())
    np.testing.assert_array_equal(same.affine, np.eye(4))


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.6])
def test_a_ball_keeps_its_volume_and_its_place(spacing: float) -> None:
    grid = Volume(Path("m.nii"), np.zeros((30, 60, 14), np.uint8), OBLIQUE)
    middle = grid.affine[:3] @ [14.3, 31.2, 6.4, 1]
    apart = np.linalg.norm(world(grid) - middle, axis=-1)
    ball = grid._replace(values=np.where(apart < 9, np.uint8(7), np.uint8(0)))
    found = resampled(ball, spacing, mask=True)
    assert found.values.dtype == np.uint8
    assert set(np.unique(found.values)) == {0, 7}
    exact = 4 / 3 * math.pi * 9**3
    assert (found.values > 0).sum() * spacing**3 == pytest.approx(exact, rel=0.04)
    np.testing.assert_allclose(world(found)[found.values > 0].mean(0), middle, atol=spacing / 4)


def test_what_is_coarser_is_of_all_that_lies_between() -> None:
    """Stripes of one voxel, which every third place alone would show as stripes too, are grey; and
    the sum of a spot stays, weighed by the voxels' size."""
    stripes = np.zeros((32, 4, 4))
    stripes[::2] = 100
    found = resampled(volume(stripes), 3.0).values[2:-2]
    assert np.abs(found - 50).max() < 5
    spot = np.zeros((45, 45, 45))
    spot[22, 20, 23] = 1000
    assert resampled(volume(spot), 3.0).values.sum() * 27 == pytest.approx(1000, rel=0.02)


def test_edges_go_on_and_what_is_no_number_is_filled() -> None:
    values = np.array([0.0, 10, np.nan, 30]).reshape(4, 1, 1)
    first, steps = np.array([-0.5, 0, 0]), np.array([0.5, 1, 1])
    found = sampled(values, first, steps, (9, 1, 1)).ravel()
    np.testing.assert_allclose(found, [0, 0, 5, 10, *[np.nan] * 3, 30, 30])
    found = sampled(values, first, steps, (9, 1, 1), fill=-10.0).ravel()
    np.testing.assert_allclose(found, [0, 0, 5, 10, 0, -10, 10, 30, 30])


def test_a_part_is_read_as_the_whole_would_be() -> None:
    """What is cut off before it is blurred has no part in it."""
    values = np.random.default_rng(0).normal(size=(40, 30, 20))
    steps = np.array([2.0, 1.4, 0.5])
    whole = sampled(values, np.zeros(3), steps, (20, 21, 39))
    part = sampled(values, steps * [7, 8, 9], steps, (4, 5, 6))
    np.testing.assert_allclose(part, whole[7:11, 8:13, 9:15], atol=1e-6)


def test_too_fine_a_grid_is_refused() -> None:
    with pytest.raises(DataError, match=r"v\.nii: would be of \[.*\] voxels at 0\.001 mm; give a"):
        resampled(volume(marked()), 0.001)
