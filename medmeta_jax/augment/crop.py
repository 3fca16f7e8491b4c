"""Cut a random window out of an image and bring it back to the image's size."""

from __future__ import annotations

import jax

from medmeta_jax.augment._ops import Op, affine
from medmeta_jax.types import Array


def crop(*, magnitude: float = 0.1) -> Op:
    """A window of 1 - `magnitude` of each side, anywhere inside the image."""
    if not 0 <= magnitude < 1:
        raise ValueError(f"magnitude must be in [0, 1), got {magnitude}")
    kept = 1 - magnitude

    def matrix(key: Array) -> Array:
        row, column = jax.random.uniform(key, (2,), minval=-magnitude, maxval=magnitude)
        return affine([[kept, 0.0, row], [0.0, kept, column]])

    return Op(affine=matrix)
