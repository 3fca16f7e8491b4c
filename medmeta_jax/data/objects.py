"""Objects to be found in images, cells or lesions: a task is one kind of them, in a few images that
show it.

An object is a box. Its kind is what the box is labelled, or where a data set has masks and no boxes
the value of the mask, of which each separate part is an object. Learners mark pixels, so each
object is drawn as an ellipse in the middle of its box, `shrink` as wide and as high as that: boxes
of cells that touch touch too, and what joins on the map cannot be told apart again. Where two
marks meet, the smaller object's stands. What is judged by are the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medmeta_jax.data import sources
from medmeta_jax.data.reading import OnError, all_of, in_memory, read_units
from medmeta_jax.data.records import Record
from medmeta_jax.data.samples import DataError, Samples, fit_image, fitted
from medmeta_jax.data.structures import LEAST

MOST_KINDS = 255  # that a mask of bytes can tell apart


class Objects(NamedTuple):
    """The objects of one image.

    kinds: the kind of each of M. boxes: [M, 2, axes] float64, first corner and last in pixels, the
    last not within.
    """

    kinds: list[str]
    boxes: np.ndarray


def load(source: str, *, image_size: int, shrink: float, on_error: OnError = "fail") -> Samples:
    """Read a data set by name or path with its objects. Raises DataError naming the path and the
    remedy."""
    catalogue = sources.catalogue(source, **sources.of_whole_images(source))

    def small(record: Record) -> tuple[Record, Objects | None]:
        objects = objects_of(record)
        image = fit_image(record.image, image_size)
        if objects is not None:
            boxes = fit_boxes(objects.boxes, record.image.shape[:-1], image_size)
            objects = objects._replace(boxes=boxes)
        return record._replace(image=image, mask=None, boxes=()), objects

    pairs, skipped = all_of(list(read_units(catalogue, small, on_error=on_error)))
    samples = in_memory(catalogue, [record for record, _ in pairs], skipped)
    return with_objects(samples, [objects for _, objects in pairs], shrink=shrink)


def objects_of(record: Record) -> Objects | None:
    """The objects of an image, None where it has neither boxes nor a mask."""
    if record.boxes:
        corners = [[(box.y0, box.x0), (box.y1, box.x1)] for box in record.boxes]
        return Objects([box.label for box in record.boxes], np.asarray(corners, np.float64))
    return None if record.mask is None else parts_of(record.mask)


def parts_of(mask: np.ndarray) -> Objects:
    """The separate parts of each value of a mask [*spatial], which touch at no side or corner;
    those of fewer than `LEAST` pixels are left out.

    >>> parts_of(np.array([[3, 3, 0, 3], [3, 3, 0, 0]], np.uint8)).boxes.tolist()
    [[[0.0, 0.0], [2.0, 2.0]]]
    """
    from scipy.ndimage import find_objects, generate_binary_structure, label

    kinds, boxes, corners = [], [], generate_binary_structure(mask.ndim, mask.ndim)
    for value in np.unique(mask[mask > 0]):
        parts, count = label(mask == value, corners)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        for size, part in zip(sizes, find_objects(parts), strict=True):
            if size >= LEAST:
                kinds.append(str(value))
                boxes.append([[side.start for side in part], [side.stop for side in part]])
    return Objects(kinds, np.asarray(boxes, np.float64).reshape(-1, 2, mask.ndim))


def fit_boxes(boxes: np.ndarray, shape: Sequence[int], image_size: int) -> np.ndarray:
    """Boxes [M, 2, axes] of an image [*shape], where `fit_image` takes it.

    >>> fit_boxes(np.array([[[0.0, 0.0], [10.0, 40.0]]]), (20, 40), 8)[0].tolist()
    [[2.0, 0.0], [4.0, 8.0]]
    """
    sizes, first = fitted(shape, image_size)
    return boxes * (np.asarray(sizes) / np.asarray(shape)) + np.asarray(first)


def with_objects(samples: Samples, found: Sequence[Objects | None], *, shrink: float) -> Samples:
    """The samples with the kinds of their objects as classes, in place of their own.

    found: of each image, in its pixels; shrink: see the module, > 0 and <= 1. Raises DataError
    where there is no object.
    """
    if not 0 < shrink <= 1:
        raise DataError(f"the option shrink must be > 0 and <= 1, got {shrink}")
    if all(one is None for one in found):
        raise DataError(
            f"{samples.about}: its images have neither boxes nor masks, so there is nothing to be "
            "found in them by this task; a folder that was prepared has them if its source had, "
            "and if it was prepared as whole images"
        )
    names = tuple(sorted({kind for one in found if one for kind in one.kinds}))
    if not names or len(names) > MOST_KINDS:
        what = "no image shows an object" if not names else f"has {len(names)} kinds of objects"
        raise DataError(f"{samples.about}: {what}; 1 to {MOST_KINDS} kinds are needed")
    axes, spatial = samples.images.ndim - 2, samples.images.shape[1:-1]
    most = max(len(one.kinds) for one in found if one)
    boxes = np.full((len(found), most, 2, axes), np.nan, np.float32)
    kinds = np.zeros((len(found), most), np.uint8)
    masks = np.zeros((len(found), *spatial), np.uint8)
    for place, one in enumerate(found):
        if one is not None:
            count = len(one.kinds)
            kinds[place, :count] = [names.index(kind) + 1 for kind in one.kinds]
            boxes[place, :count] = one.boxes
            draw(masks[place], one.boxes, kinds[place, :count], shrink)
    marks = np.arange(1, len(names) + 1, dtype=np.uint8)
    return samples._replace(
        labels=(kinds[:, :, None] == marks).any(1),
        class_names=names,
        split=None,
        masks=masks,
        marks=marks,
        boxes=boxes,
        kinds=kinds,
    )


def draw(mask: np.ndarray, boxes: np.ndarray, values: np.ndarray, shrink: float) -> None:
    """Write into a mask [*spatial] the ellipse of each box [M, 2, axes], by its value, the largest
    first. The pixel at a box's middle is always marked."""
    order = np.argsort(-(boxes[:, 1] - boxes[:, 0]).prod(-1), kind="stable")
    for place in order:
        middle, half = boxes[place].mean(0), shrink * (boxes[place, 1] - boxes[place, 0]) / 2
        grids = np.ogrid[tuple(slice(0, size) for size in mask.shape)]
        off = sum(((g + 0.5 - m) / h) ** 2 for g, m, h in zip(grids, middle, half, strict=True))
        mask[off <= 1] = values[place]
        mask[tuple(np.minimum(middle.astype(int), np.asarray(mask.shape) - 1))] = values[place]
