"""Preparing a data set: the same images, the same bytes, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmeta_jax.data import folder, prepare as preparing, prepared, sources
from medmeta_jax.data.prepare import FORMAT, MANIFEST, NAME, SPLIT, prepare, within
from medmeta_jax.data.records import Box, Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError

RICH = [
    Record(np.arange(60, dtype=np.uint8).reshape(4, 5, 3), ("x", "ÿ"), "z=1", "p1", "train", "ct",
           "t1", np.ones((4, 5), np.uint8), (Box(0.5, 1, 2, 3.25, "nodule"),)),
    Record(np.full((2, 9, 1), 7, np.uint8), (), group=""),
    Record(np.full((1, 3, 1), 7, np.uint8), ("x",), "only"),
    Record(np.arange(72, dtype=np.uint8).reshape(2, 3, 4, 3), ("x",), "volume",
           mask=np.arange(24, dtype=np.uint8).reshape(2, 3, 4)),
    Record(np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1), ("x",), "one slice"),
]  # fmt: skip


def files_of(where: Path) -> dict[str, bytes]:
    return {
        p.relative_to(where).as_posix(): p.read_bytes() for p in where.rglob("*") if p.is_file()
    }


def test_a_prepared_set_loads_as_the_one_it_was_made_from(tmp_path: Path) -> None:
    raw = folder.example(tmp_path / "raw")
    manifest = prepare(raw, tmp_path / "out")
    for one, other in zip(
        sources.load(raw, image_size=10), sources.load(str(tmp_path / "out"), image_size=10),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_equal(one, other)
    assert manifest["samples"] == 36
    assert manifest["groups"] == 18
    assert manifest["classes"] == dict.fromkeys("abcdef", 6)


def test_everything_of_a_record_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Catalogue([Unit("a.bin", lambda: RICH)], "rich", split={"train": ("x",)})
    monkeypatch.setattr(sources, "catalogue", lambda source: listed)
    monkeypatch.setattr(sources, "find", lambda source: "folder")
    manifest = prepare("a", tmp_path / "out")
    monkeypatch.undo()
    found = sources.catalogue(str(tmp_path / "out"))
    assert found.class_names == ("x", "ÿ")
    assert found.split == {"train": ("x",)}
    read = [record for unit in found.units for record in unit.read()]
    names = ["a.bin[z=1]", "a.bin", "a.bin[only]", "a.bin[volume]", "a.bin[one slice]"]
    for before, name, after in zip(RICH, names, read, strict=True):
        np.testing.assert_equal(after._asdict(), before._replace(name=name)._asdict())
    assert (manifest["masks"], manifest["boxes"], manifest["modalities"]) == (2, 1, {"t1": 1})


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    """From another process too, whose hashing is another."""
    raw = folder.example(tmp_path / "raw")
    prepare(raw, tmp_path / "one", image_size=8)
    code = f"from medmeta_jax.data.prepare import *; prepare({raw!r}, Path('two'), image_size=8)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_tfds_opens_it(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    prepare(folder.example(tmp_path / "raw"), tmp_path / "out")
    stored = tfds.builder(NAME, data_dir=tmp_path / "out").as_data_source(SPLIT)
    assert len(stored) == 36
    assert stored[0]["image"].shape == (9, 12, 1)
    assert [bytes(label) for label in stored[0]["labels"]] == [b"a"]


def test_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SHARD_BYTES", 1000)
    raw = folder.example(tmp_path / "raw")
    prepare(raw, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.array_record-*"))) > 3
    np.testing.assert_equal(
        sources.load(str(tmp_path / "out"), image_size=9).images,
        sources.load(raw, image_size=9).images,
    )


def test_again_is_left_and_otherwise_is_refused(tmp_path: Path) -> None:
    raw = folder.example(tmp_path / "raw")
    first = prepare(raw, tmp_path / "out")
    before = files_of(tmp_path / "out")
    assert prepare(raw, tmp_path / "out") == json.loads(json.dumps(first))
    with pytest.raises(DataError, match=r"prepared otherwise \(image_size differ\)"):
        prepare(raw, tmp_path / "out", image_size=8)
    assert files_of(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match=r"mine: is there and holds no prepared data set"):
        prepare(raw, tmp_path / "mine")
    assert files_of(tmp_path / "mine") == {"thesis.txt": b"precious"}


def test_a_damaged_file_leaves_nothing_or_is_skipped(tmp_path: Path) -> None:
    raw = folder.example(tmp_path / "raw")
    (tmp_path / "raw" / "b" / "3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"b/3\.png: not a readable image"):
        prepare(raw, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]
    manifest = prepare(raw, tmp_path / "out", on_error="skip")
    assert [one["name"] for one in manifest["skipped"]] == ["b/3.png"]
    assert manifest["samples"] == 35
    (tmp_path / "raw" / "b" / "4.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 36 files cannot be read"):
        prepare(raw, tmp_path / "other", on_error="skip")


def test_killed_half_way_is_never_read_and_done_again_gives_the_same(tmp_path: Path) -> None:
    raw = folder.example(tmp_path / "raw")
    prepare(raw, tmp_path / "whole")
    code = (
        "import os, time\nfrom medmeta_jax.data.prepare import *\n"
        "def stop(done, total):\n    if done == 20:\n        print('there', flush=True)\n"
        "        time.sleep(60)\n"
        f"prepare({raw!r}, Path('out'), advance=stop)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"there\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(60)
    child.stdout.close()
    assert (tmp_path / "out.partial").exists()
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError):
        sources.load(str(tmp_path / "out.partial"), image_size=8)
    prepare(raw, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"medmeta": 99}, f"of format 99, this version reads {FORMAT}"),
        ({"samples": "many"}, "samples is not of type int"),
        ({"samples": 35}, "speaks of 35 images, 36 are stored"),
        ({"files": None}, "files is not of type dict"),
        ({"split": 3}, "split is not a mapping"),
        ({"files": {"../x": {"bytes": 1, "sha256": ""}}}, r"\.\./x lies elsewhere"),
        ({"files": {"/x": {"bytes": 1, "sha256": ""}}}, "/x lies elsewhere"),
        ({"files": {"x": {"bytes": 1}}}, "x has no size or no checksum"),
        ({"files": {"x": 3}}, "damaged or missing"),
    ],
)
def test_a_manifest_that_is_not_right_is_refused(tmp_path: Path, change, message: str) -> None:
    prepare(folder.example(tmp_path / "raw"), tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        prepared.catalogue(str(tmp_path / "out"))


def test_scaled_down_with_mask_and_boxes() -> None:
    image = np.zeros((20, 40, 1), np.uint8)
    image[:, 20:] = 255
    mask = (image[..., 0] > 0).astype(np.uint8) * 3
    small = within(Record(image, "a", mask=mask, boxes=(Box(20, 0, 40, 20, "b"),)), 10)
    assert small.image.shape == (5, 10, 1)
    np.testing.assert_array_equal(small.mask, np.repeat([[0] * 5 + [3] * 5], 5, 0))
    assert small.boxes == (Box(5, 0, 10, 5, "b"),)
    assert small.image[0, 0, 0] == 0
    assert small.image[0, 9, 0] == 255
    same = Record(image, "a")
    assert within(same, 40) is same
    assert within(same, 0) is same
    assert within(Record(np.full((1, 1, 1), 9, np.uint8), "a"), 0).image.tolist() == [[[9]] * 2] * 2


def test_a_volume_is_scaled_down_with_its_mask() -> None:
    image = np.zeros((10, 20, 40, 1), np.uint8)
    image[:, :, 20:] = 255
    small = within(Record(image, "a", mask=(image[..., 0] > 0).astype(np.uint8) * 3), 10)
    assert small.image.shape == (2, 5, 10, 1)
    np.testing.assert_array_equal(small.mask, np.broadcast_to([0] * 5 + [3] * 5, (2, 5, 10)))
    assert small.image[0, 0, [0, 9], 0].tolist() == [0, 255]
    labels = (np.arange(40) % 7 * 30).astype(np.uint8) * np.ones((10, 20, 1), np.uint8)
    small = within(Record(image, "a", mask=labels), 9)
    assert set(np.unique(small.mask)) <= set(range(0, 210, 30)), "labels are never blended"
    deep = Record(image.transpose(2, 0, 1, 3), "a")
    assert within(deep, 10).image.shape == (10, 2, 5, 1)
    assert within(deep, 40) is deep
    assert within(Record(np.full((1, 1, 1, 1), 9, np.uint8), "a"), 0).image.shape == (2, 2, 2, 1)


def test_a_folder_of_another_format_is_not_taken_for_the_same(tmp_path: Path) -> None:
    raw = folder.example(tmp_path / "raw")
    prepare(raw, tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "medmeta": 1}))
    with pytest.raises(DataError, match=r"prepared otherwise \(medmeta differ\); .* or remove it"):
        prepare(raw, tmp_path / "out")


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """5,000 images of 300 KB each, 1.5 GB in all, in less than 400 MB more than the start."""
    (tmp_path / "raw" / "a").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "raw" / "a" / "0.bmp")
    for i in range(1, 5000):
        os.link(tmp_path / "raw" / "a" / "0.bmp", tmp_path / "raw" / "a" / f"{i}.bmp")
    code = (
        "import resource, tensorflow_datasets\nfrom medmeta_jax.data.prepare import *\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\nprepare('raw', Path('out'))\nprint(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=600
    )
    shutil.rmtree(tmp_path / "out")  # not to be kept with the rest of the test's folder
    assert float(done.stdout) < 400
