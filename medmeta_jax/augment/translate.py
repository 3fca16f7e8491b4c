"""Shift an image."""

from __future__ import annotations

import jax

from medmeta_jax.augment._ops import Op, affine, require_magnitude
from medmeta_jax.types import Array


def translate(*, magnitude: float = 0.1) -> Op:
    """Shift by up to `magnitude` of the image's half along each axis; what comes in repeats the
    edge."""
    require_magnitude(magnitude, 1)

    def matrix(key: Array) -> Array:
        row, column = jax.random.uniform(key, (2,), minval=-magnitude, maxval=magnitude)
        return affine([[1.0, 0.0, row], [0.0, 1.0, column]])

    return Op(affine=matrix)
