"""Shade an image smoothly, as a coil does in magnetic resonance."""

from __future__ import annotations

import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, require_magnitude, smooth_field, spatial_axes
from medmeta_jax.types import Array

KNOTS = 3


def bias_field(*, magnitude: float = 0.3) -> Op:
    """Multiply by exp of a smooth field of spread `magnitude`, counted from each channel's darkest
    pixel; every slice of a volume alike."""
    require_magnitude(magnitude, 3)

    def change(key: Array, image: Array) -> Array:
        height, width = image.shape[-3:-1]
        field = magnitude * smooth_field(key, (KNOTS, KNOTS), (height, width))
        low = image.min(spatial_axes(image), keepdims=True)
        return low + jnp.exp(field)[..., None] * (image - low)

    return Op(intensity=change)
