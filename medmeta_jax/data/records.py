"""What a source of data gives before anything is scaled or stacked: records, a file at a time.

A source's `catalogue` lists its units (a file, a series, an archive) without reading their
pixels; a unit's `read` gives its records. So everything that goes through data, loading,
preparing, inspecting, goes through units, in parallel and in bounded memory, and one damaged
unit can be named or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data.samples import DataError

# Files that stand beside images and hold none; LICENSE and README have no suffix at times.
TEXT_SUFFIXES = {".csv", ".tsv", ".json", ".txt", ".md", ".xml", ".yaml", ".yml", ".html", ".pdf"}
TEXT_NAMES = {"LICENSE", "LICENCE", "README", "CHANGES", "DICOMDIR"}


class Box(NamedTuple):
    """A rectangle of an image, in its pixels, the upper ends not included, and what it shows."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str


class Record(NamedTuple):
    """One image and what is known of it.

    image: [H, W, 1 or 3] uint8, of its own size, or a volume [D, H, W, 1 or 3], its slices drawn as
        pictures are; intensities of other kinds have been windowed.
    label: its class; or the several labels that it shows, or none: a tuple; or what was measured
        of it, by name: a mapping to numbers.
    name: which of its unit's it is, such as "z=12"; "" for the only one.
    group: what it shares with others that may not stand across from it: its patient.
    side: "train" or "test" where the data set's own folders or lists say so, else "".
    domain, modality: where it comes from, and how it was taken ("t1", "ct").
    mask: [H, W] or [D, H, W] uint8, 0 for the background, or None.
    boxes: of what can be seen in it; of pictures alone.
    place: what of its group it shows, such as "axial=12", where that is the same in all modalities;
        else "".
    time: when it was taken, by which images of a group are ordered; or None.
    """

    image: np.ndarray
    label: str | tuple[str, ...] | Mapping[str, float]
    name: str = ""
    group: str | None = None
    side: str = ""
    domain: str | None = None
    modality: str | None = None
    mask: np.ndarray | None = None
    boxes: tuple[Box, ...] = ()
    place: str = ""
    time: float | None = None


class Unit(NamedTuple):
    """What is read at once. name: as messages and manifests call it, a path below the source's
    own; read: () -> its records, in a fixed order, or DataError naming the file; whole_names:
    its records' names are theirs among all, and not their places in it."""

    name: str
    read: Callable[[], list[Record]]
    whole_names: bool = False


class Catalogue(NamedTuple):
    """A data set by its units, in a fixed order.

    class_names: in label order, where the data set says it (grades); else sorted by name.
    split: class names by side, where the data set fixes it: {"train", "val", "test"}.
    about: one line that says what the data is, for tables and reports.
    """

    units: Sequence[Unit]
    about: str
    class_names: tuple[str, ...] | None = None
    split: dict[str, tuple[str, ...]] | None = None


def scaled_box(box: Box, x: float, y: float) -> Box:
    """A box of an image that was made `x` times as wide and `y` times as high.

    >>> scaled_box(Box(1, 2, 3, 4, "nodule"), 2.0, 0.5)
    Box(x0=2.0, y0=1.0, x1=6.0, y1=2.0, label='nodule')
    """
    return Box(box.x0 * x, box.y0 * y, box.x1 * x, box.y1 * y, box.label)


def labels_of(record: Record) -> tuple[str, ...]:
    """A record's labels, one or several; of what was measured, the names."""
    return (record.label,) if isinstance(record.label, str) else tuple(record.label)


def full_name(unit: Unit, record: Record) -> str:
    """What a record is called among all: its unit, and its place in it where there are several."""
    if unit.whole_names:
        return record.name
    return f"{unit.name}[{record.name}]" if record.name else unit.name


def checked(unit: Unit, records: list[Record]) -> list[Record]:
    """The records of a unit, or DataError where one is not as `Record` says."""

    def refuse(record: Record, what: Any) -> None:
        raise DataError(f"{full_name(unit, record)}: {what}; repair or remove it")

    for record in records:
        image, mask = record.image, record.mask
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] not in (1, 3):
            refuse(
                record,
                "an image must be uint8 [H, W, 1|3] or [D, H, W, 1|3], got "
                f"{image.dtype} {image.shape}",
            )
        if not image.size:
            refuse(record, f"an image of no pixels, {image.shape}")
        if mask is not None and (mask.dtype != np.uint8 or mask.shape != image.shape[:-1]):
            refuse(record, f"a mask of {mask.dtype} {mask.shape} on an image {image.shape}")
        if record.boxes and image.ndim == 4:
            refuse(record, f"boxes, which are of pictures, on a volume {image.shape}")
    return records
