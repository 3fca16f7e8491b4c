"""Mirror an image left to right. Off for oriented anatomy, where sides are labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, affine, require_magnitude
from medmeta_jax.types import Array


def flip(*, magnitude: float = 0.5) -> Op:
    """Mirror with probability `magnitude`, in [0, 1]."""
    require_magnitude(magnitude, 1)

    def matrix(key: Array) -> Array:
        sign = jnp.where(jax.random.bernoulli(key, magnitude), -1.0, 1.0)
        return affine([[1.0, 0.0, 0.0], [0.0, sign, 0.0]])

    return Op(affine=matrix)
