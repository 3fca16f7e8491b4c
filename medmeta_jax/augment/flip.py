"""Mirror an image left to right. Off for oriented anatomy, where sides are labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, affine
from medmeta_jax.types import Array


def flip(*, magnitude: float = 0.5) -> Op:
    """Mirror with probability `magnitude`, in [0, 1]."""
    if not 0 <= magnitude <= 1:
        raise ValueError(f"magnitude must be in [0, 1], got {magnitude}")

    def matrix(key: Array) -> Array:
        sign = jnp.where(jax.random.bernoulli(key, magnitude), -1.0, 1.0)
        return affine([[1.0, 0.0, 0.0], [0.0, sign, 0.0]])

    return Op(affine=matrix)
