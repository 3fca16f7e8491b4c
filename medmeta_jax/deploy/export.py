"""A task or a run as one file that `artefact.py` reads with jax and numpy alone.

The programs are those of `predictor.py`, lowered by `jax.export` for CPU and CUDA, with the number
of images a symbol; their weights are beside them, named, as they are or as int8: a symmetric grid
of 255 values for each output channel of a kernel, whose step is the largest weight / 127.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from medmeta_jax import weights
from medmeta_jax.deploy.artefact import PROGRAM, packed
from medmeta_jax.deploy.model import Model, image_shape
from medmeta_jax.deploy.predictor import (
    Task,
    adapted,
    program_of,
    shape_of_task,
    support_shapes,
)
from medmeta_jax.ops.conv import on_grid
from medmeta_jax.types import Array, PyTree

PLATFORMS = ("cpu", "cuda")
PARAMS, TASK, STEP = "params/", "task/", ":step"
Weights = Literal["float32", "int8"]


def artefact(
    model: Model,
    task: Task | None,
    about: Mapping[str, Any],
    *,
    kind: Weights = "float32",
    telling: Model | None = None,
    support: int = 8,
) -> bytes:
    """The bytes of an artefact: of a task, or, where that is None, of a run that adapts to supports
    of up to `support` images, padded to that many. telling: the model that tells, where that is not
    `model` itself but one of the same parameters whose convolutions are in integers."""
    names = prefixed(PARAMS, model.params)
    like = shape_of_task(model, support) if task is None else task
    of_task, told_by = prefixed(TASK, like), program_of(model)
    teller = telling or model

    def predict(arrays: dict[str, Array], images: Array, there: Array) -> tuple[Array, ...]:
        found: tuple[Array, ...] = told_by(teller, filled(of_task, arrays), images, there)
        return found

    def adapt(arrays: dict[str, Array], *given: Array) -> dict[str, Array]:
        return by_name(of_task, adapted(model, filled(names, arrays), *given))

    # A task holds what telling takes; rates and transformations that adapting takes stay behind.
    kept = by_name(names, model.params) if task is None else by_name(of_task, task)
    arrays = {name: np.asarray(array) for name, array in kept.items()}
    arrays = coarser(arrays) if kind == "int8" else arrays
    held, programs = shapes(arrays), {}
    if task is None:
        programs["adapt"] = lowered(adapt, held, *support_shapes(model, support))
        held = by_name(of_task, like)
    (n,) = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, *image_shape(model)), jnp.uint8)
    programs["predict"] = lowered(predict, held, images, jax.ShapeDtypeStruct((n,), jnp.bool_))
    arrays |= {PROGRAM + name: program for name, program in programs.items()}
    said = {
        "image": list(image_shape(model)), "labels": model.kind.name, "outputs": model.outputs,
        "slots": support, "weights": kind, "platforms": list(PLATFORMS),
        "activations": "float32" if telling is None else "int8",
        "preprocessing": preprocessing(model),
    }  # fmt: skip
    return packed(arrays, {**about, **said})


def lowered(function: Callable[..., Any], *given: Any) -> np.ndarray:
    """The bytes of a program for arguments of such shapes."""
    program = export.export(jax.jit(function), platforms=PLATFORMS)(*given)
    return np.frombuffer(bytes(program.serialize()), np.uint8)


def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Of arrays by name."""
    return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}


def prefixed(prefix: str, tree: PyTree) -> Any:
    """The names of a tree's leaves, in its place."""
    return jax.tree_util.tree_map_with_path(lambda path, _: prefix + weights.name_of(path), tree)


def by_name(names: Any, tree: PyTree) -> dict[str, Any]:
    """A tree's leaves by the names that `prefixed` gave them."""
    return dict(zip(jax.tree.leaves(names), jax.tree.leaves(tree), strict=True))


def filled(names: Any, arrays: Mapping[str, Array]) -> Any:
    """The tree of some names, its arrays as numbers again where they are int8."""

    def one(name: str) -> Array:
        step = arrays.get(name + STEP)
        return arrays[name] if step is None else arrays[name].astype(jnp.float32) * step

    return jax.tree.map(one, names)


def coarser(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels [..., O] as int8 with a step [O] each; the rest as it is.

    >>> found = coarser({"kernel": np.array([[1.0, 0.5], [-0.5, 0.25]], np.float32)})
    >>> found["kernel"]
    array([[127, 127],
           [-64,  64]], dtype=int8)
    >>> found["kernel:step"] * 127
    array([1. , 0.5], dtype=float32)
    """
    found = {}
    for name, array in arrays.items():
        if not name.endswith("kernel") or array.ndim < 2 or array.dtype != np.float32:
            found[name] = array
            continue
        values, step = on_grid(jnp.asarray(array), range(array.ndim - 1))
        found[name], found[name + STEP] = np.asarray(values), np.asarray(step).reshape(-1)
    return found


def preprocessing(model: Model) -> str:
    """How an image becomes one that the artefact takes, in words."""
    size, channels = model.config.image_size, len(model.scaling.shift)
    colour = "grey by ITU-R 601 luma" if channels == 1 else f"{channels} channels"
    return (
        f"scale the longer side to {size} pixels (bilinear), pad the other with black on both "
        f"sides, {colour}, uint8"
    )
