"""Damaged data sets of tfds: each is refused, and what is wrong with it named."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmeta_jax.data import _tfds_files, tfds_sets
from medmeta_jax.data.samples import DataError

from .damage import check_refused, remove, write
from .tfds_made import (
    FEATURES,
    NAMED,
    PATIENT,
    TEST,
    TRAIN,
    edit,
    field,
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


def info(**fields: Any) -> Callable[[Path], None]:
    """Change fields of dataset_info.json."""
    return edit("dataset_info.json", lambda found: found.update(fields))


def split(**fields: Any) -> Callable[[Path], None]:
    """Change fields of its first split."""
    return edit("dataset_info.json", lambda found: found["splits"][0].update(fields))


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * share)])

    return change


def flip(root: Path) -> None:
    """Turn a bit of an image's bytes."""
    path = root / TRAIN
    content = bytearray(path.read_bytes())
    content[content.index(b"IHDR")] ^= 1
    path.write_bytes(content)


def emptied(root: Path) -> None:
    """No files, and nothing said of them."""
    for name in (TRAIN, TEST):
        (root / name).unlink()
    info(splits=[])(root)


def elsewhere(root: Path) -> None:
    """A split whose file is one of another kind."""
    (root / TRAIN).unlink()
    split(filepathTemplate="features.json")(root)


INFO, FIELDS, NAMES = r"dataset_info\.json: ", r"features\.json: ", r"label\.labels\.txt: "
EVIL = {"pythonClassName": "evil.Field", "text": {}}
BAD = {
    "no info": (remove("dataset_info.json"), INFO + r"cannot be read \(No such file"),
    "no features": (remove("features.json"), FIELDS + r"cannot be read \(No such file"),
    "emptied": (write("dataset_info.json", ""), INFO + "not readable as JSON"),
    "cut": (cut("features.json", 0.5), FIELDS + "not readable as JSON"),
    "bytes": (write("features.json", b"\xff{}"), FIELDS + "not a text file"),
    "deep": (write("dataset_info.json", "[" * 10**5), INFO + r"not readable as JSON \(maximum rec"),
    "list": (write("dataset_info.json", "[]"), INFO + "must hold one object of JSON"),
    "no name": (info(name=None), INFO + "name must be text, got None"),
    "no splits": (info(splits=None), INFO + "splits must be a list, got None"),
    "odd split": (info(splits=[7]), INFO + "name must be text, got None"),
    "nothing": (emptied, INFO + "speaks of no examples in it"),
    "no lengths": (split(shardLengths=None), INFO + "shardLengths must be a list, got None"),
    "twice": (
        edit("dataset_info.json", lambda info: info["splits"].append(info["splits"][0])),
        INFO + "the split 'train' has no name of its own",
    ),
    "split": (split(name="../x"), INFO + r"the split '\.\./x' has no name of its own"),
    "split with more": (split(name="train/x"), INFO + "the split 'train/x' has no name of its own"),
    "rooted split": (split(name="/x"), INFO + "the split '/x' has no name of its own"),
    "one name": (
        edit("dataset_info.json", lambda info: [
            one.update(filepathTemplate=TEST) for one in info["splits"]]),
        INFO + "gives two files one name",
    ),
    "above": (split(filepathTemplate="../{SPLIT}"), INFO + r"the file '\.\./train' of train is no"),
    "above by name": (info(name="../../own"), INFO + r"the file '\.\./\.\./own-train\.arr.*is no"),
    "dots": (split(filepathTemplate=".."), r"/\.\.: no such file"),
    "other file": (elsewhere, r"features\.json: damaged \(it opens with 0 examples"),
    "format": (split(filepathTemplate="{SPLIT:>999999999999}"), r"999999}: no such file, and"),
    "no number": (edit("dataset_info.json", lengths("train", "x")),
                  INFO + "shardLengths must be a number, got 'x'"),
    "below none": (edit("dataset_info.json", lengths("train", -1)), "shardLengths: -1 examples in"),
    "huge": (edit("dataset_info.json", lengths("train", 10**15)),
             INFO + rf"shardLengths: {10**15} examples in the \d+ bytes of {TRAIN}; prepare"),
    "long": (edit("dataset_info.json", lengths("train", "9" * 5000)), "must be a number"),
    "too many": (edit("dataset_info.json", lengths("train", 4)),
                 rf"{TRAIN}: damaged \(it opens with 3 examples, not the 4 of dataset_info"),
    "too few": (edit("dataset_info.json", lengths("train", 2)), rf"{TRAIN}: damaged \(it opens"),
    "more files": (edit("dataset_info.json", lengths("train", 3, 3)),
                   r"train\.array_record-00000-of-00002: no such file"),
    "file format": (info(fileFormat="parquet"), INFO + "files of parquet are not read; prepare"),
    "file format kind": (info(fileFormat=[1]), INFO + r"fileFormat must be text, got \[1\]"),
    "no file": (remove(TRAIN), f"{TRAIN}: no such file, and dataset_info.json speaks of it"),
    "stray": (write("own-train.array_record-00001-of-00002", "x"),
              r"00001-of-00002: dataset_info\.json does not speak of it; remove it"),
    "cut file": (cut(TRAIN, 0.5), rf"{TRAIN}: damaged \("),
    "cut at its end": (cut(TEST, 0.999), rf"{TEST}: damaged \(it opens with 0"),
    "emptied file": (write(TRAIN, ""), f"shardLengths: 3 examples in the 0 bytes of {TRAIN}"),
    "noise": (write(TRAIN, np.random.default_rng(0).bytes(10**5)), rf"{TRAIN}: damaged \("),
    "bit": (flip, rf"{TRAIN}: damaged \(Corrupted"),
    "names": (write("label.labels.txt", "tumour\n"), NAMES + "must be 2 names, each another, got"),
    "no names": (write("label.labels.txt", ""), NAMES + "must be 2 names, each another, got 0"),
    "a name twice": (write("label.labels.txt", "a\na\nb\n"), NAMES + "must be 2 names, .* got 3"),
    "same names": (write("label.labels.txt", "a\na\n"), NAMES + "must be 2 names, each another"),
    "names' bytes": (write("label.labels.txt", b"\xff"), NAMES + "not a text file"),
    "old": (write("features.json", '{"type": "x", "content": {}}'), FIELDS + "of a tensorflow-d"),
    "no fields": (write("features.json", "{}"), FIELDS + "featuresDict must be an object, got No"),
    "fields": (write("features.json", '{"featuresDict": {"features": 1}}'),
               FIELDS + "features must be an object, got 1"),
    "no image": (field("image", 7), FIELDS + r"0 fields are of the kind image.*image \(other\)"),
    "foreign": (field("image", EVIL), FIELDS + r"0 fields are of the kind image.*image \(text\)"),
    "shape": (field("image", {"image": {"shape": {"dimensions": ["x"]}}}),
              FIELDS + "dimensions must be a number"),
    "shape kind": (field("image", {"image": {"shape": 3}}), FIELDS + "shape must be an object"),
    "no shape": (field("image", {"image": {"dtype": "uint8"}}), r"images of uint8 \[\] are not"),
    "classes": (field("label", {"classLabel": {"numClasses": "1000000000000"}}),
                FIELDS + "label: numClasses is 1000000000000"),
    "no classes": (field("label", {"classLabel": {}}), FIELDS + "numClasses must be a number"),
    "class of none": (field("label", {"classLabel": {"numClasses": 0}}), "numClasses is 0"),
    "no such field": (field("patient_id", {"text": {}}),
                      rf"{TRAIN}: example 0 of train: patient_id is not one value"),
    "image of none": (field("picture", {"image": {"dtype": "uint8"}}), "2 fields are of the kind"),
    "text as number": (field("patient", {"classLabel": {"numClasses": 2}}), "2 fields are of the"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_damage_is_refused_by_name(root: Path, name: str) -> None:
    check_refused(root, BAD[name], records)


def test_what_is_wrong_before_any_file_is_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tfds_files, "LARGEST_TEXT", 10)
    with pytest.raises(DataError, match=r"dataset_info\.json: larger than 10 bytes"):
        tfds_sets.catalogue(str(root))


def test_what_tfds_leaves_out_has_a_default(root: Path) -> None:
    """How files are called, and how many examples there are where there are none."""
    edit("dataset_info.json", lambda found: [s.pop("filepathTemplate") for s in found["splits"]])(
        root
    )
    assert len(records(root)) == 5
    (root / TRAIN).write_bytes(b"")
    edit("dataset_info.json", lengths("train", 0))(root)
    assert len(records(root)) == 2
    (root / TRAIN).unlink()
    edit("dataset_info.json", lambda found: found["splits"][0].pop("shardLengths"))(root)
    assert len(records(root)) == 2


def test_features_are_not_imported(root: Path) -> None:
    """Nor is a field of another package, where it is not read, in the way."""
    field("note", EVIL)(root)
    assert len(records(root)) == 5


WRONG = {
    "no label": ({"label": -1}, "label is -1, which is no class; .*or leave the split out"),
    "class": ({"label": 2}, "label is 2, which is no class"),
    "no image": ({"image": b"hello"}, r"image: not a readable image \(cannot identify"),
    "half an image": ({"image": None}, r"image: not a readable image \("),
    "text": ({"patient": b"\xff"}, "'utf-8' codec can't decode byte"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_example_is_named(tmp_path: Path, name: str) -> None:
    wrong, message = WRONG[name]
    if name == "half an image":
        buffer = io.BytesIO()
        plain(3).save(buffer, "PNG")
        wrong = {"image": buffer.getvalue()[:40]}
    features = {**PATIENT, "label": FEATURES.ClassLabel(num_classes=3)}
    examples = [*patients(1, 2), {**patients(3)[0], **wrong}]
    where = stored(tmp_path, {"train": patients(1), "test": examples}, features)
    field("label", {"classLabel": {"numClasses": "2"}})(where)
    units = tfds_sets.catalogue(str(where)).units
    assert len(units[0].read()) == 1
    with pytest.raises(DataError, match=f"{where}/{TEST}: example 2 of test: {message}"):
        units[1].read()


FLAGS = FEATURES.Tensor(shape=(2,), dtype=np.int64)
CODED = FEATURES.Tensor(shape=(2,), dtype=np.uint8, encoding="bytes")
CLASS = {"classLabel": {"numClasses": 2}}
THREE = {"tensor": {"dtype": "int64", "shape": {"dimensions": ["3"]}}}
LABELS = {  # a field, a value of it, what features.json says of it if something else, the message
    "below": (FEATURES.Sequence(NAMED), [0, -1], None, "found is -1, which is no class"),
    "flag": (FLAGS, np.int64([0, 2]), None, "found must be 2 numbers from 0 to 1"),
    "coded": (CODED, np.uint8([0, 1]), None, "found holds no whole numbers"),
    "too few": (FLAGS, np.int64([0, 1]), THREE, "found must be 3 numbers from 0 to 1"),
    "several": (FLAGS, np.int64([0, 1]), CLASS, "found holds 2 numbers, must be one"),
    "float": (np.float32, 1.0, CLASS, "found holds no whole numbers"),
}


@pytest.mark.parametrize("name", LABELS)
def test_wrong_labels_are_named(tmp_path: Path, name: str) -> None:
    feature, value, said, message = LABELS[name]
    features = {"image": FEATURES.Image(), "found": feature}
    where = stored(tmp_path, {"train": [{"image": plain(1), "found": value}]}, features)
    if said:
        field("found", said)(where)
    with pytest.raises(DataError, match=f"{TRAIN}: example 0 of train: {message}"):
        records(where, label="found")


def test_fields_that_are_not_stored_so_are_named(tmp_path: Path) -> None:
    features = {"image": FEATURES.Image(), "label": NAMED, "group": np.float32}
    where = stored(tmp_path, {"train": [{"image": plain(1), "label": 0, "group": 1.5}]}, features)
    field("group", {"text": {}})(where)
    with pytest.raises(DataError, match="example 0 of train: group is not one value of its kind"):
        records(where)
    field("other", CLASS)(where)
    with pytest.raises(DataError, match="example 0 of train: other holds no whole numbers"):
        records(where, label="other")


def test_a_block_that_unpacks_to_too_much_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images of 4 x 6 x 3 bytes are 144, the third makes it 216."""
    monkeypatch.setattr(tfds_sets, "LARGEST_UNIT", 215)
    with pytest.raises(DataError, match=rf"{TRAIN}: example 2 of train: its block unpacks to over"):
        records(root)
    monkeypatch.setattr(tfds_sets, "LARGEST_UNIT", 216)
    assert len(records(root)) == 5
