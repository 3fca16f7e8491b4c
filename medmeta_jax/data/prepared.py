"""A folder that `medmeta data prepare` has made: a tfds data set over array_record, and its
manifest (`prepare.py`). Every file is held against the manifest's size, and against its checksum
where it is small; large ones carry checksums of their own blocks.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax.data.prepare import (
    FORMAT,
    MANIFEST,
    NAME,
    SPLIT,
    VERSION,
    file_sum,
    prepare,
)
from medmeta_jax.data.records import Box, Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError

BLOCK = 256  # images of a unit
CHECKED_WHOLE = 64 << 20  # bytes; beyond, a file's size is checked and its blocks as they are read


def recognises(source: str) -> bool:
    """A folder with a manifest and the data set that it speaks of."""
    return (Path(source) / MANIFEST).is_file() or (Path(source) / NAME / VERSION).is_dir()


def catalogue(source: str) -> Catalogue:
    """The images in blocks. Raises DataError naming the file that is not as it was written."""
    root = Path(source)
    manifest = read_manifest(root)
    for name, facts in manifest["files"].items():
        check_file(root / name, facts)
    import tensorflow_datasets as tfds

    try:
        stored = tfds.builder_from_directory(root / NAME / VERSION).as_data_source(SPLIT)
    except Exception as error:  # whatever a file that passed its checksum may lead to
        raise DataError(f"{root / NAME}: tfds cannot open it ({error})") from error
    count = manifest["samples"]
    if len(stored) != count:
        raise DataError(f"{root / MANIFEST}: speaks of {count} images, {len(stored)} are stored")
    blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
    split = manifest["split"]
    return Catalogue(
        [
            # An image keeps its name, so that a split file fits what was prepared too.
            Unit(f"{SPLIT}[{b.start}:{b.stop}]", functools.partial(read, stored, b), True)
            for b in blocks
        ],
        about=manifest["about"],
        class_names=tuple(manifest["class_names"]),
        split=split and {side: tuple(names) for side, names in split.items()},
    )


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest, with the fields that reading needs (DataError)."""
    path = root / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["medmeta"] != FORMAT:
            raise DataError(
                f"{path}: of format {manifest['medmeta']}, this version reads {FORMAT}; prepare "
                "the data again"
            )
        kinds = {"samples": int, "about": str, "class_names": list, "files": dict}
        for name, kind in kinds.items():
            if not isinstance(manifest[name], kind):
                raise TypeError(f"{name} is not of type {kind.__name__}")
        for name, facts in manifest["files"].items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise ValueError(f"files: {name} lies elsewhere")
            if not {"bytes", "sha256"} <= facts.keys():
                raise TypeError(f"files: {name} has no size or no checksum")
        if not isinstance(manifest["split"], dict | None):
            raise TypeError("split is not a mapping")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged or missing ({error!r}); prepare the data again") from None
    return manifest


def check_file(path: Path, facts: dict[str, Any]) -> None:
    """DataError where a file is not as the manifest has it."""
    try:
        size = path.stat().st_size
        same = size == facts["bytes"]
        if same and size <= CHECKED_WHOLE:
            same = file_sum(path) == facts["sha256"]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; prepare the data again") from None
    if not same:
        raise DataError(f"{path}: not as it was written; prepare the data again")


def read(stored: Any, places: range) -> list[Record]:
    """The records of a block."""
    return [record_of(stored[place]) for place in places]


def record_of(example: dict[str, Any]) -> Record:
    """An example of `prepare.features` as the record it was made from."""

    def text(value: Any) -> str:
        return bytes(value).decode("utf-8")

    labels = tuple(text(label) for label in example["labels"])
    values = np.asarray(example["values"]).tolist()
    label: Any = labels if example["several"] else labels[0]
    if values:
        label = dict(zip(labels, values, strict=True))
    corners = np.asarray(example["boxes"]).tolist()
    shown = map(text, example["box_labels"])
    depth = int(example["depth"])

    def whole(array: Any) -> np.ndarray:
        flat = np.asarray(array)
        return flat.reshape(depth, -1, *flat.shape[1:]) if depth else flat

    return Record(
        image=whole(example["image"]),
        label=label,
        name=text(example["name"]),
        group=text(example["group"]) if example["has_group"] else None,
        side=text(example["side"]),
        domain=text(example["domain"]) or None,
        modality=text(example["modality"]) or None,
        mask=whole(example["mask"]) if example["has_mask"] else None,
        boxes=tuple(
            Box(x0, y0, x1, y1, label)
            for (x0, y0, x1, y1), label in zip(corners, shown, strict=True)
        ),
    )


def example(where: Path) -> str:
    """Prepare the example of class folders; returns the folder to load it by."""
    from medmeta_jax.data import folder

    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as raw:
        prepare(folder.example(Path(raw) / "images"), where / "prepared")
    return str(where / "prepared")
