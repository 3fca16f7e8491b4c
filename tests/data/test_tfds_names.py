"""Data sets of tfds by name and path: known ones, versions, configurations, and absent ones."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from tensorflow_datasets.datasets.malaria import malaria_dataset_builder as malaria
from tensorflow_datasets.datasets.patch_camelyon import patch_camelyon_dataset_builder as camelyon
from tensorflow_datasets.image_classification import (
    chexpert,
    colorectal_histology as colorectal,
    diabetic_retinopathy_detection as retinopathy,
)

from medmeta_jax.data import folder, sources, tfds_sets
from medmeta_jax.data.prepare import prepare
from medmeta_jax.data.samples import DataError

from .tfds_made import PATIENT, Examples, edit, patients, plain, records, small, stored


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change: the folder of its version."""
    return shutil.copytree(made, tmp_path / "data" / "own" / "1.0.0")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **others: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


CHEXPERT = [  # "No Finding" first, then "Enlarged Cardiomediastinum", "Cardiomegaly" and so on
    ["negative", "unmentioned", "positive", *["uncertain"] * 10, "positive"],
    ["positive", *["unmentioned"] * 13],
]
KNOWN: dict[str, tuple[type, str, dict[str, Examples], list[tuple[Any, ...]]]] = {
    "patch_camelyon": (
        camelyon.Builder, "histology",
        {split: [{"id": "x", "image": plain(i, size=(96, 96)), "label": i % 2}]
         for i, split in enumerate(("test", "train", "validation"))},
        [(0, "class0", None, "test"), (1, "class1", None, "train"), (2, "class0", None, "train")],
    ),
    "colorectal_histology": (
        colorectal.ColorectalHistology, "histology",
        {"train": [{"image": plain(5, size=(150, 150)), "label": "lympho", "filename": "x"}]},
        [(5, "lympho", None, "")],
    ),
    "malaria": (
        malaria.Builder, "microscopy",
        {"train": [{"image": plain(i), "label": i} for i in range(2)]},
        [(0, "parasitized", None, ""), (1, "uninfected", None, "")],
    ),
    "diabetic_retinopathy_detection": (
        retinopathy.DiabeticRetinopathyDetection, "fundus",
        {"sample": [{"name": "1_left", "image": plain(1), "label": -1}],
         "train": [{"name": "12_left", "image": plain(2), "label": 4}],
         "validation": [{"name": "7_right", "image": plain(3), "label": 0}],
         "test": [{"name": "120_left", "image": plain(4), "label": 0}]},
        [(2, "class4", "12", "train"), (3, "class0", "7", "train"), (4, "class0", "120", "test")],
    ),
    "chexpert": (
        chexpert.Chexpert, "xray",
        {split: [{"name": f"CheXpert-v1.0-small/{split}/patient0000{i}/study1/view1_frontal.jpg",
                  "image": plain(i, 1), "label": CHEXPERT[i], "image_view": "frontal"}]
         for i, split in enumerate(("train", "validation"))},
        [(0, ("Cardiomegaly", "Support Devices"), "patient00000", ""),
         (1, (), "patient00001", "")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each written in its own fields, by the code that makes the real one."""
    builder, modality, splits, expected = KNOWN[name]
    config = "250K" if name.startswith("diabetic") else None
    stored(tmp_path, splits, builder=builder, name=name, config=config)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = records(f"tfds:{name}")
    assert {record.modality for record in found} == {modality}
    read = [(int(r.image[0, 0, 0]), r.label, r.group, r.side) for r in found]
    assert sorted(read) == sorted(expected)


def test_the_classes_of_known_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in ("colorectal_histology", "chexpert"):
        builder, _, splits, _ = KNOWN[name]
        stored(tmp_path, splits, builder=builder, name=name)
    names = tfds_sets.catalogue("tfds:colorectal_histology").class_names
    assert names is not None
    assert names[:3] == ("tumor", "stroma", "complex")
    names = tfds_sets.catalogue("tfds:chexpert").class_names
    assert names == (  # train.csv has them in this order
        "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
        "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
        "Pleural Other", "Fracture", "Support Devices",
    )  # fmt: skip
    assert sources.load("tfds:chexpert", image_size=4).labels.sum(1).tolist() == [2, 0]
    views = tfds_sets.catalogue("tfds:chexpert", label="image_view", group="image_view")
    (record,) = views.units[0].read()
    assert (record.label, record.group) == ("frontal", "0")
    (tmp_path / "chexpert" / "3.1.0" / "label.labels.txt").unlink()
    with pytest.raises(DataError, match=r"label must be a list of uncertain, positive, negative"):
        tfds_sets.catalogue("tfds:chexpert")


ABSENT = {
    "tfds:malaria": r"not in .*/none \(TFDS_DATA_DIR.*; run `tfds build malaria --file_format=arr",
    "tfds:patch_camelyon:2.0.0": r".*; run `tfds build patch_camelyon --file_format=array_record`",
    "tfds:chexpert": r".*; download CheXpert-v1\.0-small from .* and unpack it into "
    r".*/none/downloads/manual, then run `tfds build chexpert --file",
    "tfds:diabetic_retinopathy_detection/1M": r".*; download the Kaggle competition .*`tfds build "
    r"diabetic_retinopathy_detection/1M --file",
    "tfds:": "must be tfds:NAME, tfds:NAME/CONFIG",
    "tfds:../own": "must be tfds:NAME",
    "tfds:own/..": "must be tfds:NAME",
    "tfds:own/../../x": "must be tfds:NAME",
    "tfds:own:latest": "must be tfds:NAME",
}


@pytest.mark.parametrize("source", ABSENT)
def test_what_is_absent_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    start = time.perf_counter()
    assert sources.find(source) == "tfds_sets"
    with pytest.raises(DataError, match=f"^{source}: {ABSENT[source]}"):
        tfds_sets.catalogue(source)
    assert time.perf_counter() - start < 1


def test_a_folder_that_holds_no_version_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a preparation leaves it that was cut off."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "malaria" / "1.0.0.incompleteX").mkdir(parents=True)
    with pytest.raises(DataError, match="run `tfds build malaria "):
        tfds_sets.catalogue("tfds:malaria")


def test_without_a_folder_of_data_the_home_is_looked_in(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(root.parents[2]))
    with pytest.raises(DataError, match=f"not in {root.parents[2]}/tensorflow_datasets "):
        tfds_sets.catalogue("tfds:own")
    (root.parents[2] / "data").rename(root.parents[2] / "tensorflow_datasets")
    assert len(tfds_sets.catalogue("tfds:own").units) == 2


def test_versions_and_configurations(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = root.parents[1]
    monkeypatch.setenv("TFDS_DATA_DIR", str(data))
    own = data / "own"
    assert tfds_sets.find_folder("tfds:own") == root
    for version in ("1.9.0", "1.10.0", "2.0.0.incompleteX1"):
        shutil.copytree(root, own / version)
    (own / "3.0.0").mkdir()
    assert tfds_sets.find_folder("tfds:own") == own / "1.10.0"
    assert tfds_sets.find_folder(str(own)) == own / "1.10.0"
    assert tfds_sets.find_folder("tfds:own:1.9.0") == own / "1.9.0"
    with pytest.raises(DataError, match=r"own: has no version 1\.0\.1; there are 1\.0\.0, 1\.9\.0"):
        tfds_sets.catalogue("tfds:own:1.0.1")
    several = data / "several"
    shutil.copytree(own, several / "250K")
    for source in (str(several), str(several / "250K"), "tfds:several", "tfds:several/250K"):
        assert sources.find(source) == "tfds_sets"
        assert tfds_sets.find_folder(source) == several / "250K" / "1.10.0"
    assert tfds_sets.find_folder("tfds:several/250K:1.9.0") == several / "250K" / "1.9.0"
    shutil.copytree(own, several / "1M")
    with pytest.raises(DataError, match="several: holds several configurations, 1M, 250K; name"):
        tfds_sets.catalogue("tfds:several")


def test_a_configuration_is_told(tmp_path: Path) -> None:
    where = stored(tmp_path, {"train": patients(1)}, PATIENT, config="small", version="1.2.3")
    assert where == tmp_path / "own" / "small" / "1.2.3"
    assert tfds_sets.catalogue(str(tmp_path / "own")).about == "tfds own/small/1.2.3"


def test_what_is_recognised(root: Path, tmp_path: Path) -> None:
    for found in (root, root.parent):
        assert sources.find(str(found)) == "tfds_sets"
    (root / "features.json").unlink()
    assert tfds_sets.recognises(str(root))
    (root / "dataset_info.json").unlink()
    assert not tfds_sets.recognises(str(root))
    assert not tfds_sets.recognises(str(root.parent))
    assert not tfds_sets.recognises(str(tmp_path / "nowhere"))
    prepare(folder.example(tmp_path / "raw"), tmp_path / "out")
    assert sources.find(str(tmp_path / "raw")) == "folder"
    assert sources.find(str(tmp_path / "out")) == "prepared"
    assert not tfds_sets.recognises(str(tmp_path / "out"))


def test_a_name_without_a_patient_is_named(tmp_path: Path) -> None:
    example = {"name": "12_lefty", "image": plain(2), "label": 4}
    builder = retinopathy.DiabeticRetinopathyDetection
    name = "diabetic_retinopathy_detection"
    where = stored(tmp_path, {"train": [example]}, builder=builder, name=name, config="1M")
    with pytest.raises(DataError, match="example 0 of train: name '12_lefty' names no patient"):
        records(where)
    assert records(where, group="name")[0].group == "12_lefty"
    edit("features.json", lambda found: found["featuresDict"]["features"].pop("name"))(where)
    with pytest.raises(DataError, match=rf"json: {name} lacks the fields \['name'\]"):
        tfds_sets.catalogue(str(where))
