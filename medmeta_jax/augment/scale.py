"""Enlarge or shrink an image about its centre."""

from __future__ import annotations

import jax

from medmeta_jax.augment._ops import Op, affine, require_magnitude
from medmeta_jax.types import Array


def scale(*, magnitude: float = 0.2) -> Op:
    """Scale by a factor uniform in 1 ± `magnitude`: 0.2 is the usual 0.8 to 1.2."""
    require_magnitude(magnitude, 0.99)

    def matrix(key: Array) -> Array:
        factor = jax.random.uniform(key, (), minval=1 - magnitude, maxval=1 + magnitude)
        return affine([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]])

    return Op(affine=matrix)
