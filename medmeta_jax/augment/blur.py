"""Blur an image, as a coarser scan would."""

from __future__ import annotations

import jax

from medmeta_jax.augment._ops import Op, blurred, require_magnitude
from medmeta_jax.types import Array

REACH = 3  # pixels on either side


def blur(*, magnitude: float = 1.0) -> Op:
    """A Gaussian of a spread uniform from 0 to `magnitude` pixels, in the plane of the slices, cut
    off after `REACH` pixels; edges are repeated."""
    require_magnitude(magnitude, REACH)

    def change(key: Array, image: Array) -> Array:
        spread = magnitude * jax.random.uniform(key, (), image.dtype)
        return blurred(image, spread, REACH)

    return Op(intensity=change)
