"""A folder of class folders: `PATH/<class>/*`, or `PATH/train/<class>/*` and `PATH/test/<class>/*`.

An optional `PATH/groups.csv` with the columns path, label, group says which images
belong together (patient, smear), and with a column time, a number, when each was taken; `path` is
relative to PATH, or to the class folder.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medmeta_jax.data._tables import read_table
from medmeta_jax.data.records import Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError, read_image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"}
SIDES = {
    "train": "train", "training": "train", "val": "train", "valid": "train",
    "validation": "train", "test": "test", "testing": "test",
}  # fmt: skip
EXAMPLE_CLASSES = ("a", "b", "c", "d", "e", "f")


def recognises(source: str) -> bool:
    """A directory."""
    return Path(source).is_dir()


def catalogue(source: str) -> Catalogue:
    """The images of every class folder, a unit each. Raises DataError naming what is wrong."""
    root = Path(source)
    files, labels, sides = list_files(root)
    groups, times = (read_column(root, files, labels, name) for name in ("group", "time"))
    units = [
        Unit(
            path.relative_to(root).as_posix(),
            functools.partial(read, path, label, side, group, as_time(root, time)),
        )
        for path, label, side, group, time in zip(files, labels, sides, groups, times, strict=True)
    ]
    return Catalogue(units, about=f"class folders of {root.name}")


def read(path: Path, label: str, side: str, group: str | None, time: float | None) -> list[Record]:
    """One image file."""
    return [Record(read_image(path), label, group=group, side=side, time=time)]


def as_time(root: Path, text: str | None) -> float | None:
    """A time as a number (DataError)."""
    try:
        time = None if text is None else float(text)
    except ValueError:
        time = math.nan
    if time is not None and not math.isfinite(time):
        raise DataError(f"{root / 'groups.csv'}: the time {text!r} is no number; repair its row")
    return time


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = [["path", "label", "group"]]
    for name in EXAMPLE_CLASSES:
        (where / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (9, 12), np.uint8)
            Image.fromarray(pixels).save(where / name / f"{i}.png")
            rows.append([f"{name}/{i}.png", name, f"{name}-patient{i % 3}"])
    with (where / "groups.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)
    return str(where)


def list_files(root: Path) -> tuple[list[Path], list[str], list[str]]:
    """Files, class names and sides, in a fixed order."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        archive = next(iter(sorted(root.glob("*.npz"))), None)
        raise DataError(
            f"{root}: no class folders; expected {root}/<class>/<image files>"
            + (f". To read the archive in it, give {archive}" if archive else "")
        )
    named = [folder for folder in folders if folder.name.lower() in SIDES]
    if named and len(named) < len(folders):
        other = next(folder for folder in folders if folder not in named)
        raise DataError(
            f"{root}: {named[0].name}/ beside {other.name}/; either class folders, or the folders "
            f"train, val and test that hold them"
        )
    if named:
        pairs = [
            (SIDES[folder.name.lower()], child)
            for folder in folders
            for child in sorted(folder.iterdir())
            if child.is_dir() and not child.name.startswith(".")
        ]
        if not pairs:
            raise DataError(f"{root}: {folders[0].name}/ holds no class folders")
    else:
        pairs = [("", folder) for folder in folders]
    files, labels, sides = [], [], []
    for side, folder in pairs:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"{folder}: class folder without images; add images or remove it")
        files += found
        labels += [folder.name] * len(found)
        sides += [side] * len(found)
    return files, labels, sides


def read_column(
    root: Path, files: list[Path], labels: list[str], column: str
) -> Sequence[str | None]:
    """What a column of `groups.csv` says of each file; None of all, where there is no such file, or
    no such column but that of the groups."""
    table = root / "groups.csv"
    if not table.exists():
        return [None] * len(files)
    rows = list(read_table(table, ("path", "group")))
    if column not in rows[0]:
        return [None] * len(files)
    given: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        key = (row.get("label", ""), row["path"].replace("\\", "/"))
        given.setdefault(key, set()).add(row[column])
    told = []
    for path, label in zip(files, labels, strict=True):
        inside = path.relative_to(root).as_posix()
        # A path is relative to the root, or to the class folder that the label names.
        keys = [(label, inside), ("", inside), (label, path.name)]
        found = set().union(*(given.get(key, set()) for key in keys)) - {""}
        if not found:
            raise DataError(f"{table}: has no {column} for {inside}; add a row, or remove the file")
        if len(found) > 1:
            raise DataError(f"{table}: names several {column}s for {inside}: {sorted(found)}")
        told.append(found.pop())
    return told
