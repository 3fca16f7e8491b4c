"""Weights by name, from a file into a learner's parameters: `--init-from`.

A parameter's name is its path, "body/ConvNormPool_0/conv/kernel". What a file names and the
learner has is taken; the rest of the learner is initialised as ever. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.types import Params, path_names

Named = Mapping[str, np.ndarray]


class WeightsError(Exception):
    """Weights that cannot be read, or do not fit. The message names file and parameter."""


def name_of(path: tuple[jax.tree_util.KeyEntry, ...]) -> str:
    """A leaf's name, from its path in the tree."""
    return "/".join(path_names(path))


def named(params: Params) -> dict[str, np.ndarray]:
    """Parameters by name, copied to the host."""
    return {name_of(path): np.array(leaf) for path, leaf in jax.tree.leaves_with_path(params)}


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz or .safetensors file, by name."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights (.npz or .safetensors)")
    try:
        if path.suffix == ".safetensors":
            try:
                from safetensors.numpy import load_file
            except ImportError:
                raise WeightsError(
                    f"{path}: reading it takes the extra 'weights': pip install safetensors"
                ) from None
            return dict(load_file(path))
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except WeightsError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise WeightsError(f"{path}: cannot be read as weights ({error})") from None


def taken(params: Params, given: Named, where: str) -> list[str]:
    """Names that parameters take from `given`.

    WeightsError where there is none, or one of another shape or kind.
    """
    shapes = {name_of(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
    found = [name for name in shapes if name in given]
    if not found:
        raise WeightsError(
            f"{where}: names none of the learner's parameters; it has "
            f"{', '.join(sorted(given)[:3])}, the learner {', '.join(sorted(shapes)[:3])}"
        )
    for name in found:
        array = given[name]
        if array.shape != shapes[name]:
            raise WeightsError(
                f"{where}: {name} is {array.shape}, the learner's is {shapes[name]}; "
                "give the backbone the same --net options"
            )
        if not (np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()):
            raise WeightsError(f"{where}: {name} holds {array.dtype} that are not finite numbers")
    return found


def put(params: Params, given: Named) -> Params:
    """Parameters with those of the same name replaced, in the parameters' own precision."""

    def one(path: tuple[jax.tree_util.KeyEntry, ...], leaf: jax.Array) -> jax.Array:
        name = name_of(path)
        return jnp.asarray(given[name], leaf.dtype) if name in given else leaf

    return jax.tree_util.tree_map_with_path(one, params)
