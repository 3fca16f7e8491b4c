"""Volumes: NIfTI files read with nibabel, turned to one orientation, and cut into slices.

Axes of a volume run from the patient's left to the right, from posterior to anterior, from
inferior to superior (RAS+). Slices are drawn as radiologists see them: the front or the head is
up, and the patient's right is on the left; in sagittal ones the front is on the left.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data._tables import check_option
from medmeta_jax.data.intensity import METHODS, between, limits
from medmeta_jax.data.samples import DataError

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # by the axis that they are cut along
SUFFIXES = (".nii.gz", ".nii")
MOST_VOXELS = 2**30  # 4 GB as float32
MIDDLE = 0.8  # of a volume's depth: its ends mostly show little
FINEST_MM, COARSEST_MM = 0.01, 100.0  # of voxels
MOST_LABELS = 32  # of a mask: more are the greys of an image


class Volume(NamedTuple):
    """values: [x, y, z] float32, or whole numbers of 8 or 16 bits where the file has them unscaled,
    which take half the memory; affine: [4, 4], of voxels to mm."""

    path: Path
    values: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """[3], in mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


class Slice(NamedTuple):
    """place: along the axis that was cut; image: [h, w, 1] uint8; mask: [h, w] uint8, or None."""

    place: int
    image: np.ndarray
    mask: np.ndarray | None


def stem_of(path: Path) -> str:
    """A file's name without .nii or .nii.gz, or "" for other files.

    >>> stem_of(Path("sub-01_T1w.nii.gz"))
    'sub-01_T1w'
    """
    name = path.name
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), "")


def read_volume(path: Path, frame: int = 0) -> Volume:
    """One NIfTI file with its scaling applied, in RAS+ order; the volume `frame` of a 4-D one.

    Raises DataError naming the file and the field where it is damaged or of another kind.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise DataError(f"{path}: is {type(image).__name__} and not NIfTI; convert it")
        check_header(path, image, frame)
        orientation = nib.io_orientation(image.affine)
        if np.isnan(orientation).any():
            raise DataError(f"{path}: its affine has an axis of no length; repair the header")
        values = small(image.dataobj, frame)
    except (OSError, ValueError, EOFError, zlib.error, ImageFileError) as error:
        raise DataError(
            f"{path}: not a readable NIfTI file ({error}); repair or remove it"
        ) from None
    shape = values.shape
    turned = nib.apply_orientation(values, orientation)
    affine = image.affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    return Volume(path, turned, affine)


def small(proxy: Any, frame: int) -> np.ndarray:
    """A file's values with its scaling applied, as `Volume` holds them, with one copy of them in
    memory beside the stored one at most."""
    from nibabel.volumeutils import apply_read_scaling

    stored = proxy.get_unscaled() if len(proxy.shape) == 3 else np.asarray(proxy[..., frame])
    slope, inter = (proxy.slope, proxy.inter) if len(proxy.shape) == 3 else (1.0, 0.0)
    if (slope, inter) == (1.0, 0.0) and stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2:
        return np.asarray(stored)
    values = np.empty(stored.shape, np.float32)
    for place in range(stored.shape[-1]):
        values[..., place] = apply_read_scaling(stored[..., place], slope, inter)
    return values


def check_header(path: Path, image: Any, frame: int) -> None:
    """DataError where a header is not of a volume that can be read, before any of it is."""
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) not in (3, 4) or min(shape) < 1 or np.prod(shape, dtype=float) > MOST_VOXELS:
        raise DataError(f"{path}: a volume of {shape} voxels is not to be read")
    if dtype.kind not in "iuf":
        raise DataError(f"{path}: voxels of {dtype} are no intensities; convert them")
    frames = shape[3] if len(shape) == 4 else 1
    if not 0 <= frame < frames:
        raise DataError(f"{path}: the option frame must be from 0 to {frames - 1}, got {frame}")
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    # Written so that a spacing that is not a number is refused too.
    if not ((spacing >= FINEST_MM) & (spacing <= COARSEST_MM)).all():
        raise DataError(
            f"{path}: voxels of {spacing.round(3).tolist()} mm (pixdim or affine) are not from "
            f"{FINEST_MM} to {COARSEST_MM} mm; repair the header"
        )


def check_grid(volume: Volume, grid: Volume) -> None:
    """DataError where a volume does not lie on the voxels of another."""
    near = 0.01 * grid.spacing.min()
    if volume.values.shape != grid.values.shape or not np.allclose(
        volume.affine, grid.affine, rtol=0, atol=near
    ):
        raise DataError(
            f"{volume.path}: does not lie on the voxels of {grid.path.name}, by shape "
            f"({volume.values.shape} on {grid.values.shape}) or affine; resample it"
        )


def read_mask(path: Path, image: Volume) -> Volume:
    """A mask that lies on an image's voxels, as uint8. Raises DataError."""
    mask = read_volume(path)
    check_grid(mask, image)
    with np.errstate(invalid="ignore"):  # what is not a number is refused below
        values = mask.values.astype(np.uint8)
    labels = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    if len(labels) > MOST_LABELS or not np.array_equal(values, mask.values):
        raise DataError(
            f"{path}: taken for a mask of {image.path.name}, and holds other values than some "
            "whole numbers from 0 to 255; rename it if it is no mask"
        )
    return mask._replace(values=values)


def onto(volume: Volume, grid: Volume, *, mask: bool = False) -> Volume:
    """A volume resampled to the voxels of another, by their affines: linearly, or by the nearest
    voxel for a mask. What lies outside is 0 in a mask, and not a number in an image."""
    import nibabel as nib
    from nibabel.processing import resample_from_to

    if volume.values.shape == grid.values.shape and np.allclose(volume.affine, grid.affine):
        return volume
    own = volume.values if mask else volume.values.astype(np.float32)
    made = resample_from_to(
        nib.Nifti1Image(own, volume.affine),
        (grid.values.shape, grid.affine),
        order=0 if mask else 1,
        cval=0 if mask else np.nan,
    )
    values = np.asarray(made.dataobj, own.dtype)
    return Volume(volume.path, values, grid.affine)


def spread(depth: int, slices: int) -> list[int]:
    """The places of so many slices, evenly over the middle 80 percent of `depth`; all where
    `slices` is 0 or no less than the depth.

    >>> spread(20, 4)
    [4, 8, 12, 16]
    """
    if slices == 0 or slices >= depth:
        return list(range(depth))
    middle = max(depth * MIDDLE, slices)  # no place twice where nearly all are wanted
    return [int((depth - middle) / 2 + middle / slices * (i + 0.5)) for i in range(slices)]


def cut(
    image: Volume, mask: Volume | None, *, plane: str, slices: int, intensity: str, spacing: float,
    within: np.ndarray | None = None,
) -> Iterator[Slice]:  # fmt: skip
    """The slices of a volume and of its mask, their pixels square.

    Args:
      plane: one of `PLANES`.
      slices: how many; 0 for all.
      intensity: a method of `intensity.METHODS`, of the whole volume.
      spacing: of the pixels, in mm; 0: the finer one of the plane's two.
      within: bool [x, y, z], which voxels the intensity's statistics are of; all by default.
    """
    try:
        low, high = limits(counted(image.values, within), intensity)
    except ValueError as error:
        raise DataError(f"{image.path}: {error}") from None
    axis = PLANES[plane]
    across, down = np.delete(image.spacing, axis)
    pixel = spacing or min(across, down)
    width, height = (
        n * mm for n, mm in zip(np.delete(image.values.shape, axis), (across, down), strict=True)
    )
    size = (max(1, round(width / pixel)), max(1, round(height / pixel)))
    for place in spread(image.values.shape[axis], slices):
        drawn = (
            None if mask is None else resized(draw(mask.values, axis, place), size, smooth=False)
        )
        grey = between(draw(image.values, axis, place), low, high)
        yield Slice(place, resized(grey, size, smooth=True)[..., None], drawn)


def counted(values: np.ndarray, within: np.ndarray | None) -> np.ndarray:
    """The values [n] that statistics are of: those within that are numbers. A copy is made where
    some are left out alone."""
    there = np.isfinite(values) if values.dtype.kind == "f" else None
    if there is not None and there.all():
        there = None
    if within is not None:
        there = within if there is None else there & within
    return np.asarray(values.ravel("K") if there is None else values[there])


def draw(values: np.ndarray, axis: int, place: int) -> np.ndarray:
    """One slice of [x, y, z] as rows and columns of a picture."""
    return np.take(values, place, axis)[::-1, ::-1].T


def resized(picture: np.ndarray, size: tuple[int, int], *, smooth: bool) -> np.ndarray:
    """[h, w] uint8 at another width and height: blended, or the nearest pixel's value."""
    from PIL import Image

    if picture.shape == size[::-1]:
        return np.ascontiguousarray(picture)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, how), np.uint8)


def check_cut(plane: str, slices: int, intensity: str, spacing: float) -> None:
    """DataError where an option of `cut` is none of its choices."""
    check_option("plane", plane, tuple(PLANES))
    check_option("intensity", intensity, METHODS)
    if slices < 0:
        raise DataError(f"the option slices must be >= 0, got {slices}")
    if spacing != 0 and not FINEST_MM <= spacing <= COARSEST_MM:
        raise DataError(
            f"the option spacing must be 0 or from {FINEST_MM} to {COARSEST_MM} mm, got {spacing}"
        )
