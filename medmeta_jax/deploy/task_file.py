"""A task in a file, packed as by `artefact.py`: whole or not at all, and refused where altered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import weights
from medmeta_jax.data.samples import DataError
from medmeta_jax.deploy.artefact import ArtefactError, packed, slots, unpacked
from medmeta_jax.deploy.model import Model
from medmeta_jax.deploy.predictor import Task, shape_of_task
from medmeta_jax.runs import write_whole

KIND = "task"


def save(path: Path, task: Task, about: dict[str, Any]) -> None:
    """Write a task whole or not at all; `about` is kept with it (OSError)."""
    told = {**about, "kind": KIND, "support": int(np.asarray(task.there).sum())}
    write_whole(path, packed(weights.named(task), told))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a task, and what it says of itself (DataError)."""
    if not path.is_file():
        raise DataError(f"{path}: no such task; make one with: medmeta adapt RUN --support DIR")
    try:
        arrays, about = unpacked(path)
    except ArtefactError as error:
        raise DataError(f"{error}; adapt again") from None
    if about.get("kind") != KIND:
        raise DataError(f"{path}: not a task of `medmeta adapt`")
    if not {"labels", "source", "read"} <= about.keys():
        raise DataError(
            f"{path}: of an older version, which did not say how it was read; adapt again"
        )
    return arrays, about


def task_of(
    model: Model, arrays: dict[str, np.ndarray], about: dict[str, Any], where: Path
) -> Task:
    """A task's arrays as its model takes them (DataError where they do not fit)."""
    like = shape_of_task(model, slots(about["support"]))

    def one(path: Any, leaf: Any) -> Any:
        name = weights.name_of(path)
        array = arrays.get(name)
        if array is None or (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            raise DataError(f"{where}: {name} is not what its run has; adapt again")
        return jnp.asarray(array)

    found: Task = jax.tree_util.tree_map_with_path(one, like)
    return found
