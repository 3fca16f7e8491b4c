"""Any data set that tensorflow-datasets has prepared; the medical ones of its catalogue by name.

    DATA_DIR/NAME/VERSION/           the folder of a version, which holds dataset_info.json
    DATA_DIR/NAME/CONFIG/VERSION/    where a data set comes in several configurations

By path: a version's folder, or one above it; then the newest version is read, and the only
configuration. By name: "tfds:NAME", "tfds:NAME/CONFIG" or "tfds:NAME:VERSION", below the folder
TFDS_DATA_DIR, or ~/tensorflow_datasets. Nothing is ever downloaded: where a data set is absent,
the message says how to get it. Files of array_record are read as they are; those of tfrecord need
TensorFlow, and take longer.

Images keep their own size, and grey or colour as they are stored, without alpha; those of 16 bits
are scaled by their own range. Of classes without names, number 3 is "class3". Where both are
there, the splits train and validation are the side "train", and test is the side "test"; any other
split is left out.

CheXpert says of 13 findings and of "No Finding" whether they are positive, negative, uncertain or
not mentioned. An image's labels are the positive ones of the 13: uncertain counts as absent.
"""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax.data import prepared
from medmeta_jax.data._tables import first_names
from medmeta_jax.data._tfds_fields import Fields, choose_fields, group_of, label_of, one_of
from medmeta_jax.data._tfds_files import (
    AGAIN,
    ARRAY_RECORD,
    FEATURES,
    INFO,
    Shard,
    get,
    list_shards,
    read_examples,
    read_json,
    values_of,
)
from medmeta_jax.data.records import Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError, read_image

PREFIX = "tfds:"
SOURCE = re.compile(r"tfds:(\w+)(?:/(\w[\w.+-]*))?(?::(\d+\.\d+\.\d+))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")
SIDES = {"train": "train", "validation": "train", "test": "test"}
BLOCK, BLOCK_BYTES = 256, 8 << 20  # examples of a unit, and about how large they are, at most
LARGEST_UNIT = 4 << 30  # bytes of a unit's images; only made-up ones unpack to so much
BY_HAND = {
    "chexpert": "CheXpert-v1.0-small from the CheXpert page of the Stanford ML Group",
    "diabetic_retinopathy_detection": "the Kaggle competition Diabetic Retinopathy Detection",
}


class Named(io.BytesIO):
    """An image's bytes, which messages call by a name as they call a file by its path."""

    def __init__(self, content: bytes, called: str) -> None:
        super().__init__(content)
        self.called = called

    def __str__(self) -> str:
        return self.called


def recognises(source: str) -> bool:
    """A name after "tfds:", or a folder of tfds' layout that is not one of `data prepare`."""
    if source.startswith(PREFIX):
        return True
    root = Path(source)
    if not root.is_dir() or prepared.recognises(source):
        return False
    return holds(root) or bool(versions(root) or configs(root))


def catalogue(
    source: str, *, image: str = "", label: str = "", group: str = "", splits: str = ""
) -> Catalogue:
    """The examples in blocks. Raises DataError naming what is wrong or absent.

    Args:
      image: the field of the image; by default the only one there is.
      label: the field of the class or classes; by default the only one of a class.
      group: the field of what may not stand across, such as the patient; by default the known
        one, or a field called patient_id, patient, subject_id, subject or group.
      splits: which to read, with commas between; by default train, validation and test, or all
        where none of these is there.
    """
    folder = find_folder(source)
    info = read_json(folder / INFO)
    fields = choose_fields(folder, get(folder / INFO, info, "name", str), image, label, group)
    shards = list_shards(folder, info)
    chosen = choose_splits(folder, shards, splits)
    both = {SIDES.get(name) for name in chosen} >= {"train", "test"}
    units = []
    for shard in (shard for name in chosen for shard in shards[name]):
        side = SIDES.get(shard.split, "") if both else ""
        for first, last in blocks(shard):
            name = f"{shard.split}[{shard.first + first}:{shard.first + last}]"
            units.append(Unit(name, functools.partial(read, shard, first, last, fields, side)))
    if not units:
        raise DataError(f"{folder / INFO}: speaks of no examples in {', '.join(chosen) or 'it'}")
    notes = [] if fields.label.named else ["classes by number"]
    for name in (name for name in shards if name not in chosen):
        count = sum(shard.length for shard in shards[name])
        notes.append(f"{count} examples of the split {name} left out")
    names = [info.get(key) for key in ("name", "configName", "version")]
    title = "/".join(name for name in names if isinstance(name, str))
    return Catalogue(units, "; ".join([f"tfds {title}", *notes]), fields.label.class_names)


def read(shard: Shard, first: int, last: int, fields: Fields, side: str) -> list[Record]:
    """A block of a file's examples. Raises DataError naming the file and the place."""
    records: list[Record] = []
    total = 0
    for place, example in enumerate(read_examples(shard, first, last), shard.first + first):
        where = f"{shard.path}: example {place} of {shard.split}"
        try:
            values = values_of(example)
            label = label_of(fields.label, values.get(fields.label.field))
            group = group_of(fields, values) if fields.group else None
            content = one_of(values, fields.image, bytes)
        except Exception as error:  # what is no example, protobuf refuses as it likes
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"{where}: {reason}; {AGAIN}, or leave the split out (option splits)"
            ) from None
        # Pillow opens what is in memory like a file.
        pixels = read_image(Named(content, f"{where}: {fields.image}"))
        total += pixels.nbytes
        if total > LARGEST_UNIT:
            raise DataError(f"{where}: its block unpacks to over {LARGEST_UNIT} bytes; {AGAIN}")
        records.append(Record(pixels, label, str(place), group, side, modality=fields.modality))
    return records


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    import tensorflow_datasets as tfds
    from PIL import Image

    class TinyTissue(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            fields = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=list("abcdef")),
                "patient": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(fields))

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split: str) -> Iterator[Any]:
            rng = np.random.default_rng(len(split))
            for i in range(18):
                pixels = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
                yield i, {"image": pixels, "label": i % 6, "patient": f"{split}{i // 6}"}

    TinyTissue(data_dir=where, file_format="array_record").download_and_prepare()
    return str(where / "tiny_tissue")


def holds(folder: Path) -> bool:
    """Whether it is a version's folder, even one that lacks a file."""
    return any((folder / name).is_file() for name in (INFO, FEATURES))


def versions(folder: Path) -> list[str]:
    """The versions in a folder, the newest last."""
    found = [name for name in first_names(folder) if VERSION.fullmatch(name)]
    found = [name for name in found if holds(folder / name)]
    return sorted(found, key=lambda name: [int(part) for part in name.split(".")])


def configs(folder: Path) -> list[str]:
    """The configurations in a folder."""
    found = (name for name in sorted(first_names(folder)) if (folder / name).is_dir())
    return [name for name in found if versions(folder / name)]


def find_folder(source: str) -> Path:
    """The folder of a version, by path or name (DataError)."""
    if not source.startswith(PREFIX):
        root = Path(source)
        return root if holds(root) else find_version(root, "")
    parts = SOURCE.fullmatch(source)
    if parts is None:
        raise DataError(
            f"{source}: must be tfds:NAME, tfds:NAME/CONFIG, tfds:NAME:VERSION or "
            "tfds:NAME/CONFIG:VERSION"
        )
    name, config, version = (part or "" for part in parts.groups())
    data_dir = Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    root = data_dir / name / config
    if not root.is_dir() or not (versions(root) or configs(root)):
        raise DataError(f"{source}: {how_to_get(name, config, data_dir)}")
    return find_version(root, version)


def find_version(root: Path, version: str) -> Path:
    """A version below a folder, the newest where none is asked for (DataError)."""
    there = versions(root)
    if not there:
        named = configs(root)
        if len(named) != 1:
            raise DataError(
                f"{root}: holds several configurations, {', '.join(named)}; name one, by its "
                "folder or by tfds:NAME/CONFIG"
            )
        root = root / named[0]
        there = versions(root)
    if version and version not in there:
        raise DataError(f"{root}: has no version {version}; there are {', '.join(there)}")
    return root / (version or there[-1])


def how_to_get(name: str, config: str, data_dir: Path) -> str:
    """What to do about a data set that is not there."""
    asked = f"{name}/{config}" if config else name
    build = f"run `tfds build {asked} {ARRAY_RECORD}` where TensorFlow is installed"
    if name in BY_HAND:
        manual = data_dir / "downloads" / "manual"
        build = f"download {BY_HAND[name]} and unpack it into {manual}, then {build}"
    return f"not in {data_dir} (TFDS_DATA_DIR, else ~/tensorflow_datasets); {build}"


def choose_splits(folder: Path, shards: dict[str, list[Shard]], splits: str) -> list[str]:
    """The splits to read, in the data set's order (DataError)."""
    asked = [name.strip() for name in splits.split(",")] if splits else []
    for name in asked:
        if name not in shards:
            raise DataError(
                f"{folder / INFO}: the option splits must be of {', '.join(shards)}, got {name!r}"
            )
    chosen = asked or [name for name in shards if name in SIDES] or list(shards)
    return [name for name in shards if name in chosen]


def blocks(shard: Shard) -> Iterator[tuple[int, int]]:
    """From where to where the units of a file go: fewer examples where they are large."""
    size = min(max(BLOCK_BYTES * shard.length // max(shard.size, 1), 1), BLOCK)
    for first in range(0, shard.length, size):
        yield first, min(first + size, shard.length)
