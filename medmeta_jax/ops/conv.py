"""Convolution that stays fast when every episode has its own kernel.

A vmapped `lax.conv` whose kernel has a batch axis becomes a grouped convolution, for
which CPUs and cuDNN have no good gradient (jax#13800). The forms here are additions and
matrix products instead, which vmap into batched matrix products at every order of
differentiation, forward and reverse.

`choose` picks the form by shape alone, so that a run computes the same wherever it is
resumed. The measurements behind it: benchmarks/RESULTS.md, "Convolution".
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from medmeta_jax.ops.winograd import FEW_CHANNELS, corners_by_winograd, interleave, product
from medmeta_jax.types import Array

Padding = Literal["SAME", "VALID"]
AXES = {4: ("NHWC", "HWIO", "NHWC"), 5: ("NDHWC", "DHWIO", "NDHWC")}
Form = Literal["auto", "winograd", "patches", "lax", "int8"]
# How many times fewer multiplications Winograd must need to pay for its additions and its
# sixteen small products. An odd map is rounded up to whole cells: 3x3 saves 1.27 times only.
SAVING = 1.5


def choose(kernel: tuple[int, ...], stride: int, padding: Padding, size: Sequence[int]) -> Form:
    """The quickest form for a kernel [*taps, C, O] on images of `size`, e.g. (H, W).

    >>> choose((3, 3, 64, 64), 1, "SAME", (14, 14)), choose((3, 3, 64, 64), 1, "SAME", (3, 3))
    ('winograd', 'patches')
    """
    if kernel[:-2] != (3, 3) or stride != 1 or padding != "SAME" or kernel[2] <= FEW_CHANNELS:
        return "patches"
    height, width = size
    products = 16 * -(-height // 2) * -(-width // 2)
    return "winograd" if 9 * height * width >= SAVING * products else "patches"


def conv(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    form: Form = "auto",
) -> Array:
    """Convolution as networks use it (cross-correlation), 2-D or 3-D.

    Args:
      x: [n, H, W, C], or [n, D, H, W, C].
      kernel: [kh, kw, C, O], or [kd, kh, kw, C, O].
      stride: the same along all axes.
      padding: "SAME" or "VALID", as `jax.lax` defines them.
      form: "auto" (see `choose`), "winograd" (2-D, 3x3, stride 1, SAME), "patches" (shifted
        slices and a matrix product), "lax" (JAX's own, the reference) or "int8" (patches in
        integers, see `in_integers`; it has no gradient).

    n may be a symbolic size (`jax.export`); the others are numbers.

    Returns: [n, H', W', O], or [n, D', H', W', O].

    >>> conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 2)), padding="VALID").shape
    (1, 2, 2, 2)
    """
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")
    if x.ndim not in AXES or kernel.ndim != x.ndim or x.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            "x must be [n, H, W, C] and kernel [kh, kw, C, O] with the same C (3-D: a leading "
            f"depth in both), got {x.shape} and {kernel.shape}"
        )
    if form == "auto":
        form = choose(kernel.shape, stride, padding, x.shape[1:-1])
    if form == "winograd":
        if kernel.shape[:-2] != (3, 3) or stride != 1 or padding != "SAME":
            raise ValueError(
                "form 'winograd' is for 3x3 kernels, stride 1 and padding SAME, "
                f"got {kernel.shape[:-2]}, {stride} and {padding}"
            )
        return interleave(corners_by_winograd(x, kernel), x.shape[1:3])
    if form == "int8":
        return in_integers(x, kernel, stride, padding)
    if form == "lax":
        strides = (stride,) * (x.ndim - 2)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=AXES[x.ndim]
        )
    return by_patches(x, kernel, stride, padding)


def by_patches(
    x: Array,
    kernel: Array,
    stride: int,
    padding: Padding,
    multiply: Callable[[Array, Array], Array] = product,
) -> Array:
    """`conv` as one product of x's patches, made of shifted slices, and the kernel."""
    taps, outputs = kernel.shape[:-2], kernel.shape[-1]
    strides = (stride,) * len(taps)
    low_high = jax.lax.padtype_to_pads(x.shape[1:-1], taps, strides, padding)
    padded = jnp.pad(x, ((0, 0), *low_high, (0, 0)))
    sizes = [(size - tap) // stride + 1 for size, tap in zip(padded.shape[1:-1], taps, strict=True)]

    def shifted(offset: tuple[int, ...]) -> Array:
        along = zip(offset, sizes, strict=True)
        return padded[:, *(slice(o, o + (size - 1) * stride + 1, stride) for o, size in along)]

    shifts = [shifted(offset) for offset in itertools.product(*map(range, taps))]
    patches = jnp.concatenate(shifts, axis=-1)
    return multiply(patches, kernel.reshape(-1, outputs))


def on_grid(x: Array, axes: Sequence[int]) -> tuple[Array, Array]:
    """x on a grid of 255 values: int8, and its step, which is the largest over `axes` / 127.

    >>> on_grid(jnp.asarray([[1.0, -0.5], [0.0, 0.0]]), [1])[0]
    Array([[127, -64],
           [  0,   0]], dtype=int8)
    """
    largest = jnp.abs(x).max(tuple(axes), keepdims=True)
    step = jnp.where(largest > 0, largest, 1) / 127
    return jnp.round(x / step).astype(jnp.int8), step


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def in_integers(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """`conv` of images and a kernel on grids, each image's its own and one for each output channel:
    products of int8, summed in int32."""
    values, step = on_grid(x, range(1, x.ndim))
    weights, steps = on_grid(kernel, range(kernel.ndim - 1))

    def multiply(patches: Array, matrix: Array) -> Array:
        return jnp.matmul(patches, matrix, preferred_element_type=jnp.int32)

    sums = by_patches(values, weights, stride, padding, multiply)
    return sums.astype(x.dtype) * (step * steps.reshape(-1))


@in_integers.defjvp
def refuse_gradient(stride: int, padding: Padding, primals: Any, tangents: Any) -> Any:
    """Rounding has none, and zero would pass for one."""
    del stride, padding, primals, tangents
    raise ValueError("form must be another than 'int8' to be differentiated: rounding is flat")


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **rest: Any,
) -> Array:
    """`conv` under the signature of `jax.lax.conv_general_dilated`.

    For modules that let their convolution be replaced. A Flax one is by one line,

        Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)

    What `conv` does not do (1-D, dilation, groups, uneven strides, explicit padding or
    precision) goes to JAX's own function.

    >>> import flax.linen as nn
    >>> module = nn.Conv(8, (3, 3), conv_general_dilated=conv_general_dilated)
    >>> module.init_with_output(jax.random.key(0), jnp.ones((2, 6, 6, 4)))[0].shape
    (2, 6, 6, 8)
    """
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    if (
        lhs.ndim in AXES
        and dimension_numbers
        == jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, AXES[lhs.ndim])
        and padding in ("SAME", "VALID")
        and len(set(window_strides)) == 1
        and all(d == 1 for d in dilations)
        and feature_group_count == 1
        and precision is None
        and not any(value is not None for value in rest.values())
    ):
        return conv(lhs, rhs, stride=window_strides[0], padding=padding)
    return jax.lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
        feature_group_count=feature_group_count, precision=precision, **rest,
    )  # fmt: skip
