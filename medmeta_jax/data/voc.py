"""Pascal VOC: images, and an XML file each with the boxes of what it shows.

    ROOT/JPEGImages/NAME.jpg
    ROOT/Annotations/NAME.xml
    ROOT/ImageSets/Main/{train,val,trainval,test}.txt      optional: names, one a line

Boxes count pixels from 1 and hold both ends, as VOC has it: xmin = xmax is a box one pixel wide.
By default each box is cut out and is a sample; an image's boxes are one group.
"""

from __future__ import annotations

import functools
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from medmeta_jax.data._tables import by_stem, read_list
from medmeta_jax.data.records import Box, Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError, read_image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
LISTS = {"train": "train", "val": "train", "trainval": "train", "test": "test"}
WHOLE = {"crops": False}
LARGEST_XML = 10 * 2**20  # bytes
CORNERS = ("xmin", "ymin", "xmax", "ymax")
EXAMPLE_CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil", "platelet")


def recognises(source: str) -> bool:
    """A folder that holds JPEGImages and Annotations."""
    return all((Path(source) / name).is_dir() for name in ("JPEGImages", "Annotations"))


def catalogue(
    source: str, *, crops: bool = True, margin: float = 0.1, least: float = 1.0
) -> Catalogue:
    """The images, a unit each. Raises DataError naming what is wrong.

    Args:
      crops: a record for each box, cut out and labelled by its name; else a record for each image
        with all its boxes, labelled by the tuple of the names that occur.
      margin: of a crop, to each side, as a share of the box's longer side.
      least: boxes whose shorter side has fewer pixels are left out.
    """
    if not 0 <= margin <= 10:
        raise DataError(f"the option margin must be from 0 to 10, got {margin}")
    if not least >= 0:
        raise DataError(f"the option least must be 0 or more pixels, got {least}")
    root = Path(source)
    pairs = list_pairs(root)
    sides = read_sides(root, {image.stem for image, _ in pairs})
    made = functools.partial(read, crops=crops, margin=margin, least=least)
    units = [
        Unit(
            image.relative_to(root).as_posix(),
            functools.partial(made, image, xml, side=sides.get(image.stem, "")),
        )
        for image, xml in pairs
    ]
    what = "boxes" if crops else "images with boxes"
    small = f", those under {least:g} pixels left out" if least > 1 else ""
    return Catalogue(units, about=f"{what} of {root.name}{small}")


def read(
    path: Path, xml: Path, *, side: str, crops: bool, margin: float, least: float
) -> list[Record]:
    """An image with its boxes, labelled by the names that occur, sorted; or (`crops`) a record for
    each box: its region of the image, named by its place."""
    image = read_image(path)
    boxes = read_boxes(xml, image.shape[1], image.shape[0])
    kept = {place: box for place, box in enumerate(boxes) if shorter_side(box) >= least}
    if not crops:
        label = tuple(sorted({box.label for box in kept.values()}))
        return [Record(image, label, group=path.stem, side=side, boxes=tuple(kept.values()))]
    return [
        Record(crop(image, box, margin), box.label, f"box{place}", group=path.stem, side=side)
        for place, box in kept.items()
    ]


def shorter_side(box: Box) -> float:
    """In pixels."""
    return min(box.x1 - box.x0, box.y1 - box.y0)


def crop(image: np.ndarray, box: Box, margin: float) -> np.ndarray:
    """The square around a box, its margin added; moved, and only then cut, where the image ends.

    image: [H, W, C] -> [h, w, C], h = w unless the image is smaller than the square.
    """
    width, height = box.x1 - box.x0, box.y1 - box.y0
    side = max(1, round(max(width, height) * (1 + 2 * margin)))

    def span(low: float, high: float, size: int) -> slice:
        length = min(side, size)
        # Halves are rounded up, never to even: boxes moved by a pixel give crops moved by one.
        start = math.floor((low + high - length) / 2 + 0.5)
        start = min(max(start, 0), size - length)
        return slice(start, start + length)

    rows, columns = span(box.y0, box.y1, image.shape[0]), span(box.x0, box.x1, image.shape[1])
    return np.ascontiguousarray(image[rows, columns])


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations"):
        (where / name).mkdir(parents=True)
    for i in range(6):
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = f"smear{i}.jpg"
        size = ET.SubElement(root, "size")
        for key, value in (("width", 48), ("height", 36), ("depth", 3)):
            ET.SubElement(size, key).text = str(value)
        for place, name in enumerate(EXAMPLE_CLASSES * 2):
            thing = ET.SubElement(root, "object")
            ET.SubElement(thing, "name").text = name
            box = ET.SubElement(thing, "bndbox")
            x, y = 1 + 12 * (place % 4), 1 + 12 * (place // 4)
            for key, value in zip(CORNERS, (x, y, x + 9, y + 8), strict=True):
                ET.SubElement(box, key).text = str(value)
        ET.ElementTree(root).write(where / "Annotations" / f"smear{i}.xml", encoding="utf-8")
        pixels = rng.integers(0, 256, (36, 48, 3), np.uint8)
        Image.fromarray(pixels).save(where / "JPEGImages" / f"smear{i}.jpg")
    return str(where)


def list_pairs(root: Path) -> list[tuple[Path, Path]]:
    """Each image with its XML file, by name; DataError where one lacks the other."""
    listed = (p for p in (root / "JPEGImages").iterdir() if not p.name.startswith("."))
    images = by_stem(path for path in sorted(listed) if path.suffix.lower() in IMAGE_SUFFIXES)
    folder = root / "Annotations"
    listed = (p for p in folder.iterdir() if not p.name.startswith("."))
    annotations = {path.stem: path for path in sorted(listed) if path.suffix.lower() == ".xml"}
    for stem in sorted(annotations.keys() - images.keys()):
        raise DataError(f"{annotations[stem]}: there is no JPEGImages/{stem}.jpg; add or remove it")
    for stem in sorted(images.keys() - annotations.keys()):
        raise DataError(f"{images[stem]}: there is no Annotations/{stem}.xml; add or remove it")
    if not images:
        raise DataError(f"{root / 'JPEGImages'}: holds no images")
    return [(images[stem], annotations[stem]) for stem in sorted(images)]


def read_sides(root: Path, stems: set[str]) -> dict[str, str]:
    """The side of each image that a list names; VOC leaves some images in none."""
    sides: dict[str, str] = {}
    for name, side in LISTS.items():
        path = root / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            continue
        listed = read_list(path).splitlines()
        listed = [line.strip() for line in listed if line.strip()]
        if not listed:
            raise DataError(f"{path}: names no image; fill it, or remove it")
        for stem in listed:
            if stem not in stems:
                raise DataError(f"{path}: there is no image {stem!r}; add it, or remove the line")
            if sides.setdefault(stem, side) != side:
                raise DataError(f"{path}: {stem} is in a list of the other side too; remove one")
    return sides


def read_boxes(path: Path, width: int, height: int) -> tuple[Box, ...]:
    """The boxes of an annotation, cut to the image: ends in its pixels from 0, as `Box` has them.

    DataError where one is inverted, lies outside the image, or has no name or no numbers.
    """
    boxes = []
    for place, thing in enumerate(parse(path).findall("object")):
        name = (thing.findtext("name") or "").strip()
        what = f"{path}: object {place} ({name})"
        if not name:
            raise DataError(f"{path}: object {place} has no name; repair or remove it")
        try:
            x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{key}") or "") for key in CORNERS)
        except ValueError:
            raise DataError(f"{what}: its bndbox needs numbers for {', '.join(CORNERS)}") from None
        if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 < x0 or y1 < y0:
            raise DataError(f"{what}: its box {(x0, y0, x1, y1)} is empty; repair or remove it")
        x0, y0, x1, y1 = max(x0 - 1, 0), max(y0 - 1, 0), min(x1, width), min(y1, height)
        if x1 <= x0 or y1 <= y0:
            raise DataError(
                f"{what}: its box lies outside the image of {width} x {height} pixels; "
                "repair or remove it"
            )
        boxes.append(Box(x0, y0, x1, y1, name))
    return tuple(boxes)


def parse(path: Path) -> ET.Element:
    """The root of an annotation; DataError for other XML, and for any that defines entities.

    Entities can make a small file fill the memory, so a document type is refused unparsed: in
    the decoded text, where no other encoding can hide it.
    """
    if path.stat().st_size > LARGEST_XML:
        raise DataError(f"{path}: more than {LARGEST_XML} bytes is no annotation; remove it")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not XML in UTF-8 ({error}); save it so") from None
    if "<!doctype" in text.lower() or "<!entity" in text.lower():
        raise DataError(f"{path}: has a DOCTYPE or ENTITY, which is not safe to read; remove it")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise DataError(f"{path}: not readable XML ({error}); repair or remove it") from None
    if root.tag != "annotation":
        raise DataError(f"{path}: its root is <{root.tag}>, not <annotation>")
    return root
