"""Random arrays of several axes, drawn as a vector.

XLA unrolls loops over short axes, and on a CPU so much of a generator's that [3, 3, 8, 8] numbers
take six times as long to compile as 576 (`benchmarks/RESULTS.md`). A number depends on its place
alone, not on the axes that it is reached by, so that these are bit for bit those of `jax.random`
and of Flax.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from medmeta_jax.types import Array

# The spread of a standard normal that is cut off at ±2.
CUT_SPREAD = 0.87962566103423978


def normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
    """Standard normal numbers, as `jax.random.normal`; by default of JAX's default float type.

    >>> key = jax.random.key(0)
    >>> bool((normal(key, (2, 3, 4)) == jax.random.normal(key, (2, 3, 4))).all())
    True
    """
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def he_normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = float) -> Array:
    """A kernel [*taps, inputs, outputs] of variance 2 / (taps * inputs), cut off at two standard
    deviations, as `jax.nn.initializers.he_normal`. He et al., 2015, arXiv 1502.01852.

    >>> key, shape = jax.random.key(0), (3, 3, 4, 8)
    >>> bool((he_normal(key, shape) == jax.nn.initializers.he_normal()(key, shape)).all())
    True
    """
    flat = jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype)
    variance = jnp.asarray(2 / math.prod(shape[:-1]), flat.dtype)
    return flat.reshape(shape) * (jnp.sqrt(variance) / jnp.asarray(CUT_SPREAD, flat.dtype))
