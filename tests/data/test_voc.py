"""Pascal VOC: boxes counted from 1 with both ends, crops, sides, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmeta_jax.data import sources, voc
from medmeta_jax.data.reading import read_units
from medmeta_jax.data.records import Box
from medmeta_jax.data.samples import DataError

from .damage import Damage, check_refused, list_units, remove, write
from .test_sources import REAL, needs_real

BCCD = REAL / "bccd"

Corners = tuple[float, float, float, float]


def thing(name: str, corners: Corners) -> str:
    """One object; VOC's own may have parts, which have names and boxes too."""
    ends = "".join(
        f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    part = "<part><name>nucleus</name><bndbox><xmin>0</xmin></bndbox></part>"
    return f"<object>{part}<name>{name}</name><bndbox>{ends}</bndbox></object>"


def annotate(root: Path, name: str, *things: str, before: str = "") -> None:
    text = f"{before}<annotation><filename>{name}.jpg</filename>{''.join(things)}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")


def add_image(root: Path, name: str) -> None:
    """40 x 30 pixels: red is the column, green the row; saved without loss under VOC's suffix."""
    rows, columns = np.mgrid[:30, :40].astype(np.uint8)
    pixels = np.stack([columns, rows, np.zeros_like(rows)], -1)
    Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", format="PNG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).mkdir()
    for name in ("a", "b", "c"):
        add_image(tmp_path, name)
    annotate(tmp_path, "a", thing("RBC", (11, 6, 20, 15)), thing("WBC", (1, 1, 4, 8)))
    annotate(tmp_path, "b", thing("WBC", (36, 21, 50, 40)))
    annotate(tmp_path, "c")
    return tmp_path


def corner(image: np.ndarray) -> tuple[int, int]:
    """The column and row of a crop's first pixel, as its colours say."""
    return int(image[0, 0, 0]), int(image[0, 0, 1])


def test_crops_are_the_boxes(root: Path) -> None:
    """A box from 11 to 20 holds the ten columns 10 to 19 as they count from 0."""
    found = sources.catalogue(str(root), margin=0.0)
    a, b, c = (unit.read() for unit in found.units)
    assert [(r.name, r.label, r.group) for r in a] == [("box0", "RBC", "a"), ("box1", "WBC", "a")]
    assert a[0].image.shape == (10, 10, 3)
    assert corner(a[0].image) == (10, 5)
    assert [r.group for r in b] == ["b"]
    assert c == []


def test_crops_are_squares_moved_into_the_image(root: Path) -> None:
    """4 x 8 pixels become 8 x 8, at the left edge; what is beyond the image is cut off first."""
    a, b, _ = (unit.read() for unit in sources.catalogue(str(root), margin=0.0).units)
    assert a[1].image.shape == (8, 8, 3)
    assert corner(a[1].image) == (0, 0)
    assert b[0].image.shape == (10, 10, 3)  # columns 35 to 39, rows 20 to 29
    assert corner(b[0].image) == (30, 20)


def test_margin_is_of_the_longer_side() -> None:
    image = np.zeros((100, 100, 1), np.uint8)
    box = Box(40, 50, 60, 60, "x")
    assert voc.crop(image, box, 0.1).shape == (24, 24, 1)
    assert voc.crop(image, box, 0.0).shape == (20, 20, 1)
    assert voc.crop(image[:15], Box(40, 2, 60, 8, "x"), 0.1).shape == (15, 24, 1)


def test_whole_images_have_boxes(root: Path) -> None:
    a, b, c = (unit.read()[0] for unit in sources.catalogue(str(root), crops=False).units)
    assert a.boxes == ((10, 5, 20, 15, "RBC"), (0, 0, 4, 8, "WBC"))
    assert a.image.shape == (30, 40, 3)
    assert (a.label, b.label, c.label) == (("RBC", "WBC"), ("WBC",), ())
    assert b.boxes == ((35, 20, 40, 30, "WBC"),)
    assert (a.name, a.group) == ("", "a")


def test_small_boxes_can_be_left_out(root: Path) -> None:
    found = sources.catalogue(str(root), least=5)
    assert [r.label for unit in found.units for r in unit.read()] == ["RBC", "WBC"]
    assert found.about.endswith("those under 5 pixels left out")
    whole = sources.catalogue(str(root), least=5, crops=False).units[0].read()[0]
    assert whole.label == ("RBC",)


def test_lists_give_the_side(root: Path) -> None:
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "trainval.txt").write_text("a\n")
    (main / "val.txt").write_text("a\n")
    (main / "test.txt").write_text("b\n\n")
    (main / "cell_train.txt").write_text("nothing -1\n")  # VOC's lists of a class are not read
    sides = [unit.read()[0].side for unit in sources.catalogue(str(root), crops=False).units]
    assert sides == ["train", "test", ""]
    assert [r.side for r in sources.catalogue(str(root)).units[0].read()] == ["train", "train"]


def test_a_name_that_is_not_ascii(root: Path) -> None:
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (root / folder / f"a.{suffix}").rename(root / folder / f"Präparat é.{suffix}")
    annotate(root, "Präparat é", thing("Érythrocyte", (1, 1, 5, 5)), before="\ufeff")
    found = [r.label for unit in sources.catalogue(str(root)).units for r in unit.read()]
    assert "Érythrocyte" in found


def listed(name: str, text: str | bytes) -> Damage:
    return write(f"ImageSets/Main/{name}", text)


BAD_LISTINGS = {
    "no xml": (remove("Annotations/b.xml"), r"b\.jpg: there is no Annotations/b\.xml"),
    "no image": (remove("JPEGImages/b.jpg"), r"b\.xml: there is no JPEGImages/b\.jpg"),
    "two images": (
        lambda root: Image.new("L", (4, 4)).save(root / "JPEGImages" / "b.png"),
        r"b\.png: b\.jpg has the same name",
    ),
    "nothing": (
        lambda root: [path.unlink() for path in root.rglob("*.*")], r"JPEGImages: holds no images",
    ),
    "cut list": (listed("train.txt", "a\nbl"), r"train\.txt: there is no image 'bl'"),
    "empty list": (listed("train.txt", "\n"), r"train\.txt: names no image"),
    "list bytes": (listed("train.txt", b"\xff\xfe"), r"train\.txt: not a list of image names"),
    "both sides": (
        lambda root: [listed("val.txt", "a")(root), listed("test.txt", "a")(root)],
        r"test\.txt: a is in a list of the other side",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LISTINGS)
def test_bad_listings_are_refused_by_name(root: Path, name: str) -> None:
    check_refused(root, BAD_LISTINGS[name], list_units)


BAD_BOXES = {
    "inverted": (thing("RBC", (20, 6, 11, 15)), r"a\.xml: object 0 \(RBC\): its box .* is empty"),
    "inverted rows": (thing("RBC", (11, 15, 20, 6)), r"is empty"),
    "right of it": (
        thing("RBC", (41, 6, 50, 15)),
        r"\(RBC\): its box lies outside the image of 40",
    ),
    "below it": (thing("RBC", (4, 31, 8, 35)), r"lies outside"),
    "left of it": (thing("RBC", (-8, 6, 0, 15)), r"lies outside"),
    "infinite": (thing("RBC", (1, 6, float("inf"), 15)), r"is empty"),
    "no number": (thing("RBC", (1, 6, "x", 15)), r"\(RBC\): its bndbox needs numbers for xmin"),
    "no box": ("<object><name>RBC</name></object>", r"\(RBC\): its bndbox needs numbers"),
    "no name": (thing(" ", (1, 6, 9, 15)), r"a\.xml: object 0 has no name"),
    "cut": ("<object><name>RBC", r"a\.xml: not readable XML"),
}


@pytest.mark.parametrize("crops", [True, False])
@pytest.mark.parametrize("name", BAD_BOXES)
def test_bad_boxes_are_refused_by_file_and_object(root: Path, name: str, crops: bool) -> None:
    text, message = BAD_BOXES[name]
    annotate(root, "a", text)
    units = sources.catalogue(str(root), crops=crops).units
    with pytest.raises(DataError, match=message):
        units[0].read()
    assert units[1].read()


LAUGHS = '<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'


def test_entities_are_refused_unparsed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any encoding, and before a parser sees them."""
    unit = sources.catalogue(str(root)).units[0]
    monkeypatch.setattr(voc.ET, "fromstring", lambda text: pytest.fail("was parsed"))
    for before in (
        LAUGHS,
        LAUGHS.lower(),
        '<!ENTITY a "ha">',
        '<!DOCTYPE annotation SYSTEM "x.dtd">',
    ):
        annotate(root, "a", "<object><name>&b;</name></object>", before=before)
        with pytest.raises(DataError, match=r"a\.xml: has a DOCTYPE or ENTITY"):
            unit.read()
    path = root / "Annotations" / "a.xml"
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.xml: not XML in UTF-8"):
        unit.read()


def test_other_xml_is_refused(root: Path) -> None:
    unit = sources.catalogue(str(root)).units[0]
    path = root / "Annotations" / "a.xml"
    path.write_text("<html></html>")
    with pytest.raises(DataError, match=r"a\.xml: its root is <html>"):
        unit.read()
    path.write_bytes(b" " * (10 * 2**20 + 1))
    with pytest.raises(DataError, match=r"a\.xml: more than 10485760 bytes"):
        unit.read()
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.xml: not readable XML"):
        unit.read()


def test_options_are_checked(root: Path) -> None:
    for margin in (-0.1, float("nan"), 11):
        with pytest.raises(DataError, match="the option margin must be from 0 to 10"):
            sources.catalogue(str(root), margin=margin)
    with pytest.raises(DataError, match="the option least must be 0 or more"):
        sources.catalogue(str(root), least=-1)


def test_what_is_recognised(root: Path) -> None:
    assert sources.find(str(root)) == "voc"
    (root / "Annotations").rename(root / "annotations")
    assert not voc.recognises(str(root))


@needs_real
def test_real_smears() -> None:
    """Two boxes have xmin = xmax: one pixel each as VOC counts, so that all 4888 are there."""
    crops = [r for read in read_units(sources.catalogue(str(BCCD))) for r in read.records]
    assert Counter(r.label for r in crops) == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    assert sorted(r.image.shape[0] for r in crops)[:3] == [1, 1, 29]
    assert len({r.group for r in crops}) == 364
    whole = [
        r for read in read_units(sources.catalogue(str(BCCD), crops=False)) for r in read.records
    ]
    assert Counter(r.side for r in whole) == {"train": 292, "test": 72}
    assert sum(len(r.boxes) for r in whole) == 4888
