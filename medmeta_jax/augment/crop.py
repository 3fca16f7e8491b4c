"""Cut a random window out of an image and bring it back to the image's size."""

from __future__ import annotations

import jax

from medmeta_jax.augment._ops import Op, affine, require_magnitude
from medmeta_jax.types import Array


def crop(*, magnitude: float = 0.1) -> Op:
    """A window of 1 - `magnitude` of each side, anywhere inside the image."""
    require_magnitude(magnitude, 0.99)
    kept = 1 - magnitude

    def matrix(key: Array) -> Array:
        row, column = jax.random.uniform(key, (2,), minval=-magnitude, maxval=magnitude)
        return affine([[kept, 0.0, row], [0.0, kept, column]])

    return Op(affine=matrix)
