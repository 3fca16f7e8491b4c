"""Bend the grey scale: dark and bright parts are set apart more, or less."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, require_magnitude, spatial_axes
from medmeta_jax.types import Array


def gamma(*, magnitude: float = 0.3) -> Op:
    """x ↦ x^γ on each channel's own range from 0 to 1, γ = exp(u), u uniform in ±`magnitude`."""
    require_magnitude(magnitude, 3)

    def change(key: Array, image: Array) -> Array:
        axes = spatial_axes(image)
        low, high = image.min(axes, keepdims=True), image.max(axes, keepdims=True)
        span = jnp.maximum(high - low, 1e-6)
        power = jnp.exp(magnitude * jax.random.uniform(key, (), image.dtype, -1, 1))
        # Away from 0, where the derivative of a power is not finite.
        share = jnp.clip((image - low) / span, 1e-6, 1.0)
        return low + span * share**power

    return Op(intensity=change)
