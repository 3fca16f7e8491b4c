"""The files that tensorflow-datasets writes into a version's folder, with nothing in them trusted.

    dataset_info.json     name, version, file format; each split's files and how many examples each
    features.json         the fields of an example (`_tfds_fields.py`)
    NAME-SPLIT.array_record-00000-of-00004      examples; or NAME-SPLIT.tfrecord-...

The JSON is read here and not by tfds, which would import whatever code features.json names.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medmeta_jax.data.samples import DataError

INFO, FEATURES = "dataset_info.json", "features.json"
AGAIN = "prepare the data set again"
ARRAY_RECORD = "--file_format=array_record"
LARGEST_TEXT = 64 << 20  # bytes of a file that is read whole
SPLIT = re.compile(r"\w[\w.+-]*")
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
KINDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


class Shard(NamedTuple):
    """A file of a split's examples. kind: its format; first: the place of its first example in
    the split; length: of examples; size: of bytes."""

    path: Path
    split: str
    kind: str
    first: int
    length: int
    size: int


def read_text(path: Path) -> str:
    """A text file that is not too large (DataError)."""
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise DataError(f"{path}: larger than {LARGEST_TEXT} bytes; {AGAIN}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error}); {AGAIN}") from None


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON (DataError)."""
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); {AGAIN}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: must hold one object of JSON; {AGAIN}")
    return found


def get(path: Path, found: Any, key: str, kind: type, default: Any = None) -> Any:
    """A value of JSON by its key, where it is of a kind (DataError)."""
    value = found.get(key, default) if isinstance(found, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{path}: {key} must be {KINDS[kind]}, got {value!r:.60}; {AGAIN}")
    return value


def whole(path: Path, key: str, value: Any) -> int:
    """A whole number, which tfds writes as text (DataError)."""
    try:
        return int(str(value))
    except ValueError:
        raise DataError(f"{path}: {key} must be a number, got {value!r:.60}; {AGAIN}") from None


def kind_of(path: Path, info: dict[str, Any]) -> str:
    """The format of a data set's files, where it can be read here (DataError)."""
    kind: str = get(path, info, "fileFormat", str, "tfrecord")
    if kind not in ("array_record", "tfrecord"):
        raise DataError(f"{path}: files of {kind} are not read; {AGAIN} with {ARRAY_RECORD}")
    if kind == "tfrecord" and importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"{path}: prepared as tfrecord, which needs TensorFlow; {AGAIN} with {ARRAY_RECORD}, "
            "or pip install tensorflow"
        )
    return kind


def list_shards(folder: Path, info: dict[str, Any]) -> dict[str, list[Shard]]:
    """The files of each split, none of them opened. Raises DataError naming what is wrong."""
    path = folder / INFO
    kind = kind_of(path, info)
    found: dict[str, list[Shard]] = {}
    for split in get(path, info, "splits", list):
        name = get(path, split, "name", str)
        if not SPLIT.fullmatch(name) or name in found:
            raise DataError(f"{path}: the split {name!r} has no name of its own; {AGAIN}")
        lengths = get(path, split, "shardLengths", list, [])
        template = get(path, split, "filepathTemplate", str, "") or TEMPLATE
        words = {"DATASET": get(path, info, "name", str), "SPLIT": name, "FILEFORMAT": kind}
        files = list(shard_names(template, words, len(lengths)))
        found[name] = list(shards_of(folder, kind, name, files, lengths))
    expected = {shard.path.name for shards in found.values() for shard in shards}
    if len(expected) < sum(map(len, found.values())):
        raise DataError(f"{path}: gives two files one name; {AGAIN}")
    # Files of other numbers are of another preparation, and may hold the same examples.
    for other in sorted(folder.glob(f"*.{kind}-*")):
        if other.name not in expected:
            raise DataError(f"{other}: {INFO} does not speak of it; remove it, or {AGAIN}")
    return found


def shard_names(template: str, words: dict[str, str], count: int) -> Iterator[str]:
    """The names of a split's files.

    >>> list(shard_names("{SPLIT}-{SHARD_X_OF_Y}", {"SPLIT": "train"}, 2))
    ['train-00000-of-00002', 'train-00001-of-00002']
    """
    digits = max(5, len(str(count)))
    for place in range(count):
        index, total = f"{place:0{digits}d}", f"{count:0{digits}d}"
        own = {"SHARD_INDEX": index, "NUM_SHARDS": total, "SHARD_X_OF_Y": f"{index}-of-{total}"}
        name = template
        for word, value in {**words, **own}.items():
            name = name.replace(f"{{{word}}}", value)
        yield name


def shards_of(
    folder: Path, kind: str, split: str, names: list[str], lengths: list[Any]
) -> Iterator[Shard]:
    """The files of a split in order (DataError)."""
    first = 0
    for name, given in zip(names, lengths, strict=True):
        path = folder / name
        if path.name != name:
            raise DataError(f"{folder / INFO}: the file {name!r} of {split} is no name; {AGAIN}")
        if not path.is_file():
            raise DataError(f"{path}: no such file, and {INFO} speaks of it; {AGAIN}")
        size, length = path.stat().st_size, whole(folder / INFO, "shardLengths", given)
        if not 0 <= length <= size:  # an example takes a byte at least
            raise DataError(
                f"{folder / INFO}: shardLengths: {length} examples in the {size} bytes of {name}; "
                f"{AGAIN}"
            )
        yield Shard(path, split, kind, first, length, size)
        first += length


def read_examples(shard: Shard, first: int, last: int) -> list[bytes]:
    """Some examples of a file as they are stored. Raises DataError naming the file."""
    read = read_array_record if shard.kind == "array_record" else read_tfrecord
    try:
        return read(shard, first, last)
    except Exception as error:  # both libraries raise whatever they like
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{shard.path}: damaged ({reason}); {AGAIN}") from None


def read_array_record(shard: Shard, first: int, last: int) -> list[bytes]:
    """Examples of an array_record file, by place."""
    from array_record.python.array_record_module import ArrayRecordReader

    options = "readahead_buffer_size:0,max_parallelism:0"
    reader = ArrayRecordReader(str(shard.path), options=options)
    # A file that was cut opens with no examples, and would give empty ones.
    count = reader.num_records()
    if count != shard.length:
        raise ValueError(f"it opens with {count} examples, not the {shard.length} of {INFO}")
    found: list[bytes] = reader.read(first, last)
    reader.close()
    return found


def read_tfrecord(shard: Shard, first: int, last: int) -> list[bytes]:
    """Examples of a tfrecord file, read from its beginning: the slower the later they are."""
    tensorflow = importlib.import_module("tensorflow")
    stored = tensorflow.data.TFRecordDataset(str(shard.path)).skip(first)
    # One more than asked for must be there, unless these are the last.
    found = list(itertools.islice(stored.as_numpy_iterator(), last - first + 1))
    if len(found) != last - first + (last < shard.length):
        raise ValueError(f"it holds other than the {shard.length} examples of {INFO}")
    return found[: last - first]


def values_of(example: bytes) -> Mapping[str, list[Any]]:
    """The values of an example's fields: bytes, whole or other numbers. Raises what protobuf does
    where it is none."""
    from tensorflow_datasets.proto import tf_example_pb2

    found = tf_example_pb2.Example.FromString(example).features.feature
    kinds = {name: feature.WhichOneof("kind") for name, feature in found.items()}
    return {name: list(getattr(found[name], kind).value) for name, kind in kinds.items() if kind}
