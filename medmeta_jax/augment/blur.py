"""Blur an image, as a coarser scan would."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, require_magnitude
from medmeta_jax.types import Array

REACH = 3  # pixels on either side


def blur(*, magnitude: float = 1.0) -> Op:
    """A Gaussian of a spread uniform from 0 to `magnitude` pixels, in the plane of the slices, cut
    off after `REACH` pixels; edges are repeated."""
    require_magnitude(magnitude, REACH)

    def change(key: Array, image: Array) -> Array:
        spread = magnitude * jax.random.uniform(key, (), image.dtype)
        away = jnp.arange(-REACH, REACH + 1, dtype=image.dtype)
        weights = jnp.exp(-0.5 * (away / jnp.maximum(spread, 0.05)) ** 2)
        weights /= weights.sum()
        for axis in (-3, -2):
            ends = [(0, 0)] * image.ndim
            ends[axis] = (REACH, REACH)
            wide = jnp.pad(image, ends, mode="edge")
            size = image.shape[axis]
            parts = [
                jax.lax.slice_in_dim(wide, i, i + size, axis=axis % image.ndim)
                for i in range(2 * REACH + 1)
            ]
            image = jnp.tensordot(weights, jnp.stack(parts), 1)
        return image

    return Op(intensity=change)
