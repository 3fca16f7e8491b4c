"""Whatever a run's images are, it can show them and count them before it trains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from medmeta_jax import experiment as experiments, sheets
from medmeta_jax.settings import TrainConfig

from .conftest import write_cells
from .test_experiment import CONFIG, OF_CELLS, findings, measured_images
from .test_lesions import CONFIG as OF_LESIONS, write_lesions
from .test_segmentation import CONFIG as OF_MASKS, write_blocks


def of_kind(kind: str, where: Path) -> TrainConfig:
    """A configuration of each kind of data."""
    if kind == "several labels":
        return findings(where)
    if kind == "values":
        return dataclasses.replace(
            CONFIG, data=measured_images(where), shots=5, queries=5, algorithm="r2d2", hyper={}
        )
    if kind == "objects":
        return dataclasses.replace(OF_CELLS, data=str(write_cells(where / "cells")))
    if kind == "masks":
        return dataclasses.replace(OF_MASKS, data=write_blocks(where / "blocks"))
    if kind == "lesions":
        return dataclasses.replace(OF_LESIONS, data=write_lesions(where / "lesions"))
    volumes = np.random.default_rng(0).integers(0, 256, (54, 8, 8, 8)).astype(np.uint8)
    np.savez(where / "volumes.npz", images=volumes, labels=np.arange(54) // 6)
    return dataclasses.replace(CONFIG, data=str(where / "volumes.npz"), queries=2, augment=())


@pytest.mark.parametrize(
    "kind", ["several labels", "values", "objects", "masks", "lesions", "volumes"]
)
def test_images_are_shown_and_counted(kind: str, tmp_path: Path) -> None:
    made = experiments.build(of_kind(kind, tmp_path))
    page = np.asarray(sheets.of_data(made.split))
    assert page.ndim == 3
    assert page.std() > 10  # there is something to see
    sides = json.loads(json.dumps(experiments.counts(made)))["sides"]
    for side, found in sides.items():
        assert tuple(found["classes"]) == made.split.classes[side]
        assert found["images"] == len(made.split.pools[side].same)
        assert 0 < max(found["classes"].values()) <= found["images"]


def test_what_stays_in_its_files_is_not_shown(tmp_path: Path) -> None:
    made = experiments.build(of_kind("masks", tmp_path))
    every = dict.fromkeys(made.split.pools, None)
    assert sheets.of_data(made.split._replace(stored=every)) is None  # type: ignore[arg-type]


def test_a_page_has_its_captions_and_frames() -> None:
    """A frame is of its colour, a gap is white."""
    tile = sheets.Tile(np.zeros((8, 8, 1), np.uint8), (213, 94, 0), "2")
    page = np.asarray(sheets.page([sheets.Line("a part"), sheets.Line("one", [tile, None, tile])]))
    assert (page == (213, 94, 0)).all(-1).sum() >= 2 * 4 * (sheets.TILE - 2)
    left = sheets.CAPTION + sheets.TILE + sheets.GAP
    assert (page[30:60, left : left + sheets.TILE] == 255).all()
