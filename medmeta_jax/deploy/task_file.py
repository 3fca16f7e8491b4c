"""A task in a file: one .npz of arrays, and JSON among them that says what they are.

Nothing is unpickled. A digest over all of it is kept beside, and a file whose digest is another, or
that lacks an array, is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import weights
from medmeta_jax.data.samples import DAMAGED, DataError
from medmeta_jax.deploy.model import Model, example
from medmeta_jax.deploy.predictor import Task, adapted_and_features, slots
from medmeta_jax.types import Examples

FORMAT = 1
ABOUT, DIGEST = "about", "digest"


def save(path: Path, task: Task, about: dict[str, Any]) -> None:
    """Write a task whole or not at all; `about` is kept with it (OSError)."""
    arrays = {
        **{f"adapted/{name}": array for name, array in weights.named(task.adapted).items()},
        **{f"stats/{name}": array for name, array in weights.named(task.stats).items()},
        "features": task.features,
    }
    told = {
        **about, "format": FORMAT, "classes": list(task.class_names), "usual": task.usual,
        "support": len(task.features),
    }  # fmt: skip
    arrays[ABOUT] = np.frombuffer(json.dumps(told, allow_nan=False).encode(), np.uint8)
    arrays[DIGEST] = np.frombuffer(digest(arrays), np.uint8)
    whole = io.BytesIO()
    np.savez(whole, **arrays)  # type: ignore[arg-type]
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(whole.getvalue())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def digest(arrays: dict[str, np.ndarray]) -> bytes:
    """SHA-256 of names, types, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        if name != DIGEST:
            array = arrays[name]
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return found.digest()


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a task, and what it says of itself (DataError)."""
    if not path.is_file():
        raise DataError(f"{path}: no such task; make one with: medmeta adapt RUN --support DIR")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays[ABOUT].tobytes())
        same = arrays[DIGEST].tobytes() == digest(arrays)
    except DAMAGED as error:
        raise DataError(f"{path}: not a task, or damaged ({error}); adapt again") from None
    if not same:
        raise DataError(f"{path}: its bytes are not those that were written; adapt again")
    if about["format"] != FORMAT:
        raise DataError(
            f"{path}: of format {about['format']}, this version reads {FORMAT}; adapt again"
        )
    return arrays, about


def task_of(
    model: Model, arrays: dict[str, np.ndarray], about: dict[str, Any], where: Path
) -> Task:
    """A task's arrays as its model takes them (DataError where they do not fit)."""
    size, count = model.config.image_size, slots(about["support"])
    x = example(size, model.spatial, len(model.scaling.shift), count)
    support = Examples(x, jnp.zeros(count, jnp.int32), jnp.ones(count, bool))

    def shapes(support: Examples) -> Any:
        return adapted_and_features(model, model.params, support)

    adapted, _, stats = jax.eval_shape(shapes, support)

    def filled(part: str, like: Any) -> Any:
        def one(path: Any, leaf: Any) -> Any:
            name = f"{part}/{weights.name_of(path)}"
            array = arrays.get(name)
            if array is None or (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
                raise DataError(f"{where}: {name} is not what its run has; adapt again")
            return jnp.asarray(array)

        return jax.tree_util.tree_map_with_path(one, like)

    return Task(
        filled("adapted", adapted), tuple(about["classes"]), arrays["features"],
        float(about["usual"]), filled("stats", stats),
    )  # fmt: skip
