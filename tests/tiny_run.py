"""A run of a few steps, made as a user makes it, and copies of one that tests may alter."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from medmeta_jax import verbs
from medmeta_jax.settings import TrainConfig

from .conftest import write_toy

CONFIG = TrainConfig(
    image_size=8, ways=3, queries=3, algorithm="anil", hyper={"steps": 2}, shots=2,
    net={"width": 4, "depth": 2}, augment=(), meta_steps=4, meta_batch=2, validate_every=4,
    dispatch=4, val_episodes=12, test_episodes=4, baselines="none", devices=2,
)  # fmt: skip


def train(folder: Path, **changes: Any) -> str:
    """A run with its data in a folder; its directory."""
    data = str(write_toy(folder / "toy.npz"))
    config = dataclasses.replace(CONFIG, data=data, **changes)
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setenv("MEDMETA_RUNS", str(folder / "runs"))
        found = verbs.train(config, resume=None, told_to_stop=lambda: False)
    return str(found["run"])


def copied(run: str, folder: Path) -> str:
    """A copy of a run in a folder of runs there, on the same data."""
    return str(shutil.copytree(run, folder / "runs" / Path(run).name))
