"""Norm and 2x2 max-pool on the corners of a convolution (`ops/winograd.py`).

The pool's four candidates are the four corners, so all is plain arithmetic on whole
arrays. The winner is chosen before the norm is applied, which then touches a quarter of
the pixels; for a negative factor the smallest wins.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.ops.norm import EPSILON, Moments
from medmeta_jax.ops.pool import largest
from medmeta_jax.ops.winograd import Corners, patches
from medmeta_jax.types import Array


def inside(corners: Corners, size: tuple[int, int], mask: Array) -> list[Array]:
    """Which places are pixels of examples that are there: [n, th, tw, 1] for each corner."""
    th, tw = corners[0].shape[1:3]

    def one(a: int, b: int) -> Array:
        rows, columns = 2 * np.arange(th) + a < size[0], 2 * np.arange(tw) + b < size[1]
        place = (rows[:, None] & columns[None, :])[None, :, :, None]
        return mask[:, None, None, None] & jnp.asarray(place)

    return [one(a, b) for a in (0, 1) for b in (0, 1)]


def moments(corners: Corners, size: tuple[int, int], mask: Array) -> Moments:
    """Mean and variance per channel over the pixels of examples that are there.

    As `norm.masked_moments` of the image, [C] each.
    """
    there = inside(corners, size, mask)
    count = jnp.maximum(mask.sum(), 1).astype(corners[0].dtype) * (size[0] * size[1])

    def total(values: list[Array]) -> Array:
        sums = [jnp.where(w, v, 0).sum((0, 1, 2)) for w, v in zip(there, values, strict=True)]
        return (sums[0] + sums[1]) + (sums[2] + sums[3])

    mean = total(list(corners)) / count
    return Moments(mean, total([(y - mean) ** 2 for y in corners]) / count)


def moments_from_patches(x: Array, kernel: Array, mask: Array) -> Moments:
    """`moments` of `conv_corners(x, kernel)` from those of x's patches, for few channels.

    y = p · k for a patch p and a column k of the kernel, so that over all patches

        mean(y) = mean(p) · k,      var(y) = k · cov(p) k.

    cov(p), [9 C, 9 C], is the same for every kernel: an inner loop computes it once, and no
    step passes over its largest map for statistics. The variance is off by about 1e-5 of
    itself in float32 where the kernel takes small differences of smooth images.

    x: [n, H, W, C]; kernel: [3, 3, C, O]; mask: [n] -> [O] each.
    """
    size = (x.shape[1], x.shape[2])
    seen = patches(x)
    there = inside(tuple(seen), size, mask)  # type: ignore[arg-type]
    count = jnp.maximum(mask.sum(), 1).astype(x.dtype) * (size[0] * size[1])
    columns = seen[0].shape[-1]
    sums = [jnp.where(w, p, 0).sum((0, 1, 2)) for w, p in zip(there, seen, strict=True)]
    mean = ((sums[0] + sums[1]) + (sums[2] + sums[3])) / count
    centred = [
        jnp.where(w, p - mean, 0).reshape(-1, columns) for w, p in zip(there, seen, strict=True)
    ]
    squares = [c.T @ c for c in centred]
    cov = ((squares[0] + squares[1]) + (squares[2] + squares[3])) / count
    matrix = kernel.reshape(columns, -1)
    # Rounding may bring the variance of a channel that is constant below zero.
    return Moments(mean @ matrix, jnp.maximum(((cov @ matrix) * matrix).sum(0), 0))


def group_moments(corners: Corners, size: tuple[int, int], groups: int) -> Moments:
    """Mean and variance of each example's groups of channels, [n, 1, 1, C] each."""
    n, channels = corners[0].shape[0], corners[0].shape[-1]
    there = inside(corners, size, jnp.ones(n, bool))
    count = size[0] * size[1] * (channels // groups)

    def total(values: list[Array]) -> Array:
        sums = [jnp.where(w, v, 0).sum((1, 2)) for w, v in zip(there, values, strict=True)]
        of_group = ((sums[0] + sums[1]) + (sums[2] + sums[3])).reshape(n, groups, -1).sum(-1)
        return jnp.repeat(of_group, channels // groups, axis=-1)[:, None, None, :]

    mean = total(list(corners)) / count
    return Moments(mean, total([(y - mean) ** 2 for y in corners]) / count)


def max_pool(corners: Corners, size: tuple[int, int], sign: Array | float = 1.0) -> Array:
    """The corner whose sign * value is largest: [n, H // 2, W // 2, C]."""
    height, width = size[0] // 2, size[1] // 2
    return largest([y[:, :height, :width] for y in corners], sign)


def pool_normalised(
    corners: Corners, size: tuple[int, int], moments: Moments, scale: Array, bias: Array
) -> Array:
    """max_pool(normalise(y)): [n, H // 2, W // 2, C]."""
    factor = scale * jax.lax.rsqrt(moments.var + EPSILON)
    out = max_pool(corners, size, jax.lax.stop_gradient(jnp.sign(factor)))
    return out * factor + (bias - moments.mean * factor)
