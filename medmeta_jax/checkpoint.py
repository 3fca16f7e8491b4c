"""Checkpoints through orbax: saved whole or not at all, checked before they are loaded.

The only module that imports orbax, whose version 1 interface is still moving. Small arrays take it
as long to write as large ones, and tensorstore below it keeps some bytes of each for good (0.1.86:
`KvStore.Spec.to_json`), so the many of a tree are written as one of each dtype.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from medmeta_jax.types import PyTree

INDEX = "index"  # no path of a tree is called so
KEPT = 2  # the latest and the one before it, should the latest be damaged


class CheckpointError(Exception):
    """A checkpoint that is missing or does not fit. The message says what to do."""


class SaveError(Exception):
    """A checkpoint that could not be written. The message names the last good one."""


def is_key(leaf: Any) -> bool:
    """A typed PRNG key, which is stored as its raw uint32."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_raw(tree: PyTree) -> dict[str, np.ndarray]:
    """A tree as a flat mapping from path to host array."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path) or "value": np.asarray(
            jax.random.key_data(leaf) if is_key(leaf) else leaf
        )
        for path, leaf in flat
    }


def from_raw(raw: dict[str, Any], like: PyTree) -> PyTree:
    """The tree `like` with the arrays of a flat mapping."""

    def leaf(path: Any, old: Any) -> jax.Array:
        value = jnp.asarray(raw[jax.tree_util.keystr(path) or "value"])
        return jax.random.wrap_key_data(value) if is_key(old) else value

    return jax.tree_util.tree_map_with_path(leaf, like)


def packed(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A flat mapping as one array [n] of each dtype, and an index of what they hold.

    >>> sorted(packed({".a": np.zeros((2, 3)), ".b": np.ones(4), ".n": np.int32(7)}))
    ['float64', 'index', 'int32']
    """
    by_dtype: dict[str, list[np.ndarray]] = {}
    for array in raw.values():
        by_dtype.setdefault(array.dtype.name, []).append(array.ravel())
    index = [[name, array.dtype.name, array.shape] for name, array in raw.items()]
    return {
        INDEX: np.frombuffer(json.dumps(index).encode(), np.uint8),
        **{name: np.concatenate(parts) for name, parts in by_dtype.items()},
    }


def unpacked(saved: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `packed` was given (ValueError or KeyError where it is damaged); older checkpoints,
    which have an array a path, as they are.

    >>> unpacked(packed({".a": np.arange(6).reshape(2, 3)}))[".a"].tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    if INDEX not in saved:
        return saved
    found, taken = {}, dict.fromkeys(saved, 0)
    for name, dtype, shape in json.loads(saved[INDEX].tobytes()):
        first, size = taken[dtype], math.prod(shape)
        found[name] = saved[dtype][first : first + size].reshape(shape)
        taken[dtype] = first + size
    return found


class Checkpoints:
    """The checkpoints of one run, by step, in a folder.

    Of several processes, all make one of these and call it alike: the first one writes.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open a run's checkpoints; `read_only` leaves alone what a live run is writing."""
        self.folder = folder.absolute()
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"{folder}: no checkpoint; this run saved none, start it again")
        keep = ocp.training.preservation_policies.LatestN(KEPT)
        self._orbax = ocp.training.Checkpointer(
            self.folder, preservation_policy=keep, cleanup_tmp_directories=not read_only
        )

    def save(self, step: int, tree: PyTree) -> None:
        """Save a tree under a step, unless that step is there already."""
        if step in self.steps():
            return
        try:
            self._orbax.save(step, packed(to_raw(tree)), force=True)
        except (OSError, ValueError, RuntimeError) as error:  # tensorstore's are ValueErrors
            reason = str(error).splitlines()[0][:200]
            raise SaveError(
                f"{self.folder}: step {step} cannot be written ({reason}); "
                f"whole ones: {self.steps() or 'none'}"
            ) from None

    def steps(self) -> list[int]:
        """Steps that were saved whole, oldest first."""
        return sorted(found.step for found in self._orbax.checkpoints)

    def load(self, step: int | None = None) -> tuple[int, dict[str, np.ndarray]]:
        """What was saved at `step`, or at the latest one, by path (CheckpointError)."""
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            which = "" if step is None else f" {step}"
            there = f"there are {steps}" if steps else "this run saved none, start it again"
            raise CheckpointError(f"{self.folder}: no checkpoint{which}; {there}")
        chosen = steps[-1] if step is None else step
        try:
            return chosen, unpacked(self._orbax.load(chosen))
        except (OSError, ValueError, KeyError, TypeError) as error:
            earlier = [s for s in steps if s < chosen]
            raise CheckpointError(
                f"{self.folder}/{chosen}: damaged ({str(error).splitlines()[0][:200]}); "
                + (f"remove it to go on from step {earlier[-1]}" if earlier else "start a new run")
            ) from None

    def restore(self, like: PyTree, step: int | None = None) -> tuple[int, PyTree]:
        """The tree saved at `step`, or at the latest one; shaped as `like`.

        Raises CheckpointError where there is none, or where a path, shape or dtype
        differs: orbax would cast the one silently and stumble over the other.
        """
        chosen, found = self.load(step)
        wanted = to_raw(like)
        if found.keys() != wanted.keys():
            names = sorted(found.keys() ^ wanted.keys())
            raise CheckpointError(
                f"{self.folder}/{chosen}: does not fit the configuration, differs in {names[:3]}"
            )
        for name, array in wanted.items():
            if (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
                raise CheckpointError(
                    f"{self.folder}/{chosen}: {name} is {found[name].dtype}{found[name].shape}, "
                    f"the configuration wants {array.dtype}{array.shape}"
                )
        return chosen, from_raw(found, like)

    def close(self) -> None:
        """Wait for what is being written."""
        self._orbax.close()
