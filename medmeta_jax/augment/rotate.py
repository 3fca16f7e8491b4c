"""Rotate an image about its centre."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, affine, require_magnitude
from medmeta_jax.types import Array


def rotate(*, magnitude: float = 15.0) -> Op:
    """Rotate by an angle uniform in ±`magnitude` degrees."""
    require_magnitude(magnitude, 180, " degrees")

    def matrix(key: Array) -> Array:
        angle = jnp.deg2rad(jax.random.uniform(key, (), minval=-magnitude, maxval=magnitude))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return affine([[cos, -sin, 0.0], [sin, cos, 0.0]])

    return Op(affine=matrix)
