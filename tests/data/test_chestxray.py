"""NIH chest X-rays: the release's own table, lists and boxes, read right and refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmeta_jax.data import chestxray, sources
from medmeta_jax.data.records import Record
from medmeta_jax.data.samples import DataError

from .damage import check_refused, list_units, write

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
ROWS = {
    "00000001_000.png": ("Cardiomegaly", 1, "PA"),
    "00000001_001.png": ("Cardiomegaly|Emphysema", 1, "PA"),
    "00000002_000.png": ("No Finding", 2, "AP"),
    "00000003_000.png": ("Infiltration", 3, "AP"),
}
BOXES = (
    "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000003_000.png,Infiltrate,256,512,128,64,,,\n"
)


def write_row(name: str) -> str:
    finding, patient, view = ROWS[name]
    return f"{name},{finding},0,{patient},58,M,{view},2682,2749,0.143,0.143,"


def write_table(where: Path, *, without: str = "") -> None:
    rows = [HEADER, *(write_row(name) for name in ROWS if name != without)]
    (where / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images of three patients in two of the twelve parts, one of them RGBA."""
    write_table(tmp_path)
    for place, name in enumerate(ROWS):
        folder = tmp_path / f"images_{1 + place // 2:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(np.full((16, 16), 40 * place, np.uint8))
        (grey.convert("RGBA") if place == 1 else grey).save(folder / name)
    return tmp_path


def records(root: Path, **options: str) -> dict[str, Record]:
    units = sources.catalogue(str(root), **options).units
    return {Path(unit.name).name: record for unit in units for record in unit.read()}


def test_findings_patients_and_grey_images(root: Path) -> None:
    found = records(root)
    assert {name: record.label for name, record in found.items()} == {
        "00000001_000.png": ("Cardiomegaly",),
        "00000001_001.png": ("Cardiomegaly", "Emphysema"),
        "00000002_000.png": (),
        "00000003_000.png": ("Infiltration",),
    }
    assert [record.group for record in found.values()] == ["1", "1", "2", "3"]
    assert {record.modality for record in found.values()} == {"xray"}
    assert [int(record.image.mean()) for record in found.values()] == [0, 40, 80, 120]
    assert {record.image.shape for record in found.values()} == {(16, 16, 1)}
    units = sources.catalogue(str(root)).units
    assert units[2].name == "images_002/images/00000002_000.png"


def test_loaded_labels_are_several(root: Path) -> None:
    samples = sources.load(str(root), image_size=8)
    assert samples.class_names == ("Cardiomegaly", "Emphysema", "Infiltration")
    np.testing.assert_array_equal(samples.labels, [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]])


def test_single_findings_and_views(root: Path) -> None:
    found = records(root, findings="single")
    assert [record.label for record in found.values()] == [
        "Cardiomegaly", "No Finding", "Infiltration",
    ]  # fmt: skip
    assert list(records(root, view="PA")) == ["00000001_000.png", "00000001_001.png"]
    assert list(records(root, view="AP")) == ["00000002_000.png", "00000003_000.png"]
    about = sources.catalogue(str(root), findings="single", view="AP").about
    assert about.endswith("; view AP; images of one finding or none")


@pytest.mark.parametrize("layout", ["images", "images_001", "second table"])
def test_other_layouts(root: Path, layout: str) -> None:
    """All images in one folder, with or without a number; the table of 2020."""
    if layout == "second table":
        text = (root / "Data_Entry_2017.csv").read_text()
        (root / "Data_Entry_2017.csv").unlink()
        (root / "Data_Entry_2017_v2020.csv").write_text(text, encoding="utf-8-sig")
    else:
        for path in sorted(root.glob("images_*/images/*.png")):
            (root / "all").mkdir(exist_ok=True)
            path.rename(root / "all" / path.name)
        for path in (*root.glob("images_*/images"), *root.glob("images_*")):
            path.rmdir()
        (root / "all").rename(root / layout)
    assert sources.find(str(root)) == "chestxray"
    assert len(records(root)) == 4


def test_official_lists_give_the_side(root: Path) -> None:
    names = list(ROWS)
    (root / "train_val_list.txt").write_text("\n".join(names[:3]))
    (root / "test_list.txt").write_text(f"{names[3]}\n00000009_000.png\n")  # more than the table
    assert [record.side for record in records(root).values()] == ["train"] * 3 + ["test"]


def test_boxes_are_scaled_to_the_image(root: Path) -> None:
    """They are given on 1024 pixels; this image has 16 columns and 8 rows."""
    Image.new("L", (16, 8)).save(next(root.rglob(LAST)))
    (root / "BBox_List_2017.csv").write_text(BOXES)
    found = records(root)
    assert found["00000003_000.png"].boxes == ((4.0, 4.0, 6.0, 4.5, "Infiltration"),)
    assert found["00000001_000.png"].boxes == ()


def test_a_box_ends_where_the_image_does(root: Path) -> None:
    (root / "BBox_List_2017.csv").write_text(BOXES.replace("128,64", "768.25,64"))
    assert records(root)["00000003_000.png"].boxes[0].x1 == 16


def test_parts_that_are_not_there_are_left_out_and_said(root: Path) -> None:
    first, *_, last = ROWS
    next(root.rglob(last)).unlink()
    with pytest.raises(DataError, match=rf"2017\.csv: 1 rows without their image, .* {last}"):
        sources.catalogue(str(root))
    write_table(root, without=first)
    found = sources.catalogue(str(root), missing="leave")
    assert len(found.units) == 2
    assert "1 rows without their image left out; 1 images without a row left out" in found.about
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no image is left"):
        sources.catalogue(str(root), missing="leave")


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


def lists(train: str, test: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "train_val_list.txt").write_text(train)
        (root / "test_list.txt").write_text(test)

    return change


TABLE = "Data_Entry_2017.csv"
FIRST, *_, LAST = ROWS
REST = "\n".join(list(ROWS)[:3])
BAD = {
    "column": (edit(TABLE, "Patient ID", "Patient"), r"2017\.csv: lacks the columns \['Patient ID"),
    "empty": (write(TABLE, ""), r"2017\.csv: has no rows; download it again"),
    "header alone": (write(TABLE, HEADER), r"2017\.csv: has no rows"),
    "bytes": (write(TABLE, b"\xff\xfe\x00"), r"2017\.csv: not a readable table"),
    "quotes": (edit(TABLE, LAST, '"' + LAST), r"2017\.csv: not a readable table"),
    "cut row": (
        edit(TABLE, "3,58,M,AP,2682,2749,0.143,0.143,", "3,5"), r"line 5 has 5 cells .* download",
    ),
    "finding": (edit(TABLE, "Infiltration", "Infiltr"), r"of 00000003_000\.png: no finding 'Inf"),
    "both": (edit(TABLE, "|Emphysema", "|No Finding"), r"no finding 'No Finding'"),
    "patient": (edit(TABLE, ",3,58", ",,58"), r"00000003_000\.png has no Patient ID"),
    "twice": (edit(TABLE, LAST, FIRST), r"two rows for the image 00000001_000\.png"),
    "no name": (edit(TABLE, LAST, ""), r"a row has no Image Index"),
    "no row": (lambda root: write_table(root, without=LAST), r"1 images without a row, the first"),
    "copy": (
        lambda root: Image.new("L", (4, 4)).save(root / "images_001" / "images" / LAST),
        r"images/00000003_000\.png: also in .*images_001",
    ),
    "one list": (write("test_list.txt", LAST), r"holds one of train_val_list\.txt and test_list"),
    "list bytes": (
        lambda root: [write(name, b"\xff")(root) for name in chestxray.LISTS.values()],
        r"train_val_list\.txt: not a list of image names",
    ),
    "not listed": (lists(REST, ""), r"1 images are in neither .* the first 00000003_000\.png"),
    "two lists": (lists(REST + "\n" + LAST, LAST), r"test_list\.txt: 00000003_000\.png is in tr"),
    "patient on both": (
        lists("\n".join(list(ROWS)[1:]), FIRST), r"the patient of 00000001_001\.png is in",
    ),
    "box outside": (
        write("BBox_List_2017.csv", BOXES.replace("256", "2000")), r"2017\.csv: the box of 0000",
    ),
    "box nan": (write("BBox_List_2017.csv", BOXES.replace("256", "nan")), r"is empty or outside"),
    "box text": (write("BBox_List_2017.csv", BOXES.replace("256", "a")), r"could not convert"),
    "box image": (
        write("BBox_List_2017.csv", BOXES.replace(LAST, "x.png")), r"in 'x\.png': no such image",
    ),
    "box finding": (
        write("BBox_List_2017.csv", BOXES.replace("Infiltrate", "Infil")), r"'Infil' in '00000003",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_damage_is_refused_by_name(root: Path, name: str) -> None:
    check_refused(root, BAD[name], list_units)


def test_options_are_checked(root: Path) -> None:
    for option in ("findings", "view", "missing"):
        with pytest.raises(DataError, match=rf"the option {option} must be one of .*'nonsense'"):
            chestxray.catalogue(str(root), **{option: "nonsense"})


def test_a_damaged_image_is_its_units_problem(root: Path) -> None:
    path = next(root.rglob(LAST))
    path.write_bytes(path.read_bytes()[:40])
    units = sources.catalogue(str(root)).units
    with pytest.raises(DataError, match=r"00000003_000\.png: not a readable image"):
        units[-1].read()
    assert units[0].read()


def test_what_is_recognised(root: Path, tmp_path: Path) -> None:
    assert chestxray.recognises(str(root))
    (root / TABLE).unlink()
    assert not chestxray.recognises(str(root))
    assert not chestxray.recognises(str(tmp_path / "nowhere"))
