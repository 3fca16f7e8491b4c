"""What volumes are cut into: slices, or cubes around what a mask shows.

Both are drawn as radiologists see them: the front or the head is up, and the patient's right is on
the left; in sagittal slices the front is on the left. A cube is a stack of such slices in the order
of the volume's axis: of axial ones, from the feet to the head.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data._tables import check_option
from medmeta_jax.data._volumes import COARSEST_MM, FINEST_MM, Volume, grid_of, sampled
from medmeta_jax.data.intensity import METHODS, between, limits
from medmeta_jax.data.samples import DataError

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # by the axis that they are cut along
MIDDLE = 0.8  # of a volume's depth: its ends mostly show little
LARGEST_MM, LARGEST_EDGE = 1000.0, 256  # of a cube: in mm, and in voxels, which take 16 MB
TOUCHING = np.ones((3, 3, 3), int)  # voxels of one component share a face, an edge or a corner


class Piece(NamedTuple):
    """place: of a slice along the axis that was cut, or a patch's number; image: [h, w, 1] or
    [d, h, w, 1] uint8; mask: [h, w] or [d, h, w] uint8, or None."""

    place: int
    image: np.ndarray
    mask: np.ndarray | None


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
    patches: int = 0, edge: float = 32.0, within: np.ndarray | None = None,
) -> Iterator[Piece]:  # fmt: skip
    """The slices of a volume and of its mask, their pixels square; or cubes of isotropic voxels.

    Args:
      plane: one of `PLANES`.
      slices: how many; 0 for all.
      intensity: a method of `intensity.METHODS`, of the whole volume.
      spacing: of the pixels or voxels, in mm; 0: the finest of the plane's two, or of all three.
      patches: how many cubes at most, in place of slices; see `middles`.
      edge: of a cube, in mm.
      within: bool [x, y, z], which voxels the intensity's statistics are of; all by default.
    """
    try:
        low, high = limits(counted(image.values, within), intensity)
    except ValueError as error:
        raise DataError(f"{image.path}: {error}") from None
    if patches:
        yield from cubes(image, mask, low, high, plane, patches, edge, spacing)
        return
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
        yield Piece(place, resized(grey, size, smooth=True)[..., None], drawn)


def about(how: Mapping[str, Any]) -> str:
    """What `cut` gives with these arguments, for tables."""
    return "3-D patches" if how["patches"] else f"{how['plane']} slices"


def cubes(
    image: Volume, mask: Volume | None, low: float, high: float, plane: str, patches: int,
    edge: float, spacing: float,
) -> Iterator[Piece]:  # fmt: skip
    """Cubes of the volume resampled to isotropic voxels, of which no more is computed than they
    hold. Each one's middle is the voxel of that grid that is nearest to where it should be; a cube
    is never moved to fit: what lies beyond the volume is 0. Values between `low` and `high`.
    """
    voxel = spacing or float(image.spacing.min())
    size = max(1, round(edge / voxel))
    if size > LARGEST_EDGE:
        raise DataError(
            f"{image.path}: a patch of {edge:g} mm would be of {size} voxels of {voxel:g} mm an "
            f"edge, more than {LARGEST_EDGE}; lower the option edge, or raise spacing"
        )
    first, steps, shape = grid_of(image, voxel)
    axis = PLANES[plane]
    for number, middle in enumerate(middles(image, mask, patches)):
        at = np.clip((middle - first) / steps, 0, shape - 1)
        corner = first + steps * np.ceil(at - size / 2)
        grey = cube(image.values, corner, steps, size, low, high)
        labels = None if mask is None else cube(mask.values, corner, steps, size)
        yield Piece(
            number,
            stacked(grey, axis)[..., None],
            None if labels is None else stacked(labels, axis),
        )


def cube(
    values: np.ndarray, corner: np.ndarray, steps: np.ndarray, size: int, low: float | None = None,
    high: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Values [x, y, z] at so many places along each axis, from `corner` on in steps, in voxels:
    [size, size, size] uint8, by `between`, or of a mask where no `low` is given; 0 outside."""
    made = np.zeros((size, size, size), np.uint8)
    outer = np.asarray(values.shape) - 0.5  # the edge of the last voxel; that of the first is -0.5
    begin = np.clip(np.ceil((-0.5 - corner) / steps), 0, size).astype(int)
    end = np.clip(np.floor((outer - corner) / steps) + 1, 0, size).astype(int)
    if (begin < end).all():
        mask = low is None
        part = sampled(values, corner + steps * begin, steps, end - begin, mask=mask, fill=low)
        made[tuple(map(slice, begin, end))] = part if low is None else between(part, low, high)
    return made


def middles(image: Volume, mask: Volume | None, patches: int) -> list[np.ndarray]:
    """Where patches are centred, [3] in voxels each: on the mean place of each connected component
    of the mask, the largest first; without a mask, or where it is empty, on a grid over the middle
    80 percent of each axis, evenly."""
    if mask is None or not mask.values.any():
        return evenly(np.asarray(image.values.shape), image.spacing, patches)
    from scipy import ndimage

    components, _ = ndimage.label(mask.values > 0, TOUCHING)
    sizes = np.bincount(components.ravel())[1:]
    boxes = ndimage.find_objects(components)
    found = []
    for place in np.argsort(-sizes, kind="stable")[:patches].tolist():
        inside = components[boxes[place]] == place + 1
        along = (inside.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3))
        means = [np.average(np.arange(len(counts)), weights=counts) for counts in along]
        found.append(np.asarray([box.start for box in boxes[place]]) + means)
    return found


def evenly(shape: np.ndarray, spacing: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` places in voxels, [3] each, over the middle 80 percent of each axis: of the coarsest
    grid that has so many, its cells as nearly cubes as can be; picked evenly among its places.

    >>> [place.round(1).tolist() for place in evenly(np.array([11, 3, 3]), np.ones(3), 2)]
    [[2.8, 1.0, 1.0], [7.2, 1.0, 1.0]]
    """
    cells = np.ones(3, int)
    while cells.prod() < count:
        cells[np.argmax(shape * spacing / cells)] += 1
    axes = [
        size * ((1 - MIDDLE) / 2 + MIDDLE * (np.arange(n) + 0.5) / n) - 0.5
        for size, n in zip(shape, cells, strict=True)
    ]
    places = [np.asarray(place) for place in itertools.product(*axes)]
    return [places[int((i + 0.5) * len(places) / count)] for i in range(count)]


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


def undrawn(picture: np.ndarray) -> np.ndarray:
    """What `draw` was of, [h, w] as a slice of [x, y, z] along the axis.

    >>> volume = np.arange(24).reshape(2, 3, 4)
    >>> bool((undrawn(draw(volume, 1, 2)) == volume[:, 2]).all())
    True
    """
    return picture.T[::-1, ::-1]


def stacked(values: np.ndarray, axis: int) -> np.ndarray:
    """All slices of [x, y, z] along an axis, as `draw` gives each: [d, h, w]."""
    slices = np.moveaxis(values, axis, 0)
    return np.ascontiguousarray(slices[:, ::-1, ::-1].transpose(0, 2, 1))


def resized(picture: np.ndarray, size: tuple[int, int], *, smooth: bool) -> np.ndarray:
    """[h, w] uint8 at another width and height: blended, or the nearest pixel's value."""
    from PIL import Image

    if picture.shape == size[::-1]:
        return np.ascontiguousarray(picture)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, how), np.uint8)


def check_cut(
    *, plane: str, slices: int, intensity: str, spacing: float, patches: int, edge: float
) -> None:
    """DataError where an option of `cut` is none of its choices."""
    check_option("plane", plane, tuple(PLANES))
    check_option("intensity", intensity, METHODS)
    if slices < 0:
        raise DataError(f"the option slices must be >= 0, got {slices}")
    if patches < 0:
        raise DataError(f"the option patches must be >= 0, got {patches}")
    if not FINEST_MM <= edge <= LARGEST_MM:
        raise DataError(f"the option edge must be from {FINEST_MM} to {LARGEST_MM} mm, got {edge}")
    if spacing != 0 and not FINEST_MM <= spacing <= COARSEST_MM:
        raise DataError(
            f"the option spacing must be 0 or from {FINEST_MM} to {COARSEST_MM} mm, got {spacing}"
        )
