"""What the tests of sources share: all records of a folder, and damage that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medmeta_jax.data import sources
from medmeta_jax.data.records import Record
from medmeta_jax.data.samples import DataError

Damage = Callable[[Path], Any]
Case = tuple[Damage, str]  # what is done to a data set, and what its refusal must say


def records(root: Path, **options: Any) -> list[Record]:
    """Everything that a data set holds."""
    return [r for unit in sources.catalogue(str(root), **options).units for r in unit.read()]


def remove(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def write(name: str, text: str | bytes) -> Damage:
    content = text if isinstance(text, bytes) else text.encode()

    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return change


def check_refused(root: Path, case: Case, read: Callable[[Path], Any] = records) -> None:
    """Do the damage; `read` must refuse it with the case's message."""
    damage, message = case
    damage(root)
    with pytest.raises(DataError, match=message):
        read(root)


def list_units(root: Path) -> None:
    """Make the catalogue and read no unit: what is damaged shows before any image is read."""
    sources.catalogue(str(root))
