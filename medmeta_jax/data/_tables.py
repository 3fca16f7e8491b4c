"""What sources share: their options, tables and lists, and a first look into a folder."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from medmeta_jax.data.samples import DataError

AGAIN = "download it again"  # the remedy of a table that is not the user's own
LOOKED_AT = 1000  # files of a folder, before it is taken not to be of a layout


def first_names(folder: Path) -> list[str]:
    """Some names of a folder, which may be huge."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in itertools.islice(entries, LOOKED_AT)]


def walk(root: Path) -> Iterator[Path]:
    """All files of a tree, folder by folder, in the order of their names."""
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from walk(path)
        else:
            yield path


def by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Files by name without suffix; DataError where two share one."""
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise DataError(f"{path}: {found[path.stem].name} has the same name; remove one")
        found[path.stem] = path
    return found


def read_list(path: Path) -> str:
    """The text of a list of image names. Raises DataError where it is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a list of image names ({error})") from None


def check_option(name: str, value: str, choices: tuple[str, ...]) -> None:
    """DataError where an option is none of its choices."""
    if value not in choices:
        raise DataError(f"the option {name} must be one of {', '.join(choices)}, got {value!r}")


def read_table(
    path: Path, needs: tuple[str, ...], *, remedy: str = "repair it"
) -> Iterator[dict[str, str]]:
    """The rows of a comma-separated table in turn: cells by column, stripped of spaces.

    Columns without a name and blank lines are passed over. Raises DataError naming the file and
    the column or line where the table is damaged, has no rows, or lacks one of `needs`.

    Args:
      remedy: what to do about a damaged one. The user's own can be repaired; of a table that
        comes with its data set say `AGAIN`.
    """
    columns: list[tuple[int, str]] = []
    empty = True
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            for line in reader:
                cells = [cell.strip() for cell in line]
                if not any(cells):
                    continue
                if not columns:
                    columns = [(place, name) for place, name in enumerate(cells) if name]
                    check_columns(path, {name for _, name in columns}, needs)
                    continue
                if len(cells) <= columns[-1][0]:
                    raise DataError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells and the header "
                        f"names {len(columns)}; {remedy}"
                    )
                empty = False
                yield {name: cells[place] for place, name in columns}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error}); {remedy}") from None
    if empty:
        raise DataError(f"{path}: has no rows; {remedy}")


def check_columns(path: Path, found: set[str], needs: tuple[str, ...]) -> None:
    """DataError where a table lacks columns."""
    if lacking := sorted(set(needs) - found):
        raise DataError(f"{path}: lacks the columns {lacking}; needs {', '.join(needs)}")
