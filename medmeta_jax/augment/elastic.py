"""Bend an image smoothly, as tissue does. Simard, Steinkraus, Platt, 2003.

Displacements are normal at the knots of a coarse grid and cubic between them, in place of a field
of noise that is blurred.
"""

from __future__ import annotations

from medmeta_jax.augment._ops import Op, require_magnitude, smooth_field
from medmeta_jax.types import Array

KNOTS = 5


def elastic(*, magnitude: float = 0.05) -> Op:
    """Move each pixel by about `magnitude` of the image's half, its neighbours alike."""
    require_magnitude(magnitude, 1)

    def displacement(key: Array, height: int, width: int) -> Array:
        return magnitude * smooth_field(key, (2, KNOTS, KNOTS), (height, width))

    return Op(displacement=displacement)
