"""Volumes: NIfTI files read with nibabel, turned to one orientation, and resampled.

Axes of a volume run from the patient's left to the right, from posterior to anterior, from
inferior to superior (RAS+).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data.samples import DataError

SUFFIXES = (".nii.gz", ".nii")
MOST_VOXELS = 2**30  # 4 GB as float32
FINEST_MM, COARSEST_MM = 0.01, 100.0  # of voxels
BLUR_ENDS = 4.0  # deviations from the middle of a Gaussian
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


def resampled(volume: Volume, spacing: float, *, mask: bool = False) -> Volume:
    """A volume at isotropic voxels of `spacing` mm along its own axes: float32, or a mask's uint8.

    The new grid has the old one's centre and, to half a new voxel, its extent; see `sampled`.
    Raises DataError where it would be too large.
    """
    first, steps, shape = grid_of(volume, spacing)
    if np.prod(shape, dtype=float) > MOST_VOXELS:
        raise DataError(
            f"{volume.path}: would be of {shape.tolist()} voxels at {spacing:g} mm; give a larger "
            "spacing"
        )
    values = sampled(volume.values, first, steps, shape.tolist(), mask=mask)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    affine[:3, :3] *= steps
    return Volume(volume.path, values, affine)


def grid_of(volume: Volume, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Isotropic voxels of `spacing` mm over a volume: the first one's place and the steps, both in
    the volume's voxels, and how many there are, [3] each."""
    steps = spacing / volume.spacing
    old = np.asarray(volume.values.shape)
    new = np.maximum(1, np.round(old / steps)).astype(int)
    return (old - 1) / 2 - steps * (new - 1) / 2, steps, new


def sampled(
    values: np.ndarray,
    first: np.ndarray,
    steps: np.ndarray,
    shape: Sequence[int],
    *,
    mask: bool = False,
    fill: float | None = None,
) -> np.ndarray:
    """Values [x, y, z] read at `shape` places, from `first` on in steps, both in voxels: float32,
    or a mask's labels.

    Linearly between voxels. Along an axis whose step is above one voxel the values are blurred
    first, so that nothing between two places is passed over: by the Gaussian that makes a point
    spread of one voxel's width one step wide (full widths at half maximum; Cardoso et al., MICCAI
    2015). Of a mask, the nearest voxel's label. Beyond the outermost voxels their values go on.

    Args:
      fill: stands in for what is not a number; None: whatever it has a part in is none either.
    """
    from scipy.ndimage import gaussian_filter1d

    deviations = np.sqrt(np.maximum(steps**2 - 1, 0) / (8 * math.log(2)))
    margins = 1 + np.ceil(BLUR_ENDS * deviations).astype(int)
    last = first + steps * (np.asarray(shape) - 1)
    start = np.clip(np.floor(first) - margins, 0, np.asarray(values.shape) - 1).astype(int)
    stop = np.clip(np.ceil(last) + margins + 1, start + 1, values.shape).astype(int)
    found = values[tuple(map(slice, start, stop))]
    if not mask:
        found = found.astype(np.float32)
    if fill is not None:
        found = np.where(np.isfinite(found), found, np.float32(fill))
    for axis, (begin, step, size) in enumerate(zip(first - start, steps, shape, strict=True)):
        places = np.clip(begin + step * np.arange(size), 0, found.shape[axis] - 1)
        if mask:
            found = np.take(found, np.rint(places).astype(int), axis)
            continue
        if deviations[axis]:
            found = gaussian_filter1d(
                found, deviations[axis], axis, mode="nearest", truncate=BLUR_ENDS
            )
        below, above = (to_whole(places).astype(int) for to_whole in (np.floor, np.ceil))
        share = (places - below).astype(np.float32)
        share = share.reshape(-1, *(1,) * (2 - axis))
        found = np.take(found, below, axis) * (1 - share) + np.take(found, above, axis) * share
    return found
