"""Rotate an image about its centre."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, affine
from medmeta_jax.types import Array


def rotate(*, magnitude: float = 15.0) -> Op:
    """Rotate by an angle uniform in ±`magnitude` degrees."""
    if not 0 <= magnitude <= 180:
        raise ValueError(f"magnitude must be in [0, 180] degrees, got {magnitude}")

    def matrix(key: Array) -> Array:
        angle = jnp.deg2rad(jax.random.uniform(key, (), minval=-magnitude, maxval=magnitude))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return affine([[cos, -sin, 0.0], [sin, cos, 0.0]])

    return Op(affine=matrix)
