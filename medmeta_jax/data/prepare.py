"""`data prepare`: any source read once, in parallel, into a folder that is quick to open.

The folder holds a data set in tensorflow-datasets' own layout over array_record, so that
`tfds.builder("medmeta_images", data_dir=FOLDER)` opens it without this package, and a manifest:
what it was made from and how, counts, what was left out, a checksum of every file. It is written
beside its place and put there whole: what was killed half-way is never read, and is removed by
the next attempt. The same source and options give the same bytes. Memory holds a few units of
the source at a time, whatever the size of the whole.

Why not through a tfds builder's own `download_and_prepare`: its examples are serialised in an
order that changes from one process to the next, and without shuffling it gathers the whole set in
memory before the first file is written (tensorflow-datasets 4.9.10).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax.data import sources
from medmeta_jax.data._tf_example import serialiser
from medmeta_jax.data.reading import SKIP_AT_MOST, OnError, read_units
from medmeta_jax.data.records import Catalogue, Record, labels_of, scaled_box
from medmeta_jax.data.samples import DataError, zoomed

NAME, VERSION, SPLIT = "medmeta_images", "1.0.0", "images"
FORMAT = 3  # of the manifest and of the fields of an example
MANIFEST = "manifest.json"
SHARD_BYTES = 256 << 20
FILES = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"  # how many there will be is not known


def prepare(
    source: str,
    out: Path,
    *,
    image_size: int = 0,
    on_error: OnError = "fail",
    skip_at_most: float = SKIP_AT_MOST,
    options: Mapping[str, Any] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Read a source into the folder `out`; its manifest. Raises DataError.

    Args:
      image_size: longer sides above it are scaled down to so many pixels; 0 keeps all as they are.
      options: keyword arguments of the source's `catalogue`.
      advance: told how many units of how many are done.

    A folder that the same call has made before is left as it is.
    """
    asked = {
        "medmeta": FORMAT,
        "source": Path(source).name,
        "kind": sources.find(source),
        "options": dict(options or {}),
        "image_size": image_size,
    }
    if out.exists():
        return made_before(out, asked)
    catalogue = sources.catalogue(source, **(options or {}))
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        inside = partial / NAME / VERSION
        inside.mkdir(parents=True)
        counts = Counts()
        reads = read_units(
            catalogue,
            lambda record: within(record, image_size),
            on_error=on_error,
            skip_at_most=skip_at_most,
        )

        def records() -> Iterator[Record]:
            for place, read in enumerate(reads, 1):
                if read.problem:
                    counts.skipped.append({"name": read.unit.name, "reason": read.problem})
                for record in read.records:
                    counts.add(record)
                    yield record
                advance(place, len(catalogue.units))

        write_data_set(inside, records(), catalogue.about)
        manifest = {**asked, **counts.facts(catalogue), "files": sums(partial)}
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def made_before(out: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a folder that is there, where it was made in the same way (DataError)."""
    try:
        found: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{out}: is there and holds no prepared data set; give another") from None
    differ = [name for name, value in asked.items() if found.get(name) != value]
    if differ:
        raise DataError(
            f"{out}: holds a data set that was prepared otherwise ({', '.join(differ)} differ); "
            "give another folder, or remove it"
        )
    return found


class Counts:
    """What the manifest says of the records, gathered as they go by."""

    def __init__(self) -> None:
        self.samples = 0
        self.channels, self.axes = 1, 2
        self.classes: Counter[str] = Counter()
        self.groups: set[str] = set()
        self.modalities: Counter[str] = Counter()
        self.masks = 0
        self.boxes = 0
        self.skipped: list[dict[str, str]] = []

    def add(self, record: Record) -> None:
        """One more."""
        self.samples += 1
        self.channels = max(self.channels, record.image.shape[-1])
        self.axes = record.image.ndim - 1
        self.classes.update(labels_of(record))
        self.groups |= set() if record.group is None else {record.group}
        self.modalities.update([record.modality] if record.modality else [])
        self.masks += record.mask is not None
        self.boxes += len(record.boxes)

    def facts(self, catalogue: Catalogue) -> dict[str, Any]:
        """As JSON can hold them. Raises DataError where there is nothing."""
        if not self.samples:
            raise DataError(f"{catalogue.about}: holds no images")
        return {
            "about": catalogue.about,
            "class_names": list(catalogue.class_names or sorted(self.classes)),
            "split": catalogue.split,
            "samples": self.samples,
            "channels": self.channels,
            "axes": self.axes,
            "classes": dict(sorted(self.classes.items())),
            "groups": len(self.groups) or None,
            "modalities": dict(sorted(self.modalities.items())) or None,
            "masks": self.masks,
            "boxes": self.boxes,
            "skipped": self.skipped,
        }


def within(record: Record, image_size: int) -> Record:
    """The record with its longest side at most `image_size`; mask and boxes with it. An image of
    one or two pixels has each of them drawn as four (of a volume, eight)."""
    sizes = record.image.shape[:-1]
    longest = max(sizes)
    if math.prod(sizes) < 3:  # tfds cannot read an array back that has fewer bytes than axes
        new = [2 * size for size in sizes]
    elif image_size and longest > image_size:
        scale = image_size / longest
        new = [max(1, round(size * scale)) for size in sizes]
    else:
        return record
    image = zoomed(record.image, new, smooth=True)
    mask = record.mask
    if mask is not None:
        mask = zoomed(mask[..., None], new, smooth=False)[..., 0]
    y, x = (after / before for after, before in zip(new[-2:], sizes[-2:], strict=True))
    boxes = tuple(scaled_box(box, x, y) for box in record.boxes)
    return record._replace(image=image, mask=mask, boxes=boxes)


def features() -> Any:
    """The fields of an example, in tfds' terms.

    Its arrays have a fixed number of axes: the slices of a volume stand below each other, `depth`
    of them (0 for a picture), in the mask too.
    """
    import tensorflow_datasets as tfds

    def text() -> Any:
        return tfds.features.Text()

    def array(shape: tuple[int | None, ...], dtype: Any) -> Any:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    return tfds.features.FeaturesDict(
        {
            "image": array((None, None, None), np.uint8),
            "depth": tfds.features.Scalar(np.int64),
            "labels": tfds.features.Sequence(text()),
            "several": tfds.features.Scalar(np.bool_),
            "values": tfds.features.Sequence(tfds.features.Scalar(np.float32)),
            "name": text(),
            "has_group": tfds.features.Scalar(np.bool_),
            "group": text(),
            "side": text(),
            "domain": text(),
            "modality": text(),
            "place": text(),
            "time": tfds.features.Scalar(np.float32),
            "has_mask": tfds.features.Scalar(np.bool_),
            "mask": array((None, None), np.uint8),
            "boxes": array((None, 4), np.float32),
            "box_labels": tfds.features.Sequence(text()),
        }
    )


def example_of(record: Record) -> dict[str, Any]:
    """A record in the fields of `features`."""
    image, mask = record.image, record.mask
    return {
        "image": image.reshape(-1, *image.shape[-2:]),
        "depth": len(image) if image.ndim == 4 else 0,
        "labels": list(labels_of(record)),
        "several": isinstance(record.label, tuple),
        # One for each label, where labels are what was measured.
        "values": list(record.label.values()) if isinstance(record.label, Mapping) else [],
        "name": record.name,
        "has_group": record.group is not None,
        "group": record.group or "",
        "side": record.side,
        "domain": record.domain or "",
        "modality": record.modality or "",
        "place": record.place,
        "time": np.nan if record.time is None else record.time,
        "has_mask": mask is not None,
        # No less: see `within`.
        "mask": np.zeros((1, 2), np.uint8) if mask is None else mask.reshape(-1, mask.shape[-1]),
        "boxes": np.asarray([b[:4] for b in record.boxes], np.float32).reshape(-1, 4),
        "box_labels": [b.label for b in record.boxes],
    }


def write_data_set(inside: Path, records: Iterator[Record], about: str) -> None:
    """Write the records as array_record files of at most about `SHARD_BYTES`, and tfds' account."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.dataset_info import DatasetIdentity

    known = features()
    serialised = serialiser(known)
    template = tfds.core.ShardedFileTemplate(
        inside, template=FILES, dataset_name=NAME, split=SPLIT, filetype_suffix="array_record"
    )
    lengths: list[int] = []
    total = shard = 0
    writer = None
    for record in records:
        if writer is None or shard >= SHARD_BYTES:
            if writer is not None:
                writer.close()
            path = template.sharded_filepath(shard_index=len(lengths), num_shards=None)
            writer, shard = ArrayRecordWriter(str(path), "group_size:1"), 0
            lengths.append(0)
        data = serialised(example_of(record))
        writer.write(data)
        lengths[-1] += 1
        shard, total = shard + len(data), total + len(data)
    if writer is not None:
        writer.close()
    identity = DatasetIdentity(
        name=NAME, version=tfds.core.Version(VERSION), data_dir=str(inside), module_name=NAME
    )
    info = tfds.core.DatasetInfo(
        builder=identity, description=about, features=known, disable_shuffling=True,
        split_dict=tfds.core.SplitDict(
            [tfds.core.SplitInfo(SPLIT, lengths, total, filename_template=template)]
        ),
    )  # fmt: skip
    info.set_file_format("array_record")
    info.write_to_directory(inside)


def sums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = path.relative_to(folder).as_posix()
        found[inside] = {"bytes": path.stat().st_size, "sha256": file_sum(path)}
    return found


def file_sum(path: Path) -> str:
    """The SHA-256 of a file, in bounded memory."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
