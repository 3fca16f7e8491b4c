"""Max-pooling whose gradient is a selection.

The gradient of `lax.reduce_window` is a select-and-scatter, tens of times slower on a
CPU than slices and `where`; and deciding the winner under `stop_gradient` keeps XLA
from fusing the choice into the backward pass of what came before.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from medmeta_jax.types import Array


def max_pool(x: Array) -> Array:
    """2x2 max-pool with stride 2, 2x2x2 of volumes; odd last rows and columns are dropped.

    x: [n, *spatial, C] -> the same with each spatial size halved. Ties give their gradient to the
    first.

    >>> max_pool(jnp.arange(4.0).reshape(1, 2, 2, 1)).item()
    3.0
    """
    if x.ndim not in (4, 5) or min(x.shape[1:-1]) < 2:
        raise ValueError(
            f"x must be [n, H, W, C] or [n, D, H, W, C] with D, H, W >= 2, got {x.shape}"
        )
    ends = [size // 2 * 2 for size in x.shape[1:-1]]

    def corner(offset: tuple[int, ...]) -> Array:
        return x[:, *(slice(first, end, 2) for first, end in zip(offset, ends, strict=True))]

    return largest([corner(offset) for offset in itertools.product((0, 1), repeat=len(ends))])


def largest(corners: Sequence[Array], sign: Array | float = 1.0) -> Array:
    """Of some arrays, elementwise, the one whose sign * value is largest; ties to the first."""
    held = [jax.lax.stop_gradient(corner * sign) for corner in corners]
    winner = functools.reduce(jnp.maximum, held)
    out = corners[-1]
    for corner, fixed in zip(corners[-2::-1], held[-2::-1], strict=True):
        out = jnp.where(fixed == winner, corner, out)
    return out
