"""Images with masks: pairs, labels, values, instances, BUSI's layout, and what is refused."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmeta_jax.data import masks, sources
from medmeta_jax.data.reading import read_units
from medmeta_jax.data.samples import DataError

from .damage import check_refused, records, remove, write
from .test_sources import REAL, needs_real

SHAPE = (6, 8)


def save(path: Path, values: np.ndarray | int, mode: str | None = None) -> None:
    """Write values, or an image of one value, by PIL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full(SHAPE, values, np.uint8) if isinstance(values, int) else values
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)


def columns(*which: int, value: int = 255) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, list(which)] = value
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    where = tmp_path / "cells"
    for name in ("a", "b"):
        save(where / "images" / f"{name}.png", 9)
        save(where / "masks" / f"{name}.png", columns(1))
    return where


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    """BUSI: one image has two masks, one class has none that show anything."""
    where = tmp_path / "busi"
    for name in ("benign", "malignant", "normal"):
        for i in (1, 2):
            save(where / name / f"{name} ({i}).png", 9, "RGB")
            mask = columns() if name == "normal" else columns(i)
            save(where / name / f"{name} ({i})_mask.png", mask)
    save(where / "benign" / "benign (1)_mask_1.png", columns(5), "1")
    return where


def test_pairs_are_one_class_named_after_their_folder(root: Path) -> None:
    found = records(root)
    assert [(r.label, r.group, r.modality) for r in found] == [("cells", None, None)] * 2
    np.testing.assert_array_equal(found[0].mask, columns(1))
    assert found[0].image.shape == (*SHAPE, 1)


@pytest.mark.parametrize("behind", ["_mask", "_manual1", "_1stHO", "_mask_1", "_MASK"])
def test_names_of_masks(root: Path, behind: str) -> None:
    (root / "masks" / "a.png").rename(root / "masks" / f"a{behind}.png")
    assert [r.mask[0, 1] for r in records(root)] == [255, 255]


def test_an_image_may_end_like_a_mask(root: Path) -> None:
    """Its own name comes before the name that is left without what stands behind."""
    save(root / "images" / "a_mask.png", 9)
    save(root / "masks" / "a_mask.png", columns(2))
    assert [r.mask[0].argmax() for r in records(root)] == [1, 2, 1]


def test_labels_and_groups_by_table(root: Path) -> None:
    (root / "labels.csv").write_text(
        "image,mask,label,group\nimages/b.png,masks/b.png,y,p1\nimages/a.png,masks/a.png,x,p2\n"
    )
    assert [(r.label, r.group) for r in records(root)] == [("x", "p2"), ("y", "p1")]
    (root / "labels.csv").write_text("path,label\na.png,x\nb.png,y\n", encoding="utf-8-sig")
    assert [(r.label, r.group) for r in records(root)] == [("x", None), ("y", None)]


def test_several_masks_are_united(busi: Path) -> None:
    found = records(busi)
    assert Counter(r.label for r in found) == {"benign": 2, "malignant": 2, "normal": 2}
    np.testing.assert_array_equal(found[0].mask, columns(1, 5))
    np.testing.assert_array_equal(found[1].mask, columns(2))
    assert not found[-1].mask.any()
    assert {(r.modality, r.group) for r in found} == {("us", None)}
    about = sources.catalogue(str(busi)).about
    assert about == "images and masks of busi, breast ultrasound, patients not known"


def test_values_of_eight_bits_stay(root: Path) -> None:
    values = np.zeros(SHAPE, np.uint8)
    values.ravel()[:32] = np.arange(32) * 8
    save(root / "masks" / "a.png", values)
    np.testing.assert_array_equal(records(root)[0].mask, values)
    values.ravel()[33] = 7
    save(root / "masks" / "a.png", values)
    with pytest.raises(DataError, match=r"masks/a\.png: more than 32 values"):
        records(root)


@pytest.mark.parametrize("mode", ["1", "LA", "RGB", "RGBA"])
def test_grey_masks_of_other_modes(root: Path, mode: str) -> None:
    save(root / "masks" / "a.png", columns(1), mode)
    np.testing.assert_array_equal(records(root)[0].mask, columns(1))


def test_palettes_give_their_indices(root: Path) -> None:
    image = Image.fromarray(columns(3, value=2), mode="P")
    image.putpalette([0, 0, 0, 90, 0, 0, 0, 90, 0])
    image.save(root / "masks" / "a.png")
    np.testing.assert_array_equal(records(root)[0].mask, columns(3, value=2))


def test_instances_are_merged_or_kept(root: Path) -> None:
    numbered = columns(1, value=1).astype(np.uint16) + columns(4, value=200)
    for name in ("a", "b"):
        save(root / "masks" / f"{name}.png", numbered)
    np.testing.assert_array_equal(records(root)[0].mask, columns(1, 4, value=1))
    np.testing.assert_array_equal(records(root, instances="keep")[0].mask, numbered)
    save(root / "masks" / "a.png", numbered * 2)
    assert records(root)[0].mask.max() == 1
    with pytest.raises(DataError, match=r"a\.png: numbers up to 400 do not fit"):
        records(root, instances="keep")
    with pytest.raises(DataError, match="the option instances must be one of merge, keep"):
        records(root, instances="split")


def test_what_is_no_sample_is_passed_over(root: Path) -> None:
    for name in (".hidden.png", "Thumbs.db", "notes.txt", "LICENSE"):
        (root / "images" / name).write_text("x")
    assert len(records(root)) == 2


table = functools.partial(write, "labels.csv")
BAD = {
    "no mask": (remove("masks/b.png"), r"images/b\.png: an image without a mask b\.png"),
    "no image": (remove("images/b.png"), r"masks/b\.png: a mask without its image b\.png"),
    "other name": (
        lambda root: save(root / "masks" / "c_mask.png", 0), r"c_mask\.png: .* image c\.png",
    ),
    "two suffixes": (
        lambda root: save(root / "images" / "b.bmp", 0), r"b\.png: b\.bmp has the same name",
    ),
    "other kind": (
        lambda root: (root / "masks" / "b.npy").write_text("x"), r"b\.npy: not an image file",
    ),
    "columns": (table("image,class\na.png,x\n"), r"labels\.csv: lacks the columns \['label'\]"),
    "no path": (table("name,label\na.png,x\n"), r"there is no image '' \(column image or path"),
    "elsewhere": (table("path,label\n../images/a.png,x\n"), r"there is no image '\.\./images/a"),
    "twice": (table("path,label\na.png,x\na.png,y\n"), r"has two rows for 'a\.png'"),
    "too few": (table("path,label\na.png,x\n"), r"labels\.csv: has no row for b\.png"),
    "no label": (table("path,label\na.png,\n"), r"a\.png has no label or no group"),
    "no group": (table("path,label,group\na.png,x,\n"), r"a\.png has no label or no group"),
    "cut": (table("path,label,group\na.png,x"), r"labels\.csv: line 2 has 2 cells"),
    "other mask": (
        table("path,mask,label\na.png,masks/b.png,x\n"), r"the mask of a\.png is .*masks/a\.png'",
    ),
    "size": (
        lambda root: save(root / "masks" / "a.png", np.zeros((3, 4), np.uint8)),
        r"masks/a\.png: a mask of 4 x 3 pixels on the image .*images/a\.png of 8 x 6",
    ),
    "turned": (
        lambda root: save(root / "masks" / "a.png", np.zeros((8, 6), np.uint8)), r"6 x 8 pixels on",
    ),
    "colours": (
        lambda root: save(root / "masks" / "a.png", np.eye(3, dtype=np.uint8)[None] * 9),
        r"a\.png: a mask in colours",
    ),
    "no whole numbers": (
        lambda root: Image.fromarray(np.zeros(SHAPE, np.float32)).save(
            root / "masks" / "a.png", format="TIFF"
        ),
        r"a\.png: a mask of mode F",
    ),
    "cut mask": (
        lambda root: (root / "masks/a.png").write_bytes((root / "masks/a.png").read_bytes()[:40]),
        r"masks/a\.png: not a readable mask",
    ),
    "cut image": (
        lambda root: (root / "images" / "a.png").write_bytes(b""), r"images/a\.png: not a readable",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_damage_is_refused_by_name(root: Path, name: str) -> None:
    check_refused(root, BAD[name])


def test_empty_folders_are_refused(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.unlink()
    assert not masks.recognises(str(root))
    with pytest.raises(DataError, match="images: holds no images"):
        masks.catalogue(str(root))


def test_busi_drops_nothing(busi: Path) -> None:
    (busi / "normal" / "normal (2)_mask.png").unlink()
    with pytest.raises(DataError, match=r"normal \(2\)\.png: an image without a mask"):
        sources.catalogue(str(busi))
    (busi / "normal" / "normal (2).png").unlink()
    (busi / "benign" / "benign (1).png").unlink()
    with pytest.raises(DataError, match=r"benign \(1\)_mask\.png: a mask without its image"):
        sources.catalogue(str(busi))
    (busi / "empty").mkdir()
    save(busi / "benign" / "benign (1).png", 0)
    with pytest.raises(DataError, match="empty: class folder without images"):
        sources.catalogue(str(busi))


def test_what_is_recognised(root: Path, busi: Path, tmp_path: Path) -> None:
    """Not class folders of BUSI's names without masks, nor volumes in images/ and masks/."""
    assert (sources.find(str(root)), sources.find(str(busi))) == ("masks", "masks")
    for path in busi.rglob("*_mask*.png"):
        path.unlink()
    assert not masks.recognises(str(busi))
    for name in ("images", "masks"):
        (tmp_path / "ct" / name).mkdir(parents=True)
        (tmp_path / "ct" / name / "a.nii.gz").write_bytes(b"x")
    assert not masks.recognises(str(tmp_path / "ct"))
    assert not masks.recognises(str(tmp_path / "nowhere"))


@needs_real
@pytest.mark.parametrize(
    ("name", "labels", "values"),
    [
        (
            "wbc_seg",
            {"neutrophil": 176, "lymphocyte": 53, "monocyte": 48, "eosinophil": 22, "basophil": 1},
            {0, 128, 255},
        ),
        ("nuclei_seg", {"nuclei_seg": 80}, {0, 1}),
        ("retina_vessels", {"retina_vessels": 40}, {0, 255}),
    ],
)
def test_real_masks(name: str, labels: dict[str, int], values: set[int]) -> None:
    found = [r for read in read_units(sources.catalogue(str(REAL / name))) for r in read.records]
    assert Counter(r.label for r in found) == labels
    assert {value for r in found for value in np.unique(r.mask).tolist()} == values
    assert all(r.mask.any() for r in found)
