"""Max-pooling whose gradient is a selection.

The gradient of `lax.reduce_window` is a select-and-scatter, tens of times slower on a
CPU than slices and `where`; and deciding the winner under `stop_gradient` keeps XLA
from fusing the choice into the backward pass of what came before.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from medmeta_jax.types import Array


def max_pool(x: Array) -> Array:
    """2x2 max-pool with stride 2; odd last rows and columns are dropped.

    x: [n, H, W, C] -> [n, H // 2, W // 2, C]. Ties give their gradient to the first.

    >>> max_pool(jnp.arange(4.0).reshape(1, 2, 2, 1)).item()
    3.0
    """
    if x.ndim != 4 or min(x.shape[1:3]) < 2:
        raise ValueError(f"x must be [n, H, W, C] with H, W >= 2, got {x.shape}")
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    return largest([x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)])


def largest(corners: Sequence[Array], sign: Array | float = 1.0) -> Array:
    """Of four arrays, elementwise, the one whose sign * value is largest; ties to the first."""
    held = [jax.lax.stop_gradient(corner * sign) for corner in corners]
    winner = jnp.maximum(jnp.maximum(held[0], held[1]), jnp.maximum(held[2], held[3]))
    out = corners[3]
    for corner, fixed in zip(corners[2::-1], held[2::-1], strict=True):
        out = jnp.where(fixed == winner, corner, out)
    return out
