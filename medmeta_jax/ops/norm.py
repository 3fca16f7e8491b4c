"""Normalisation as functions: where the statistics come from is the caller's choice."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.types import Array

NormPolicy = Literal["batch", "support", "group", "none"]
EPSILON = 1e-5


class Moments(NamedTuple):
    """Per-channel statistics of a set: mean [C] and variance [C] (biased)."""

    mean: Array
    var: Array


def masked_moments(x: Array, mask: Array) -> Moments:
    """Mean and variance per channel over the examples that are there.

    x: [n, *spatial, C]; mask: [n] bool.

    >>> masked_moments(jnp.array([[1.0], [3.0], [9.0]]), jnp.array([True, True, False]))
    Moments(mean=Array([2.], dtype=float32), var=Array([1.], dtype=float32))
    """
    axes = tuple(range(x.ndim - 1))
    wide = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
    positions = 1
    for size in x.shape[1:-1]:
        positions *= size
    count = jnp.maximum(mask.sum(), 1).astype(x.dtype) * positions
    mean = jnp.where(wide, x, 0).sum(axes) / count
    var = jnp.where(wide, (x - mean) ** 2, 0).sum(axes) / count
    return Moments(mean, var)


def normalise(x: Array, moments: Moments, scale: Array, bias: Array) -> Array:
    """(x - mean) / sqrt(var + 1e-5) * scale + bias, per channel."""
    factor = scale * jax.lax.rsqrt(moments.var + EPSILON)
    return x * factor + (bias - moments.mean * factor)


def group_normalise(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """Group normalisation (arXiv 1803.08494): statistics of each example by itself.

    x: [n, *spatial, C], C divisible by `groups`.
    """
    channels = x.shape[-1]
    if channels % groups:
        raise ValueError(f"groups must divide the channels, got {groups} and {channels}")
    split = x.reshape(x.shape[0], -1, groups, channels // groups)
    mean = split.mean((1, 3), keepdims=True)
    var = ((split - mean) ** 2).mean((1, 3), keepdims=True)
    out = ((split - mean) * jax.lax.rsqrt(var + EPSILON)).reshape(x.shape)
    return out * scale + bias
