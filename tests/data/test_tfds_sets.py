"""Data sets of tfds, written by tfds itself: records, splits, units, labels, images and fields."""

from __future__ import annotations

import importlib.machinery
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from medmeta_jax.data import tfds_sets
from medmeta_jax.data._tfds_fields import choose_fields
from medmeta_jax.data._tfds_files import shard_names
from medmeta_jax.data.samples import DataError

from .tfds_made import (
    FEATURES,
    NAMED,
    PATIENT,
    edit,
    lengths,
    patients,
    plain,
    records,
    small,
    stored,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change: the folder of its version."""
    return shutil.copytree(made, tmp_path / "data" / "own" / "1.0.0")


def test_records_are_the_examples_in_order(root: Path) -> None:
    found = records(root)
    assert [record.label[0] for record in found] == ["t", "h", "t", "t", "h"]
    assert [record.group for record in found] == ["p1", "p1", "p2", "p3", "p3"]
    assert [record.name for record in found] == ["0", "1", "2", "0", "1"]
    assert [record.side for record in found] == ["train"] * 3 + ["test"] * 2
    for record, value in zip(found, (10, 11, 20, 30, 31), strict=True):
        np.testing.assert_array_equal(record.image, np.full((4, 6, 3), value, np.uint8))
    listed = tfds_sets.catalogue(str(root))
    assert [unit.name for unit in listed.units] == ["train[0:3]", "test[0:2]"]
    assert listed.class_names == ("tumour", "healthy")
    assert listed.about == "tfds own/1.0.0"


def test_pixels_are_those_that_were_stored(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    examples = [{"image": Image.fromarray(pixels), "label": 0, "patient": "p"}]
    (record,) = records(stored(tmp_path, {"train": examples}, PATIENT))
    np.testing.assert_array_equal(record.image, pixels)


@pytest.mark.parametrize(
    ("splits", "sides", "about"),
    [
        ("train validation test", ["train", "train", "test"], ""),
        ("train validation", ["", ""], ""),
        ("test", [""], ""),
        ("sample test train", ["test", "train"], "; 2 examples of the split sample left out"),
        ("fold1 fold2", ["", ""], ""),
    ],
)
def test_splits_are_sides(tmp_path: Path, splits: str, sides: list[str], about: str) -> None:
    where = stored(tmp_path, {name: patients(1, 2) for name in splits.split()}, PATIENT)
    assert [record.side for record in records(where)] == [side for side in sides for _ in range(2)]
    assert tfds_sets.catalogue(str(where)).about == f"tfds own/1.0.0{about}"


def test_splits_may_be_named(root: Path) -> None:
    found = tfds_sets.catalogue(str(root), splits="test")
    assert [unit.name for unit in found.units] == ["test[0:2]"]
    assert found.about.endswith("; 3 examples of the split train left out")
    assert {record.side for record in records(root, splits="test")} == {""}
    assert [r.side for r in records(root, splits="test, train")] == ["train"] * 3 + ["test"] * 2
    with pytest.raises(DataError, match=r"info\.json: the option splits must be of train, test,"):
        tfds_sets.catalogue(str(root), splits="train,dev")


def test_units_are_blocks_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 examples, in one file and in two: at most 256 a unit, and none of two files."""
    examples = [
        {"image": plain(i % 256, 1, (1, 2)), "label": i % 2, "patient": str(i)} for i in range(300)
    ]
    one = stored(tmp_path / "1", {"train": examples}, PATIENT)
    two = stored(tmp_path / "2", {"train": examples}, PATIENT, files=2)
    names = [unit.name for unit in tfds_sets.catalogue(str(one)).units]
    assert names == ["train[0:256]", "train[256:300]"]
    names = [unit.name for unit in tfds_sets.catalogue(str(two)).units]
    assert names == ["train[0:150]", "train[150:300]"]
    of_one, of_two = records(one), records(two)
    assert [r.group for r in of_one] == [r.group for r in of_two] == [str(i) for i in range(300)]
    assert [r.name for r in of_two] == [str(i) for i in range(300)]
    monkeypatch.setattr(tfds_sets, "BLOCK_BYTES", 10 * next(two.glob("*00001-of*")).stat().st_size)
    assert len(tfds_sets.catalogue(str(two)).units) == 2
    monkeypatch.setattr(tfds_sets, "BLOCK_BYTES", next(two.glob("*00001-of*")).stat().st_size // 2)
    names = [unit.name for unit in tfds_sets.catalogue(str(two)).units]
    assert names == ["train[0:75]", "train[75:150]", "train[150:225]", "train[225:300]"]
    assert [r.group for r in records(two)] == [str(i) for i in range(300)]
    monkeypatch.setattr(tfds_sets, "BLOCK_BYTES", 1)
    assert tfds_sets.catalogue(str(two)).units[299].name == "train[299:300]"


NUMBERS = ("class0", "class1", "class2")


def test_a_hundred_thousand_files_have_longer_names() -> None:
    """As tfds calls them."""
    template = tfds.core.ShardedFileTemplate(
        "x", template="{SPLIT}-{SHARD_X_OF_Y}", dataset_name="own", split="train"
    )
    for count in (1, 99_999, 100_000):
        (found,) = islice(shard_names("{SPLIT}-{SHARD_X_OF_Y}", {"SPLIT": "train"}, count), 1)
        assert found == template.relative_filepath(shard_index=0, num_shards=count)


LABELS = {
    "names": (NAMED, [1, 0], ["healthy", "tumour"], ("tumour", "healthy")),
    "no names": (FEATURES.ClassLabel(num_classes=3), [2, 0], ["class2", "class0"], NUMBERS),
    "number": (np.int64, [7, 12], ["class7", "class12"], None),
    "bool": (np.bool_, [True, False], ["class1", "class0"], NUMBERS[:2]),
    "list": (
        FEATURES.Sequence(NAMED), [[1, 0], [], [0, 0]],
        [("healthy", "tumour"), (), ("tumour",)], ("tumour", "healthy"),
    ),
    "flags": (
        FEATURES.Tensor(shape=(3,), dtype=np.uint8),
        [np.uint8([1, 0, 1]), np.uint8([0, 0, 0])], [("class0", "class2"), ()], NUMBERS,
    ),
    "list of flags": (
        FEATURES.Sequence(np.bool_, length=3), [[False, True, False]], [("class1",)], NUMBERS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELS)
def test_labels(tmp_path: Path, kind: str) -> None:
    feature, given, expected, names = LABELS[kind]
    examples = [{"image": plain(1), "found": value} for value in given]
    where = stored(tmp_path, {"train": examples}, {"image": FEATURES.Image(), "found": feature})
    assert [record.label for record in records(where, label="found")] == expected
    listed = tfds_sets.catalogue(str(where), label="found")
    assert listed.class_names == names
    by_number = names is None or names[0] == "class0"
    assert listed.about == "tfds own/1.0.0" + ("; classes by number" if by_number else "")
    assert {record.group for record in records(where, label="found")} == {None}


def test_images_of_other_kinds(tmp_path: Path) -> None:
    """Grey stays grey, alpha is dropped, 16 bits are scaled by their own range."""
    deep = Image.fromarray(np.uint16([[300, 100], [200, 100]]))
    examples = [
        {"image": plain(7, 1), "deep": deep, "label": 0},
        {"image": plain(8, 4), "deep": deep, "label": 0},
    ]
    features = {
        "image": FEATURES.Image(shape=(None, None, 4)),
        "deep": FEATURES.Image(shape=(2, 2, 1), dtype=np.uint16),
        "label": NAMED,
    }
    where = stored(tmp_path, {"train": examples}, features)
    grey, alpha = records(where, image="image")
    np.testing.assert_array_equal(grey.image, np.full((4, 6, 1), 7, np.uint8))
    np.testing.assert_array_equal(alpha.image, np.full((4, 6, 3), 8, np.uint8))
    scaled = records(where, image="deep")[0].image
    np.testing.assert_array_equal(scaled[..., 0], [[255, 0], [127, 0]])


def test_fields_are_told_or_named(tmp_path: Path) -> None:
    features = {
        "left": FEATURES.Image(), "right": FEATURES.Image(), "grade": NAMED, "eye": NAMED,
        "person": np.int32, "ward": NAMED, "subject": FEATURES.Text(), "size": np.float32,
        "group": FEATURES.Text(), "parts": FEATURES.Sequence(FEATURES.Text()),
        "loop": {"first": FEATURES.Image()},
        "frames": FEATURES.Image(shape=(None, None, None, 3)),
        "heights": FEATURES.Image(shape=(4, 6, 1), dtype=np.float32),
        "any": FEATURES.Tensor(shape=(None,), dtype=np.int64),
    }  # fmt: skip
    FEATURES.FeaturesDict(features).save_config(tmp_path)
    path = tmp_path / "features.json"

    def chosen(**names: str) -> Any:
        names = {"image": "right", "label": "eye", "group": ""} | names
        return choose_fields(tmp_path, "own", **names)

    assert (chosen().image, chosen().label.field, chosen().group) == ("right", "eye", "subject")
    assert chosen(group="person").group == "person"
    assert chosen(group="ward").group == "ward"
    for names, message in (
        ({"image": ""}, "4 fields are of the kind image; name one by the option image, of .*left"),
        ({"label": ""}, r"3 fields are of the kind classLabel.*eye \(classLabel\)"),
        ({"image": "top"}, "the option image must be one of .*left.*, got 'top'"),
        ({"label": "top"}, "the option label must be one of"),
        ({"group": "top"}, "the option group must be one of"),
        ({"image": "eye"}, "eye is of the kind classLabel, must be image"),
        ({"image": "loop"}, "loop is of the kind featuresDict, must be image"),
        ({"image": "frames"}, r"frames: images of uint8 \[-1, -1, -1, 3\] are not read"),
        ({"image": "heights"}, r"heights: images of float32 \[4, 6, 1\] are not read"),
        ({"label": "left"}, "left cannot be the label: it must be a class"),
        ({"label": "size"}, "size cannot be the label"),
        ({"label": "any"}, "any cannot be the label"),
        ({"label": "parts"}, "parts cannot be the label"),
        ({"group": "size"}, "size cannot be the group: it is no text and no whole number"),
        ({"group": "parts"}, "parts cannot be the group"),
        ({"group": "any"}, "any cannot be the group"),
    ):
        with pytest.raises(DataError, match=f"{path}: {message}"):
            chosen(**names)


def test_a_group_may_be_a_number(tmp_path: Path) -> None:
    features = {"image": FEATURES.Image(), "label": NAMED, "person": np.int32}
    examples = [{"image": plain(1), "label": 0, "person": 17}]
    where = stored(tmp_path, {"train": examples}, features)
    assert records(where)[0].group is None
    assert records(where, group="person")[0].group == "17"


def as_tfrecord(root: Path) -> None:
    """Say that the files are of tfrecord, and call them so."""
    for path in root.glob("*.array_record-*"):
        path.rename(root / path.name.replace("array_record", "tfrecord"))
    edit("dataset_info.json", lambda info: info.pop("fileFormat"))(root)  # the default


def test_tfrecord_needs_tensorflow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before any file is opened. What TensorFlow would read is pretended."""
    expected = records(root)
    as_tfrecord(root)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(DataError, match=r"prepared as tfrecord, which needs TensorFlow; prepare .*"
                       r"--file_format=array_record, or pip install tensorflow"):  # fmt: skip
        tfds_sets.catalogue(str(root))

    class Stored:
        def __init__(self, path: str) -> None:
            self.left = ArrayRecordReader(path).read_all()

        def skip(self, count: int) -> Stored:
            self.left = self.left[count:]
            return self

        def as_numpy_iterator(self) -> Iterator[bytes]:
            return iter(self.left)

    pretended = ModuleType("tensorflow")
    pretended.__spec__ = importlib.machinery.ModuleSpec("tensorflow", None)
    pretended.data = SimpleNamespace(TFRecordDataset=Stored)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorflow", pretended)
    monkeypatch.setattr(tfds_sets, "BLOCK", 2)
    assert [u.name for u in tfds_sets.catalogue(str(root)).units][:2] == [
        "train[0:2]",
        "train[2:3]",
    ]
    for one, other in zip(records(root), expected, strict=True):
        np.testing.assert_equal(one._asdict(), other._asdict())
    for wrong in ("2", "4"):
        edit("dataset_info.json", lengths("train", wrong))(root)
        with pytest.raises(DataError, match=rf"00001: damaged .* other than the {wrong} examples"):
            records(root)
