"""A folder of images and `values.csv`: what was measured of each, such as an age.

    ROOT/values.csv     path, NAME, NAME, ...    a row an image; an empty cell where not known
    ROOT/.../*.png      any image format, in any folders

`path` is relative to ROOT. The columns group (patient), side ("train" or "test") and domain are
optional; every other column is a number, and what it is called.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np

from medmeta_jax.data._tables import read_table, walk
from medmeta_jax.data.folder import IMAGE_SUFFIXES, SIDES
from medmeta_jax.data.records import Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError, read_image

VALUES = "values.csv"
OTHERS = {"path", "group", "side", "domain"}  # columns that are no values


def recognises(source: str) -> bool:
    """A folder with values.csv."""
    return (Path(source) / VALUES).is_file()


def catalogue(source: str) -> Catalogue:
    """The images of the table, a unit each. Raises DataError naming the line that is wrong."""
    root = Path(source)
    table = root / VALUES
    inside = {
        path.relative_to(root).as_posix(): path
        for path in walk(root)
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
    units: dict[str, Unit] = {}
    names: tuple[str, ...] = ()
    for row in read_table(table, ("path",)):
        path = row["path"].replace("\\", "/")
        if path not in inside or path in units:
            what = "has two rows for" if path in units else "there is no image"
            raise DataError(f"{table}: {what} {row['path']!r}; repair its row")
        names = names or names_of(table, row)
        record = functools.partial(
            Record,
            label=values_of(table, path, {name: row[name] for name in names}),
            group=group_of(table, row),
            side=side_of(table, row),
            domain=row.get("domain") or None,
        )
        units[path] = Unit(path, functools.partial(read, inside[path], record))
    for path in sorted(inside.keys() - units.keys()):
        raise DataError(f"{table}: has no row for {path}; add one, or remove the file")
    return Catalogue(
        [units[path] for path in inside], f"values of {root.resolve().name}", class_names=names
    )


def read(path: Path, record: functools.partial[Record]) -> list[Record]:
    """One image file."""
    return [record(read_image(path))]


def names_of(table: Path, row: dict[str, str]) -> tuple[str, ...]:
    """What was measured, in the table's order."""
    names = tuple(name for name in row if name not in OTHERS)
    if not names:
        raise DataError(f"{table}: has no column of values beside {', '.join(row)}; add one")
    return names


def values_of(table: Path, path: str, cells: dict[str, str]) -> dict[str, float]:
    """The values of a row that are known; DataError where none is, or one is no number."""
    found = {}
    for name, cell in cells.items():
        try:
            value = float(cell) if cell else None
        except ValueError:
            value = math.nan
        if value is not None and not math.isfinite(value):
            raise DataError(
                f"{table}: {name} of {path} is {cell!r}; give a number or leave it empty"
            )
        if value is not None:
            found[name] = value
    if not found:
        raise DataError(f"{table}: {path} has no value; fill one in, or remove it")
    return found


def group_of(table: Path, row: dict[str, str]) -> str | None:
    """The row's group, where the table has them; DataError for an empty one."""
    if row.get("group") == "":
        raise DataError(f"{table}: {row['path']} has no group; fill it in")
    return row.get("group")


def side_of(table: Path, row: dict[str, str]) -> str:
    """The row's side, where the table has them."""
    side = row.get("side", "").lower()
    if side and side not in SIDES:
        raise DataError(f"{table}: side of {row['path']} is {row['side']!r}; give train or test")
    return SIDES.get(side, "")


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = ["path,group,brightness,width"]
    (where / "images").mkdir(parents=True)
    for place in range(36):
        width, grey = int(rng.integers(2, 10)), int(rng.integers(60, 250))
        pixels = np.zeros((9, 12), np.uint8)
        pixels[2:7, 1 : 1 + width] = grey
        Image.fromarray(pixels).save(where / "images" / f"{place:02d}.png")
        known = str(width) if place % 5 else ""
        lines.append(f"images/{place:02d}.png,patient{place // 2},{grey},{known}")
    (where / VALUES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(where)
