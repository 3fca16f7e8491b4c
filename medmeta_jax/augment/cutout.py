"""Take a window out of an image. DeVries and Taylor, 2017, arXiv 1708.04552.

Its border is soft over a pixel, so that the image is differentiable in the window's size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, require_magnitude, spatial_axes
from medmeta_jax.types import Array


def cutout(*, magnitude: float = 0.3) -> Op:
    """A square window whose side is uniform from 0 to `magnitude` of the image's, anywhere in it,
    becomes each channel's mean. Labels stay: what was there is to be known from the rest."""
    require_magnitude(magnitude, 1)

    def change(key: Array, image: Array) -> Array:
        size_key, place_key = jax.random.split(key)
        height, width = image.shape[-3:-1]
        half = magnitude * jax.random.uniform(size_key, (), image.dtype) / 2
        row, column = jax.random.uniform(place_key, (2,), image.dtype)

        def within(count: int, centre: Array) -> Array:
            away = jnp.abs(jnp.arange(count, dtype=image.dtype) + 0.5 - centre * count)
            return jnp.clip(half * count - away, 0.0, 1.0)

        window = within(height, row)[:, None] * within(width, column)
        mean = image.mean(spatial_axes(image), keepdims=True)
        return image + window[..., None] * (mean - image)

    return Op(intensity=change)
