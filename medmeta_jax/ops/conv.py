"""Convolution that stays fast when every episode has its own kernel.

A vmapped `lax.conv` whose kernel has a batch axis becomes a grouped convolution, for
which CPUs and cuDNN have no good gradient (jax#13800). Shifted slices and one matrix
product vmap into a batched matrix product instead, at every order of differentiation.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from medmeta_jax.types import Array

Padding = Literal["SAME", "VALID"]
Form = Literal["patches", "lax"]


def conv(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    form: Form = "patches",
) -> Array:
    """2-D convolution as networks use it (cross-correlation).

    Args:
      x: [n, H, W, C].
      kernel: [kh, kw, C, O].
      stride: the same along both axes.
      padding: "SAME" or "VALID", as `jax.lax` defines them.
      form: "patches" (shifted slices and a matrix product) or "lax" (the reference).

    Returns: [n, H', W', O].

    >>> conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 2)), padding="VALID").shape
    (1, 2, 2, 2)
    """
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            "x must be [n, H, W, C] and kernel [kh, kw, C, O] with the same C, "
            f"got {x.shape} and {kernel.shape}"
        )
    if form == "lax":
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    kh, kw, channels, outputs = kernel.shape
    low_high = jax.lax.padtype_to_pads(x.shape[1:3], (kh, kw), (stride, stride), padding)
    padded = jnp.pad(x, ((0, 0), *low_high, (0, 0)))
    height, width = (
        (size - k) // stride + 1 for size, k in zip(padded.shape[1:3], (kh, kw), strict=True)
    )
    shifts = [
        padded[
            :,
            i : i + (height - 1) * stride + 1 : stride,
            j : j + (width - 1) * stride + 1 : stride,
        ]
        for i in range(kh)
        for j in range(kw)
    ]
    patches = jnp.concatenate(shifts, axis=-1)
    product = patches.reshape(-1, kh * kw * channels) @ kernel.reshape(-1, outputs)
    return product.reshape(x.shape[0], height, width, outputs)
