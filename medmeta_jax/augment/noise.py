"""Add noise, pixel by pixel."""

from __future__ import annotations

import jax

from medmeta_jax.augment._ops import Op, require_magnitude
from medmeta_jax.ops.draws import normal
from medmeta_jax.types import Array


def noise(*, magnitude: float = 0.1) -> Op:
    """Normal noise of a spread uniform from 0 to `magnitude`, in standard deviations of the
    meta-train images."""
    require_magnitude(magnitude, 10)

    def change(key: Array, image: Array) -> Array:
        spread_key, noise_key = jax.random.split(key)
        spread = magnitude * jax.random.uniform(spread_key, (), image.dtype)
        return image + spread * normal(noise_key, image.shape, image.dtype)

    return Op(intensity=change)
