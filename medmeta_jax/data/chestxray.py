"""NIH ChestX-ray8 and ChestX-ray14 as they are downloaded: a table, and images in twelve parts.

    ROOT/Data_Entry_2017.csv            a row an image (or Data_Entry_2017_v2020.csv)
    ROOT/images_001/images/*.png        to images_012/images/; or all of them in ROOT/images/
    ROOT/train_val_list.txt             both lists or neither: the official sides, by patient
    ROOT/test_list.txt
    ROOT/BBox_List_2017.csv             optional: boxes of some findings in some images

An image's group is its patient. The findings were mined from reports by the data set's authors:
about one in ten is wrong, and "No Finding" does not say that a chest is healthy.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmeta_jax.data._tables import AGAIN, check_option, read_list, read_table
from medmeta_jax.data.records import Box, Catalogue, Record, Unit, scaled_box
from medmeta_jax.data.samples import DataError, read_image, to_channels

TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
BOXES = "BBox_List_2017.csv"
BOX_SIDE = 1024.0  # pixels: boxes are given on the release's images, all of this width and height
NOTHING = "No Finding"
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis",
    "Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
OTHER_NAMES = {"Infiltrate": "Infiltration"}  # as the table of boxes calls it


class Row(NamedTuple):
    """What the table says of an image; findings: () for none."""

    findings: tuple[str, ...]
    patient: str
    view: str


def recognises(source: str) -> bool:
    """A folder that holds the release's table."""
    return any((Path(source) / name).is_file() for name in TABLES)


def catalogue(
    source: str, *, findings: str = "several", view: str = "any", missing: str = "fail"
) -> Catalogue:
    """The images of the table, a unit each. Raises DataError naming what is wrong.

    Args:
      findings: "several": an image's label is the tuple of its findings, () for none; "single":
        only images of one finding or none, "No Finding" being a class.
      view: "PA" or "AP": only images of that view; or "any".
      missing: "fail" refuses rows without an image and images without a row; "leave" goes on
        with what has both, where only some of the twelve parts are there, and says how many.
    """
    check_option("findings", findings, ("several", "single"))
    check_option("view", view, ("any", "PA", "AP"))
    check_option("missing", missing, ("fail", "leave"))
    root = Path(source)
    table = next(root / name for name in TABLES if (root / name).is_file())
    rows, images = read_rows(table), list_images(root)
    notes = compare(table, rows, images, leave=missing == "leave")
    sides, boxes = read_sides(root, rows), read_boxes(root / BOXES, rows)
    units = []
    for name in sorted(rows.keys() & images.keys()):
        row = rows[name]
        if (findings == "single" and len(row.findings) > 1) or view not in ("any", row.view):
            continue
        label = row.findings if findings == "several" else (*row.findings, NOTHING)[0]
        made = functools.partial(
            read, images[name], label, row.patient, sides.get(name, ""), boxes.get(name, ())
        )
        units.append(Unit(images[name].relative_to(root).as_posix(), made))
    if not units:
        raise DataError(f"{table}: no image is left with findings={findings!r} and view={view!r}")
    notes += [f"view {view}"] if view != "any" else []
    notes += ["images of one finding or none"] if findings == "single" else []
    return Catalogue(units, about="; ".join([f"NIH chest X-rays of {root.name}", *notes]))


def read(
    path: Path, label: str | tuple[str, ...], patient: str, side: str, boxes: tuple[Box, ...]
) -> list[Record]:
    """One image, made grey: some of the release are RGBA. Boxes are scaled to its own size."""
    image = to_channels(read_image(path)[None], 1)[0]
    y, x = (side_of / BOX_SIDE for side_of in image.shape[:2])
    own = tuple(scaled_box(box, x, y) for box in boxes)
    return [Record(image, label, group=patient, side=side, modality="xray", boxes=own)]


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    from PIL import Image

    rng = np.random.default_rng(0)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
    header += "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    lines: list[str] = [header]
    sides: dict[str, list[str]] = {"train": [], "test": []}
    for place, finding in enumerate(FINDINGS[:6]):
        folder = where / f"images_{1 + place // 3:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(10):
            patient = 5 * place + i // 2 + 1
            name = f"{patient:08d}_{i % 2:03d}.png"
            Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).save(folder / name)
            lines.append(
                f"{name},{finding},{i % 2},{patient},58,F,{'PA' if i % 2 else 'AP'},"
                f"2500,2048,0.168,0.168,"
            )
            sides["test" if i >= 6 else "train"].append(name)
    (where / TABLES[0]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for side, names in sides.items():
        (where / LISTS[side]).write_text("\n".join(names), encoding="utf-8")
    return str(where)


def read_rows(table: Path) -> dict[str, Row]:
    """The table's rows by the name of their image."""
    rows: dict[str, Row] = {}
    needs = ("Image Index", "Finding Labels", "Patient ID", "View Position")
    for cells in read_table(table, needs, remedy=AGAIN):
        name, findings, patient, view = (cells[column] for column in needs)
        if not name:
            raise DataError(f"{table}: a row has no Image Index; fill it in, or remove the row")
        if name in rows:
            raise DataError(f"{table}: has two rows for the image {name}; remove one")
        found = tuple(dict.fromkeys(part.strip() for part in findings.split("|")))
        found = () if found == (NOTHING,) else found
        unknown = set(found) - set(FINDINGS)
        if unknown:
            raise DataError(f"{table}: Finding Labels of {name}: no finding {sorted(unknown)[0]!r}")
        if not patient:
            raise DataError(f"{table}: {name} has no Patient ID; fill it in")
        rows[name] = Row(found, patient, view)
    return rows


def list_images(root: Path) -> dict[str, Path]:
    """The PNG files by name: one listing of each image folder, no file is looked at."""
    found: dict[str, Path] = {}
    for folder in sorted(root.iterdir()):
        if not re.fullmatch(r"images(_\d+)?", folder.name) or not folder.is_dir():
            continue
        inner = folder / "images"
        holder = inner if inner.is_dir() else folder
        for name in os.listdir(holder):
            if not name.lower().endswith(".png") or name.startswith("."):
                continue
            if name in found:
                raise DataError(f"{holder / name}: also in {found[name].parent}; remove one")
            found[name] = holder / name
    return found


def compare(
    table: Path, rows: dict[str, Row], images: dict[str, Path], *, leave: bool
) -> list[str]:
    """What is left out where rows and images differ, in words; DataError unless `leave`."""
    notes = []
    for names, others, what in (
        (rows.keys(), images.keys(), "rows without their image"),
        (images.keys(), rows.keys(), "images without a row"),
    ):
        lacking = sorted(names - others)
        if lacking and not leave:
            raise DataError(
                f"{table}: {len(lacking)} {what}, the first {lacking[0]}; complete the download, "
                "or leave them out by missing='leave'"
            )
        notes += [f"{len(lacking)} {what} left out"] if lacking else []
    return notes


def read_sides(root: Path, rows: dict[str, Row]) -> dict[str, str]:
    """The side of each image from the official lists; none where there are no lists."""
    there = {side: root / name for side, name in LISTS.items() if (root / name).is_file()}
    if not there:
        return {}
    if len(there) < len(LISTS):
        raise DataError(f"{root}: holds one of {' and '.join(LISTS.values())}; add the other")
    sides: dict[str, str] = {}
    for side, path in there.items():
        names = read_list(path).split()
        both = next((name for name in names if sides.get(name, side) != side), None)
        if both:
            raise DataError(f"{path}: {both} is in {LISTS['train']} too; remove it from one")
        sides.update(dict.fromkeys(names, side))
    lacking = sorted(rows.keys() - sides.keys())
    if lacking:
        raise DataError(
            f"{root}: {len(lacking)} images are in neither {' nor '.join(LISTS.values())}, the "
            f"first {lacking[0]}; download the lists again, or remove both"
        )
    by_patient: dict[str, str] = {}
    for name, row in rows.items():
        if by_patient.setdefault(row.patient, sides[name]) != sides[name]:
            raise DataError(f"{there['test']}: the patient of {name} is in both lists")
    return sides


def read_boxes(path: Path, rows: dict[str, Row]) -> dict[str, tuple[Box, ...]]:
    """The boxes of each image, in pixels of the release's images; none where there is no table."""
    boxes: dict[str, tuple[Box, ...]] = {}
    if not path.is_file():
        return boxes
    # The header reads "Bbox [x,y,w,h]": four columns, torn apart at its commas.
    numbers = ("Bbox [x", "y", "w", "h]")
    for cells in read_table(path, ("Image Index", "Finding Label", *numbers), remedy=AGAIN):
        name, finding = cells["Image Index"], cells["Finding Label"]
        finding = OTHER_NAMES.get(finding, finding)
        try:
            x, y, w, h = (float(cells[column]) for column in numbers)
        except ValueError as error:
            raise DataError(f"{path}: the box of {name}: {error}; repair it") from None
        if name not in rows or finding not in FINDINGS:
            raise DataError(f"{path}: {finding!r} in {name!r}: no such image or finding")
        x1, y1 = min(x + w, BOX_SIDE), min(y + h, BOX_SIDE)
        if not (0 <= x < x1 and 0 <= y < y1):  # what is no number is not inside either
            raise DataError(f"{path}: the box of {name} is empty or outside the image; repair it")
        boxes[name] = (*boxes.get(name, ()), Box(x, y, x1, y1, finding))
    return boxes
