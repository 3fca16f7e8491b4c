"""Make an image's intensities lie wider or closer about their mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, require_magnitude, spatial_axes
from medmeta_jax.types import Array


def contrast(*, magnitude: float = 0.3) -> Op:
    """Scale about each channel's mean by exp(u), u uniform in ±`magnitude`."""
    require_magnitude(magnitude, 3)

    def change(key: Array, image: Array) -> Array:
        factor = jnp.exp(magnitude * jax.random.uniform(key, (), image.dtype, -1, 1))
        mean = image.mean(spatial_axes(image), keepdims=True)
        return mean + factor * (image - mean)

    return Op(intensity=change)
