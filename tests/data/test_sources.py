"""Class folders and archives: read right, and refused by name where they are wrong."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from medmeta_jax.data import folder, sources
from medmeta_jax.data.masks import read_mask
from medmeta_jax.data.samples import DataError, fit_image, read_image, to_channels

REAL = Path(os.environ.get("MEDMETA_TEST_DATA") or "../shared/data")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL}")


def write_images(where: Path, names: str, per_class: int = 3, mode: str = "L") -> None:
    for value, name in enumerate(names):
        (where / name).mkdir(parents=True)
        for i in range(per_class):
            shape = (6, 8) if mode == "L" else (6, 8, 3)
            pixels = np.full(shape, 20 * value + i, np.uint8)
            Image.fromarray(pixels).save(where / name / f"{i}.png")


def test_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path, "cab")
    samples = sources.load(str(tmp_path), image_size=8)
    assert samples.class_names == ("a", "b", "c")
    assert samples.images.shape == (9, 8, 8, 1)
    assert samples.groups is None
    assert samples.sides is None
    assert samples.images[samples.labels == 0].max() == 22  # a was written second


def test_proportions_are_kept(tmp_path: Path) -> None:
    Image.fromarray(np.full((10, 20), 200, np.uint8)).save(tmp_path / "wide.png")
    image = fit_image(read_image(tmp_path / "wide.png"), 20)[..., 0]
    assert (image[6:14] == 200).all()
    assert (image[:4] == 0).all()


def test_train_and_test_folders(tmp_path: Path) -> None:
    for side in ("train", "val", "test"):
        write_images(tmp_path / side, "ab")
    samples = sources.load(str(tmp_path), image_size=8)
    assert samples.class_names == ("a", "b")
    assert sorted(samples.sides) == ["test"] * 6 + ["train"] * 12


def test_groups_table(tmp_path: Path) -> None:
    write_images(tmp_path, "ab")
    with (tmp_path / "groups.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "label", "group"])
        writer.writerows([f"{c}/{i}.png", c, f"patient{i}"] for c in "ab" for i in range(3))
    samples = sources.load(str(tmp_path), image_size=8)
    assert samples.groups.tolist() == ["patient0", "patient1", "patient2"] * 2


def test_grey_and_colour_together(tmp_path: Path) -> None:
    write_images(tmp_path, "a")
    write_images(tmp_path / "more", "b", mode="RGB")
    (tmp_path / "more" / "b").rename(tmp_path / "b")
    (tmp_path / "more").rmdir()
    samples = sources.load(str(tmp_path), image_size=8)
    assert samples.images.shape[-1] == 3
    assert to_channels(samples.images, 1).shape[-1] == 1


def test_sixteen_bits_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    pixels = np.linspace(1000, 3000, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert (image.min(), image.max()) == (0, 255)


def damage_groups(where: Path) -> None:
    (where / "groups.csv").write_text("path,label\na/0.png,a\n")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_decompression_bomb_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], np.ndarray]
) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "bomb.png")
    assert read(tmp_path / "bomb.png").shape[:2] == (20, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"bomb\.png: too large to be safe to open"):
        read(tmp_path / "bomb.png")


def test_groups_by_label_and_name(tmp_path: Path) -> None:
    """Paths may be relative to the class folder that the label names; a BOM is no column."""
    write_images(tmp_path, "ab")
    lines = [f"{i}.png,{c},{c}-patient{i}" for c in "ab" for i in range(3)]
    text = "\n".join(["path,label,group", *lines])
    (tmp_path / "groups.csv").write_text(text, encoding="utf-8-sig")
    samples = sources.load(str(tmp_path), image_size=8)
    assert samples.groups.tolist() == [f"{c}-patient{i}" for c in "ab" for i in range(3)]


def test_groups_table_as_a_spreadsheet_saves_it(tmp_path: Path) -> None:
    """Spaces, blank lines, columns without a name, and paths as Windows writes them."""
    write_images(tmp_path, "a")
    lines = [f"a\\{i}.png, patient{i // 2} ,," for i in range(3)]
    text = "\n".join(["path,group,,", *lines, ",,,", ""])
    (tmp_path / "groups.csv").write_text(text)
    samples = sources.load(str(tmp_path), image_size=8)
    assert samples.groups.tolist() == ["patient0", "patient0", "patient1"]


BAD_FOLDERS = {
    "groups cut off": (
        lambda p: (p / "groups.csv").write_text("path,label,group\na/0.png,a\n"),
        r"groups\.csv: line 2 has 2 cells and the header names 3; repair it$",
    ),
    "groups with an open quote": (
        lambda p: (p / "groups.csv").write_text('path,group\na/0.png,"p1\n'),
        r"groups\.csv: not a readable table \(.*\); repair it$",
    ),
    "groups of no name": (
        lambda p: (p / "groups.csv").write_text("path,group\na/0.png,\n"),
        r"groups\.csv: has no group for a/0\.png",
    ),
    "groups without rows": (
        lambda p: (p / "groups.csv").write_text("path,group\n"),
        r"groups\.csv: has no rows; repair it$",
    ),
    "two groups": (
        lambda p: (p / "groups.csv").write_text("path,label,group\na/0.png,a,p1\n0.png,a,p2\n"),
        r"names several groups for a/0\.png: \['p1', 'p2'\]",
    ),
    "train beside classes": (lambda p: (p / "train").mkdir(), r"train/ beside a/; either class"),
    "empty class": (lambda p: (p / "z").mkdir(), r"z: class folder without images"),
    "cut off": (
        lambda p: (p / "a" / "0.png").write_bytes((p / "a" / "0.png").read_bytes()[:30]),
        r"a/0\.png: not a readable image",
    ),
    "zero bytes": (lambda p: (p / "a" / "0.png").write_bytes(b""), r"a/0\.png: not a readable"),
    "not an image": (lambda p: (p / "b" / "1.png").write_text("hello"), r"b/1\.png: not a read"),
    "groups without group": (damage_groups, r"groups\.csv: lacks the columns \['group'\]"),
    "groups without a file": (
        lambda p: (p / "groups.csv").write_text("path,label,group\na/0.png,a,p1\n"),
        r"groups\.csv: has no group for a/1\.png",
    ),
}


def test_a_folder_of_an_archive_says_to_give_the_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.zeros((1, 2, 2), np.uint8), labels=np.zeros(1, int))
    with pytest.raises(DataError, match=r"no class folders; .* give .*set\.npz$"):
        sources.load(str(tmp_path), image_size=8)
    (tmp_path / "set.npz").unlink()
    with pytest.raises(DataError, match=r"no class folders; expected .*<image files>$"):
        sources.load(str(tmp_path), image_size=8)


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folders_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "ab")
    damage, message = BAD_FOLDERS[name]
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        sources.load(str(tmp_path), image_size=8)


def test_missing_and_strange_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        sources.load(str(tmp_path / "nowhere"), image_size=8)
    with pytest.raises(DataError, match=r"nowhere\.npz: no such file"):
        sources.load(str(tmp_path / "nowhere.npz"), image_size=8)
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(DataError, match=r"x\.txt: not a folder of class folders and not"):
        sources.load(str(tmp_path / "x.txt"), image_size=8)
    with pytest.raises(DataError, match="no class folders"):
        folder.catalogue(str(tmp_path))


GOOD = {
    "images": np.arange(4 * 36).reshape(4, 6, 6).astype(np.uint8),
    "labels": np.array([3, 3, 7, 7]),
}


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **GOOD, groups=np.array([1, 1, 2, 2]), domains=np.array(["ct"] * 4))
    samples = sources.load(str(path), image_size=6)
    assert samples.class_names == ("class3", "class7")
    assert samples.labels.tolist() == [0, 0, 1, 1]
    assert samples.groups.tolist() == ["1", "1", "2", "2"]
    np.testing.assert_array_equal(samples.images[..., 0], GOOD["images"])


def test_medmnist_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    parts = {}
    for side in ("train", "val", "test"):
        parts[f"{side}_images"] = GOOD["images"]
        parts[f"{side}_labels"] = GOOD["labels"][:, None].astype(np.uint8)
    np.savez(path, **parts)
    samples = sources.load(str(path), image_size=6)
    assert samples.images.shape == (12, 6, 6, 1)
    assert (samples.sides == "test").sum() == 4
    assert (samples.sides == "train").sum() == 8


def test_slices_of_volumes_are_of_one_group(tmp_path: Path) -> None:
    """MedMNIST's 3-D layout: [N, D, H, W] of grey; a slice knows its volume, side and label."""
    path = tmp_path / "x3d.npz"
    volumes = np.arange(3 * 5 * 6 * 7).reshape(3, 5, 6, 7).astype(np.uint8)
    labels = np.array([[0], [1], [1]], np.uint8)
    np.savez(
        path, train_images=volumes[:2], train_labels=labels[:2],
        test_images=volumes[2:], test_labels=labels[2:],
    )  # fmt: skip
    (unit,) = sources.catalogue(str(path), slices=2).units
    found = unit.read()
    assert [r.name for r in found] == [f"{n} z={z}" for n in range(3) for z in (1, 3)]
    assert [r.group for r in found] == ["0", "0", "1", "1", "2", "2"]
    assert [r.side for r in found] == ["train"] * 4 + ["test"] * 2
    assert [r.label for r in found] == ["class0"] * 2 + ["class1"] * 4
    for record, place in zip(found, [(n, z) for n in range(3) for z in (1, 3)], strict=True):
        np.testing.assert_array_equal(record.image[..., 0], volumes[place])
    assert len(sources.catalogue(str(path), slices=0).units[0].read()) == 15
    with pytest.raises(DataError, match="the option slices must be >= 0, got -1"):
        sources.catalogue(str(path), slices=-1)


def test_volumes_may_stay_whole(tmp_path: Path) -> None:
    """Each an image of its own group, and no slices."""
    volumes = np.arange(3 * 5 * 6 * 7).reshape(3, 5, 6, 7).astype(np.uint8)
    path = tmp_path / "v.npz"
    np.savez(path, images=volumes, labels=[0, 1, 1])
    found = sources.catalogue(str(path), whole=True).units[0].read()
    assert [(r.name, r.label, r.group) for r in found] == [
        ("0", "class0", "0"), ("1", "class1", "1"), ("2", "class1", "2"),
    ]  # fmt: skip
    for record, volume in zip(found, volumes, strict=True):
        np.testing.assert_array_equal(record.image, volume[..., None])


def test_volumes_keep_the_groups_that_are_given(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz", images=np.zeros((2, 5, 6, 7), np.uint8), labels=[0, 1],
        groups=["ann", "ben"],
    )  # fmt: skip
    samples = sources.load(str(tmp_path / "x.npz"), image_size=6)
    assert samples.groups.tolist() == ["ann"] * 4 + ["ben"] * 4


def test_an_array_larger_than_memory_is_refused(tmp_path: Path) -> None:
    """A header of 10^6-cubed pixels on a few bytes."""
    header = io.BytesIO()
    what = {"descr": "|u1", "fortran_order": False, "shape": (10**6,) * 3}
    np.lib.format.write_array_header_1_0(header, what)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(100))
        archive.writestr("labels.npy", header.getvalue() + bytes(100))
    with pytest.raises(DataError, match=r"x\.npz: not a readable npz archive"):
        sources.catalogue(str(tmp_path / "x.npz"))


BAD_ARCHIVES = {
    "wrong keys": ({"pictures": GOOD["images"]}, r"needs the arrays images and labels.*pictures"),
    "lengths": ({**GOOD, "labels": GOOD["labels"][:3]}, r"labels must be \[4\], one an image"),
    "dtype": ({**GOOD, "images": GOOD["images"] / 255}, r"images must be uint8, got float64"),
    "axes": ({**GOOD, "images": GOOD["images"][0]}, r"images must be \[N, H, W\]"),
    "real labels": ({**GOOD, "labels": GOOD["labels"] / 2}, r"labels must be integers"),
    "groups": ({**GOOD, "groups": np.arange(3)}, r"groups must be \[4\]"),
    "names": ({**GOOD, "class_names": np.array(["a", "b"])}, r"class_names must name the labels"),
    "objects": ({**GOOD, "labels": np.array([{}, 1, 2, 3], object)}, r"not a readable npz"),
    "half medmnist": ({"train_images": GOOD["images"]}, r"train_images but no train_labels"),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_bad_archives_are_refused_by_field(tmp_path: Path, name: str) -> None:
    arrays, message = BAD_ARCHIVES[name]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        sources.load(str(tmp_path / "x.npz"), image_size=6)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 399), st.integers(1, 255))))
def test_damaged_bytes_never_crash(tmp_path: Path, cut: int, flips) -> None:
    """Cut or altered files are read, or refused as DataError; nothing else comes out."""
    save = np.savez_compressed if cut % 2 else np.savez
    save(tmp_path / "good.npz", **GOOD)
    data = bytearray((tmp_path / "good.npz").read_bytes()[: cut + 300])
    for place, change in flips:
        data[place % len(data)] ^= change
    (tmp_path / "x.npz").write_bytes(data)
    Image.fromarray(GOOD["images"][0]).save(tmp_path / "good.png")
    pixels = bytearray((tmp_path / "good.png").read_bytes())
    for place, change in flips:
        pixels[place % len(pixels)] ^= change
    (tmp_path / "x.png").write_bytes(pixels[: cut + 20])
    with contextlib.suppress(DataError):
        sources.load(str(tmp_path / "x.npz"), image_size=6)
    with contextlib.suppress(DataError):
        read_image(tmp_path / "x.png")


@needs_real
@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("omniglot/omniglot28.npz", (4840, 28, 28, 1), 242),
        ("pneumoniamnist/pneumoniamnist.npz", (5030, 28, 28, 1), 2),
        ("blood_cells", (1400, 28, 28, 3), 7),
        ("chest_xray", (307, 28, 28, 1), 3),
    ],
)
def test_real_data(name: str, shape, classes: int) -> None:
    samples = sources.load(str(REAL / name), image_size=28)
    assert samples.images.shape == shape
    assert len(samples.class_names) == classes
    assert (samples.groups is not None) == (name == "blood_cells")
