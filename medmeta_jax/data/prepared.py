"""A folder that `medmeta data prepare` has made: a tfds data set over array_record, and its
manifest (`prepare.py`). Every file is held against the manifest's size, and against its checksum
where it is small; large ones carry checksums of their own blocks.

Records are decoded here and not by tfds, which takes ten times as long over one. A folder that is
opened by `open_samples` keeps its images in its files (`stored.py`): they are read twice, a few at
a time, for what splitting asks of them and for their hash, and then as they are needed.
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
from medmeta_jax.data.reading import (
    OnError,
    Read,
    all_of,
    masks_of,
    read_units,
    samples_of,
)
from medmeta_jax.data.records import Box, Catalogue, Record, Unit
from medmeta_jax.data.samples import (
    DataError,
    Samples,
    fit_image,
    fit_mask,
    require_one_rank,
)
from medmeta_jax.data.stored import Looks, StoredImages, joined_looks, look

BLOCK = 64  # images of a unit
CHECKED_WHOLE = 64 << 20  # bytes; beyond, a file's size is checked and its blocks as they are read
NO_IMAGE = np.empty((0, 0, 1), np.uint8)  # of a record whose image has been looked at


def recognises(source: str) -> bool:
    """A folder with a manifest and the data set that it speaks of."""
    return (Path(source) / MANIFEST).is_file() or (Path(source) / NAME / VERSION).is_dir()


def catalogue(source: str) -> Catalogue:
    """The images in blocks. Raises DataError naming the file that is not as it was written."""
    root = Path(source)
    manifest = read_manifest(root)
    for name, facts in manifest["files"].items():
        check_file(root / name, facts)
    stored = open_records(root)
    count = manifest["samples"]
    if len(stored) != count:
        raise DataError(f"{root / MANIFEST}: speaks of {count} images, {len(stored)} are stored")
    split = manifest["split"]
    return Catalogue(
        [
            # An image keeps its name, so that a split file fits what was prepared too.
            Unit(f"{SPLIT}[{b.start}:{b.stop}]", functools.partial(read, stored, b), True)
            for b in blocks(count)
        ],
        about=manifest["about"],
        class_names=tuple(manifest["class_names"]),
        split=split and {side: tuple(names) for side, names in split.items()},
    )


def blocks(count: int) -> list[range]:
    """The places of each unit's images."""
    return [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]


def open_records(root: Path) -> Any:
    """tfds' source of the stored examples; its `data_source` has them in bytes (DataError)."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(root / NAME / VERSION).as_data_source(SPLIT)
    except Exception as error:  # whatever a file that passed its checksum may lead to
        raise DataError(f"{root / NAME}: tfds cannot open it ({error})") from error


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
    return [record_of(data) for data in stored.data_source.__getitems__(list(places))]


def fields_of(data: bytes) -> Any:
    """An example's fields by name, as tfds stores those of `prepare.features`."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(data).features.feature


def array_of(fields: Any, name: str) -> np.ndarray:
    """A field of several unknown axes, uint8; with the axis of its depth where it has one."""
    value = fields[f"{name}/value"].bytes_list.value[0]
    flat = np.frombuffer(value, np.uint8).reshape(tuple(fields[f"{name}/shape"].int64_list.value))
    depth = int(fields["depth"].int64_list.value[0])
    return flat.reshape(depth, -1, *flat.shape[1:]) if depth else flat


def record_of(data: bytes) -> Record:
    """A stored example as the record it was made from; raises whatever damage leads to."""
    fields = fields_of(data)

    def texts(name: str) -> tuple[str, ...]:
        return tuple(value.decode("utf-8") for value in fields[name].bytes_list.value)

    def text(name: str) -> str:
        return texts(name)[0]

    def flag(name: str) -> bool:
        return bool(fields[name].int64_list.value[0])

    time = fields["time"].float_list.value[0]
    labels, values = texts("labels"), list(fields["values"].float_list.value)
    label: Any = labels if flag("several") else labels[0]
    if values:
        label = dict(zip(labels, values, strict=True))
    corners = np.frombuffer(fields["boxes"].bytes_list.value[0], np.float32).reshape(-1, 4)
    return Record(
        image=array_of(fields, "image"),
        label=label,
        name=text("name"),
        group=text("group") if flag("has_group") else None,
        side=text("side"),
        domain=text("domain") or None,
        modality=text("modality") or None,
        place=text("place"),
        time=None if np.isnan(time) else time,
        mask=array_of(fields, "mask") if flag("has_mask") else None,
        boxes=tuple(
            Box(x0, y0, x1, y1, label)
            for (x0, y0, x1, y1), label in zip(corners.tolist(), texts("box_labels"), strict=True)
        ),
    )


class PreparedImages:
    """The images of a prepared folder, or their masks, at one size; a `stored.Reader`."""

    def __init__(self, root: Path, image_size: int, *, masks: bool = False) -> None:
        self.root, self.image_size, self.masks = root, image_size, masks
        stored = open_records(root)
        self.records = stored.data_source
        files = stored.dataset_info.splits[SPLIT].file_instructions
        self.files = [Path(file.filename).name for file in files]
        self.ends = np.cumsum([file.take for file in files])

    def read(self, places: np.ndarray) -> list[np.ndarray]:
        """The images at some places, of which each may have channels of its own (DataError)."""
        try:
            return [self.image_of(data) for data in self.records.__getitems__(places.tolist())]
        except Exception as error:  # whatever array_record or damaged bytes lead to
            raise DataError(f"{self.root}: {self.problem(places) or error}") from error

    def image_of(self, data: bytes) -> np.ndarray:
        """A stored example's image or mask, made small."""
        if self.masks:
            return fit_mask(array_of(fields_of(data), "mask"), self.image_size)[..., None]
        return fit_image(array_of(fields_of(data), "image"), self.image_size)

    def problem(self, places: np.ndarray) -> str:
        """Which of the images cannot be read, and why; "" where each of them can, alone."""
        for place in places.tolist():
            try:
                self.image_of(self.records[place])
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                name = self.files[int(np.searchsorted(self.ends, place, side="right"))]
                file = f"{name}: image {place}"
                return f"{file} cannot be read ({reason}); prepare the data again"
        return ""


def image_bytes(source: str, image_size: int, *, masks: bool = False) -> int:
    """Bytes of all images of a folder, made small, with their masks where asked for, by its
    manifest (DataError)."""
    manifest = read_manifest(Path(source))
    # Manifests did not always say it.
    channels, axes = manifest.get("channels", 3), manifest.get("axes", 2)
    return int(manifest["samples"]) * image_size ** int(axes) * (int(channels) + masks)


def open_samples(
    source: str, *, image_size: int, on_error: OnError = "fail", masks: bool = False
) -> Samples:
    """A folder's samples as `sources.load` gives them, with their images (and masks) left in its
    files.

    Memory holds what is known of each image but its pixels. Raises DataError naming the file.
    """
    listed = catalogue(source)

    def seen(record: Record) -> tuple[Record, tuple[int, ...], Looks]:
        image = fit_image(record.image, image_size)
        looks = look([image])
        mask = None if record.mask is None else NO_IMAGE
        return record._replace(image=NO_IMAGE, mask=mask, boxes=()), image.shape, looks

    reads: list[Read] = []
    places: list[int] = []
    shapes: list[tuple[int, ...]] = []
    looks: list[Looks] = []
    for unit, found in zip(
        blocks(BLOCK * len(listed.units)), read_units(listed, seen, on_error=on_error), strict=True
    ):
        reads.append(found._replace(records=[record for record, *_ in found.records]))
        places += unit[: len(found.records)]
        require_one_rank((record.name, len(shape)) for record, shape, _ in found.records)
        shapes += [shape for _, shape, _ in found.records]
        if found.records and len(set(shapes)) == 1:
            looks.append(joined_looks([one for *_, one in found.records]))
    # Of one number of axes, they differ in channels alone.
    most = max(shapes, default=(image_size, image_size, 1))
    where = np.zeros(len(places), np.int32), np.asarray(places, np.int64)
    # Where some are to be made colour, what was seen of them is of other pixels.
    seen_of_all = joined_looks(looks) if len(set(shapes)) == 1 else None
    reader = PreparedImages(Path(source), image_size)
    images = StoredImages((reader,), *where, most, looks=seen_of_all)
    records, skipped = all_of(reads)
    samples = samples_of(listed, records, images, skipped)
    if not masks:
        return samples
    masks_of(records, listed)
    reader = PreparedImages(Path(source), image_size, masks=True)
    return samples._replace(masks=StoredImages((reader,), *where, (*most[:-1], 1)))


def example(where: Path) -> str:
    """Prepare the example of class folders; returns the folder to load it by."""
    from medmeta_jax.data import folder

    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as raw:
        prepare(folder.example(Path(raw) / "images"), where / "prepared")
    return str(where / "prepared")
