"""Images with masks, two layouts.

    ROOT/images/NAME.png       any image format; masks of the same name, or with _mask, _manual1 or
    ROOT/masks/NAME.png        _1stHO behind it
    ROOT/labels.csv            optional: image (or path), label, and if known mask, group

    ROOT/{benign,malignant,normal}/NAME (1).png        breast ultrasound (BUSI): masks beside the
    ROOT/{benign,malignant,normal}/NAME (1)_mask.png   images; NAME (1)_mask_1.png and so on are
                                                       further ones of the same image

Without labels.csv all images of the first layout are of one class, named after ROOT. BUSI does not
say which images are of one patient, and it is known to hold some images twice.

With the option label="measured" an image has values in place of a class: "area", the share of its
pixels that the masks mark, and "objects", how many numbered instances or else separate parts they
have.

A mask of 8 bits keeps its values; there may be at most 32 of them. A mask of 16 bits numbers
instances; see `instances`. Several masks of an image are united: the higher value stands.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmeta_jax.data._tables import by_stem, check_option, first_names, read_table
from medmeta_jax.data.folder import IMAGE_SUFFIXES
from medmeta_jax.data.measured import VALUES
from medmeta_jax.data.records import TEXT_NAMES, TEXT_SUFFIXES, Box, Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError, open_image, read_image

WHOLE = {"boxes": True}
BUSI_CLASSES = {"benign", "malignant", "normal"}
BEHIND = re.compile(r"(.+?)(_mask(_\d+)?|_manual1|_1stHO)", re.IGNORECASE)
PASSED_OVER = {"thumbs.db", "desktop.ini"}
MOST_VALUES = 32  # of a mask of 8 bits: more are the greys of a resized or lossy picture
EXAMPLE_CLASSES = ("a", "b", "c", "d", "e", "f")


class Pair(NamedTuple):
    """An image, its masks, and what the folder or table says of it."""

    image: Path
    masks: tuple[Path, ...]
    label: str
    group: str | None


def recognises(source: str) -> bool:
    """A folder with images/ and masks/ that holds pictures, or one in BUSI's layout; without a
    table of values."""
    root = Path(source)
    if (root / VALUES).exists():
        return False
    try:
        if (root / "images").is_dir() and (root / "masks").is_dir():
            names = first_names(root / "images")
            return any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)
        found = sorted(name for name in BUSI_CLASSES if (root / name).is_dir())
        return len(found) >= 2 and any(
            name.lower().endswith("_mask.png") for name in first_names(root / found[0])
        )
    except OSError:
        return False


def catalogue(
    source: str, *, instances: str = "merge", label: str = "class", boxes: bool = False
) -> Catalogue:
    """The images, a unit each. Raises DataError naming what is wrong.

    Args:
      instances: what the numbered instances of a 16-bit mask become: "merge": 1 wherever there is
        one, so that they can no longer be told apart; "keep": their numbers, which must then be
        255 or lower.
      label: what an image is labelled by: its "class", or what is "measured" on its masks.
      boxes: whether an image has a box for each numbered instance, of the class that it has itself.
    """
    check_option("instances", instances, ("merge", "keep"))
    check_option("label", label, ("class", "measured"))
    root = Path(source)
    busi = not (root / "images").is_dir()
    pairs = list_busi(root) if busi else list_pairs(root)
    merge = instances == "merge"
    units = [
        Unit(
            pair.image.relative_to(root).as_posix(),
            functools.partial(
                read,
                pair,
                "us" if busi else None,
                merge=merge,
                measured=label == "measured",
                boxes=boxes,
            ),
        )
        for pair in pairs
    ]
    about = f"images and masks of {root.name}"
    return Catalogue(units, f"{about}, breast ultrasound, patients not known" if busi else about)


def read(
    pair: Pair, modality: str | None, *, merge: bool, measured: bool, boxes: bool
) -> list[Record]:
    """One image and its masks, united."""
    image = read_image(pair.image)
    height, width = image.shape[:2]
    united = np.zeros((height, width), np.uint8)
    objects, found = 0, []
    for path in pair.masks:
        stored = read_mask(path)
        mask = as_bytes(path, stored, merge=merge)
        objects += count_objects(stored) if measured else 0
        down, across = mask.shape
        if (down, across) != (height, width):
            raise DataError(
                f"{path}: a mask of {across} x {down} pixels on the image {pair.image} of "
                f"{width} x {height}; they must agree"
            )
        united = np.maximum(united, mask)
        found += boxes_of(stored, pair.label) if boxes else []
    values = {"area": float((united > 0).mean()), "objects": float(objects)}
    label = values if measured else pair.label
    own = tuple(found)
    return [Record(image, label, group=pair.group, modality=modality, mask=united, boxes=own)]


def boxes_of(stored: np.ndarray, label: str) -> list[Box]:
    """The box of each numbered instance; none of 8 bits, which number none.

    >>> boxes_of(np.array([[3, 3, 9]], np.uint16), "cell")[1]
    Box(x0=2, y0=0, x1=3, y1=1, label='cell')
    """
    from scipy.ndimage import find_objects

    if stored.dtype == np.uint8:
        return []
    sides = [box for box in find_objects(stored.astype(np.int32)) if box is not None]
    return [Box(x.start, y.start, x.stop, y.stop, label) for y, x in sides]


def count_objects(stored: np.ndarray) -> int:
    """Instances where they are numbered (16 bits), else parts that touch at no side or corner.

    >>> count_objects(np.array([[3, 3, 9]], np.uint16))
    2
    """
    from scipy.ndimage import label

    if stored.dtype == np.uint8:
        return int(label(stored > 0, np.ones((3, 3)))[1])
    return len(np.unique(stored[stored > 0]))


def read_mask(path: Path) -> np.ndarray:
    """One mask [H, W] as it is stored. Raises DataError where it is no mask, or not readable."""
    image = open_image(path, "mask")
    mode = image.mode
    # Of a palette the indices are the labels, and its colours are for the eye.
    values = np.asarray(image.convert("L") if mode in ("1", "LA") else image)
    if mode in ("RGB", "RGBA"):
        if (values[..., :3] != values[..., :1]).any():
            raise DataError(f"{path}: a mask in colours; save it as grey, a value for each label")
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "ui" or values.min(initial=0) < 0:
        raise DataError(f"{path}: a mask of mode {mode}; save it with 8 or 16 bits a pixel")
    if values.dtype == np.uint8 and len(np.unique(values)) > MOST_VALUES:
        raise DataError(
            f"{path}: more than {MOST_VALUES} values in a mask of 8 bits; save labels without "
            "smoothing or loss, and numbered instances with 16 bits"
        )
    return values


def as_bytes(path: Path, values: np.ndarray, *, merge: bool) -> np.ndarray:
    """A mask as [H, W] uint8; see `catalogue` for numbered instances. Raises DataError."""
    if values.dtype == np.uint8:
        return values
    if merge:
        return np.asarray(values > 0, np.uint8)
    if values.max(initial=0) > 255:
        raise DataError(f"{path}: numbers up to {values.max()} do not fit; use instances='merge'")
    return values.astype(np.uint8)


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = ["image,mask,label,group"]
    for name in ("images", "masks"):
        (where / name).mkdir(parents=True)
    for place, label in enumerate(label for label in EXAMPLE_CLASSES for _ in range(6)):
        name = f"{place:03d}.png"
        Image.fromarray(rng.integers(0, 256, (9, 12), np.uint8)).save(where / "images" / name)
        mask = np.zeros((9, 12), np.uint8)
        mask[2:7, 3 : 4 + place % 6] = 255
        Image.fromarray(mask).save(where / "masks" / name)
        lines.append(f"images/{name},masks/{name},{label},{label}-patient{place % 3}")
    (where / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(where)


def list_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted; DataError for one of another kind."""
    files = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in PASSED_OVER:
            continue
        if path.suffix.lower() in TEXT_SUFFIXES or path.name in TEXT_NAMES:
            continue
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{path}: not an image file; convert it to PNG, or remove it")
        files.append(path)
    return files


def pair_up(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, tuple[Path, ...]]:
    """The masks of each image by its stem; DataError for an image or a mask that stands alone."""
    found: dict[str, tuple[Path, ...]] = dict.fromkeys(images, ())
    for stem, path in masks.items():
        behind = BEHIND.fullmatch(stem)
        own = stem if stem in images or behind is None else behind[1]
        if own not in found:
            raise DataError(
                f"{path}: a mask without its image {own}{path.suffix}; add it, or remove the mask"
            )
        found[own] = (*found[own], path)
    for stem, own_masks in found.items():
        if not own_masks:
            image = images[stem]
            raise DataError(
                f"{image}: an image without a mask {stem}{image.suffix} or "
                f"{stem}_mask{image.suffix}; add it, or remove the image"
            )
    return found


def list_busi(root: Path) -> list[Pair]:
    """The pairs of every class folder."""
    pairs = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] != "."):
        files = by_stem(list_files(folder))
        masks = {stem: path for stem, path in files.items() if BEHIND.fullmatch(stem)}
        images = {stem: path for stem, path in files.items() if stem not in masks}
        if not images and not masks:
            raise DataError(f"{folder}: class folder without images; add images or remove it")
        found = pair_up(images, masks)
        pairs += [Pair(images[stem], found[stem], folder.name, None) for stem in images]
    return pairs


def list_pairs(root: Path) -> list[Pair]:
    """The pairs of images/ and masks/, with their labels and groups."""
    images = by_stem(list_files(root / "images"))
    if not images:
        raise DataError(f"{root / 'images'}: holds no images")
    found = pair_up(images, by_stem(list_files(root / "masks")))
    table = root / "labels.csv"
    if not table.is_file():
        name = root.resolve().name
        return [Pair(images[stem], found[stem], name, None) for stem in images]
    names = {path.relative_to(root).as_posix(): stem for stem, path in images.items()}
    names |= {path.name: stem for stem, path in images.items()}
    pairs: dict[str, Pair] = {}
    for row in read_table(table, ("label",)):
        given = row.get("image") or row.get("path") or ""
        stem = names.get(given.replace("\\", "/"), "")
        if not stem or stem in pairs:
            what = "has two rows for" if stem else "there is no image"
            raise DataError(f"{table}: {what} {given!r} (column image or path); repair its row")
        masks = {path.relative_to(root).as_posix() for path in found[stem]}
        if row.get("mask") and row["mask"].replace("\\", "/") not in masks:
            raise DataError(f"{table}: the mask of {given} is {sorted(masks)}, not {row['mask']!r}")
        if not row["label"] or ("group" in row and not row["group"]):
            raise DataError(f"{table}: {given} has no label or no group; fill it in")
        pairs[stem] = Pair(images[stem], found[stem], row["label"], row.get("group"))
    for stem in sorted(images.keys() - pairs.keys()):
        raise DataError(f"{table}: has no row for {images[stem].name}; add one, or remove the file")
    return [pairs[stem] for stem in images]
