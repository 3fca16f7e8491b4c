"""Make an image brighter or darker throughout."""

from __future__ import annotations

import jax

from medmeta_jax.augment._ops import Op, require_magnitude
from medmeta_jax.types import Array


def brighten(*, magnitude: float = 0.3) -> Op:
    """Add a value uniform in ±`magnitude`, in standard deviations of the meta-train images; the
    same in all channels."""
    require_magnitude(magnitude, 10)

    def change(key: Array, image: Array) -> Array:
        return image + magnitude * jax.random.uniform(key, (), image.dtype, -1, 1)

    return Op(intensity=change)
