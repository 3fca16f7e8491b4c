"""A table of covariates (age, sex, gene values), joined to images by their patient.

A comma-separated table with a column `group` (or the one named), a patient a row. A column whose
cells are numbers is one covariate, standardised; any other is one a category, 1 or 0. Empty cells
("", NA, n/a, nan, unknown) are missing, which `Joined.present` says: they are never guessed.

Messages name rows by their number and not their patient. Where a data set's groups are hashes of
identities (DICOM), the table's are hashed alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data._identity import hashed
from medmeta_jax.data._tables import read_table
from medmeta_jax.data.samples import DataError, Samples

MISSING = {"", "na", "n/a", "nan", "null", "none", "unknown", "?"}


class Column(NamedTuple):
    """One column by patient; missing cells are absent. categories: () for numbers."""

    name: str
    cells: dict[str, float | str]
    categories: tuple[str, ...]


class Table(NamedTuple):
    """Patients in the file's order, and the columns beside the one that names them."""

    path: Path
    patients: tuple[str, ...]
    columns: tuple[Column, ...]


class Joined(NamedTuple):
    """Covariates of each image.

    values: [N, columns] float32: numbers with mean 0 and standard deviation 1 over the patients
        they were fitted on, categories 1 or 0; 0 where missing.
    present: [N, columns] bool.
    names: one a column: "age", "sex=F".
    absent: patients that have images and no row.
    """

    values: np.ndarray
    present: np.ndarray
    names: tuple[str, ...]
    absent: tuple[str, ...]


def read(path: Path, *, key: str = "group", hashes: bool = False) -> Table:
    """The table, its patients by their names or by the hashes of these.

    Raises DataError naming the file, and the row and column, that are wrong.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; a table with the column {key} is needed")
    rows: dict[str, dict[str, str]] = {}
    for place, row in enumerate(read_table(path, (key,)), 1):
        patient = row.pop(key)
        if not patient:
            raise DataError(f"{path}: row {place} names no {key}; fill it in or remove the row")
        patient = hashed(patient) if hashes else patient
        if patient in rows:
            raise DataError(f"{path}: row {place} repeats the {key} of another; keep one of them")
        rows[patient] = row
    names = tuple(next(iter(rows.values())))
    if not names:
        raise DataError(f"{path}: has no column beside {key}")
    return Table(path, tuple(rows), tuple(column(path, name, rows) for name in names))


def column(path: Path, name: str, rows: dict[str, dict[str, str]]) -> Column:
    """A column of numbers, or of categories where fewer than half of its cells are numbers."""
    cells = {
        patient: row[name] for patient, row in rows.items() if row[name].lower() not in MISSING
    }
    numbers = {patient: number_of(cell) for patient, cell in cells.items()}
    known = {patient: value for patient, value in numbers.items() if value is not None}
    if cells and 2 * len(known) < len(cells):
        return Column(name, dict(cells), tuple(sorted(set(cells.values()))))
    for place, patient in enumerate(rows, 1):
        if patient in cells and patient not in known:
            raise DataError(
                f"{path}: row {place} has the {name} {cells[patient]!r}, no number, and most of "
                "the column are; repair it or leave the cell empty"
            )
    return Column(name, {**known}, ())


def number_of(cell: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def join(table: Table, groups: np.ndarray, fitted_on: np.ndarray) -> Joined:
    """The covariates of images by their patients.

    Args:
      groups: [N] str, the patient of each image.
      fitted_on: [N] bool, the images (of meta-train) whose patients the numbers are standardised
        by, each patient once; no other has a part in it.

    Raises DataError where no patient of the images is in the table.
    """
    patients, place = np.unique(groups, return_inverse=True)
    there = np.isin(patients, table.patients)
    if not there.any():
        raise DataError(
            f"{table.path}: names none of the {len(patients)} patients, the first of which is "
            f"{patients[0]}; its key column must hold the groups as `data inspect` counts them"
        )
    fitted = np.isin(np.arange(len(patients)), place[fitted_on])
    values, present, names = [], [], []
    for column in table.columns:
        known = np.asarray([str(patient) in column.cells for patient in patients])
        cells = [column.cells.get(str(patient)) for patient in patients]
        for category in column.categories:
            values.append(np.asarray([cell == category for cell in cells], float))
            present.append(known)
            names.append(f"{column.name}={category}")
        if not column.categories:
            numbers = np.asarray([np.nan if cell is None else cell for cell in cells], float)
            values.append(standardised(numbers, known & fitted))
            present.append(known)
            names.append(column.name)
    return Joined(
        np.stack(values, 1)[place].astype(np.float32),
        np.stack(present, 1)[place],
        tuple(names),
        tuple(patients[~there].tolist()),
    )


def of_sides(
    table: Table, sources: Mapping[str, Samples], used: Mapping[str, np.ndarray]
) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """The samples of each side of a split with `covariates`, standardised by the patients of
    meta-train, and their names.

    used: which images of each side are of its classes, [N] bool.

    Raises DataError where images name no patients, or none that is in the table.
    """
    for samples in sources.values():
        if samples.groups is None:
            raise DataError(
                f"{samples.about}: names no groups (patients), by which {table.path} could be "
                "joined; name them, or leave covariates out"
            )
    groups = np.concatenate([samples.groups for samples in sources.values()])
    fitted = [used[side] & (side == "train") for side in sources]
    found = join(table, groups, np.concatenate(fitted))
    values = np.where(found.present, found.values, np.float32(np.nan))
    ends = np.cumsum([len(samples.labels) for samples in sources.values()])[:-1]
    parts = zip(sources.items(), np.split(values, ends), strict=True)
    return {side: own._replace(covariates=of) for (side, own), of in parts}, found.names


def standardised(numbers: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 over those fitted on; 0 where not a number.

    >>> standardised(np.array([1.0, 3.0, np.nan, 7.0]), np.array([True, True, False, False]))
    array([-1.,  1.,  0.,  5.])
    """
    if not fitted.any():
        return np.zeros(len(numbers))
    spread = numbers[fitted].std()
    scaled = (numbers - numbers[fitted].mean()) / (spread if spread > 0 else 1.0)
    return np.where(np.isnan(numbers), 0.0, scaled)


def facts(table: Table, groups: set[str]) -> dict[str, Any]:
    """How a table fits the patients of a data set, as JSON can hold it."""
    columns: dict[str, Any] = {}
    for column in table.columns:
        cells = [column.cells[patient] for patient in groups if patient in column.cells]
        found: dict[str, Any] = {"missing": len(groups) - len(cells)}
        if column.categories:
            found["categories"] = {name: cells.count(name) for name in column.categories}
        elif cells:
            found |= {"min": min(cells), "max": max(cells)}
        columns[column.name] = found
    return {
        "file": table.path.name,
        "rows": len(table.patients),
        "joined": len(groups & set(table.patients)),
        "absent": sorted(groups - set(table.patients)),
        "columns": columns,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """`facts` for people."""
    joined = f"{found['joined']} patients joined by {found['file']}, {len(found['absent'])} absent"
    told = [f"covariates  {joined}"]
    for name, of in found["columns"].items():
        if "categories" in of:
            shown = ", ".join(f"{category} {count}" for category, count in of["categories"].items())
        else:
            shown = f"{of['min']:g} to {of['max']:g}" if "min" in of else "nothing"
        missing = f", {of['missing']} missing" if of["missing"] else ""
        told.append(f"  {name}: {shown}{missing}")
    return told
