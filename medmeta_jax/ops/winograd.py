"""3x3 convolution by Winograd's minimal filtering, with its output kept in corners.

Lavin and Gray, 2015 (arXiv 1509.09308), F(2x2, 3x3): the four pixels of a 2x2 cell take
16 multiplications a pair of channels in place of 36,

    y = Aᵀ [ (G k Gᵀ) ∘ (Bᵀ d B) ] A,     d: the 4x4 window of the cell,

and over all cells and channels each of the 16 is one matrix product. All else is addition
of whole arrays, so that every derivative of any order is made of the same two things.

The output is in `corners`: (y00, y01, y10, y11), each [n, ceil(H/2), ceil(W/2), O], where
y_ab at (t, u) is the pixel (2t + a, 2u + b). A norm and a 2x2 max-pool take them as they are
(`ops/cells.py`), so that pixels are never interleaved. Where H or W is odd, the last row
or column of the corners lies outside the image: the convolution of the zeros around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.types import Array

Corners = tuple[Array, Array, Array, Array]
Grid = list[list[Array]]

BT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
AT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
# Input channels up to which products of patches are the quicker form: the sixteen of so few
# channels would be all overhead.
FEW_CHANNELS = 4


def conv_corners(x: Array, kernel: Array) -> Corners:
    """3x3 convolution, stride 1, padding SAME: x [n, H, W, C], kernel [3, 3, C, O].

    By products of patches where the channels are few, else by Winograd.

    >>> corners = conv_corners(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 2)))
    >>> corners[3].shape, corners[3][0, 0, 0, 0].item()
    ((1, 2, 2, 2), 9.0)
    """
    if x.ndim != 4 or kernel.shape[:2] != (3, 3) or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            "x must be [n, H, W, C] and kernel [3, 3, C, O] with the same C, "
            f"got {x.shape} and {kernel.shape}"
        )
    if x.shape[-1] > FEW_CHANNELS:
        return corners_by_winograd(x, kernel)
    matrix = kernel.reshape(-1, kernel.shape[3])
    y00, y01, y10, y11 = (product(p, matrix) for p in patches(x))
    return y00, y01, y10, y11


def corners_by_winograd(x: Array, kernel: Array) -> Corners:
    """`conv_corners` in Winograd's form whatever the channels."""
    weights = both_axes(three_to_four, taps(kernel))
    seen = both_axes(lambda values: combine(BT, values), windows(x))
    products = [list(map(product, *rows)) for rows in zip(seen, weights, strict=True)]
    (y00, y01), (y10, y11) = both_axes(lambda values: combine(AT, values), products)
    return y00, y01, y10, y11


def interleave(corners: Corners, size: Sequence[int]) -> Array:
    """The image of its corners: [n, *size, C]."""
    n, th, tw, channels = corners[0].shape
    rows = [jnp.stack(corners[i : i + 2], axis=3) for i in (0, 2)]
    image = jnp.stack(rows, axis=2).reshape(n, 2 * th, 2 * tw, channels)
    return image[:, : size[0], : size[1]]


def product(a: Array, matrix: Array) -> Array:
    """[..., K] @ [K, N] as one product of two matrices."""
    return (a.reshape(-1, a.shape[-1]) @ matrix).reshape(*a.shape[:-1], matrix.shape[-1])


def combine(matrix: np.ndarray, values: Sequence[Array]) -> list[Array]:
    """matrix @ values for a matrix of 0, 1 and -1, by additions of whole arrays."""
    rows = []
    for row in matrix:
        total: Any = None
        for factor, value in zip(row, values, strict=True):
            if factor > 0:
                total = value if total is None else total + value
            elif factor < 0:
                total = -value if total is None else total - value
        rows.append(total)
    return rows


def three_to_four(values: Sequence[Array]) -> list[Array]:
    """G @ values, for G = [[1, 0, 0], [½, ½, ½], [½, -½, ½], [0, 0, 1]]."""
    first, middle, last = values
    even, odd = (first + last) * 0.5, middle * 0.5
    return [first, even + odd, even - odd, last]


def both_axes(along: Callable[[Sequence[Array]], list[Array]], grid: Grid) -> Grid:
    """A function of a row of arrays, applied along both axes of a grid of them."""
    columns = [along(column) for column in zip(*grid, strict=True)]
    return [along([column[i] for column in columns]) for i in range(len(columns[0]))]


def taps(kernel: Array) -> Grid:
    """The 3x3 matrices [C, O] of a kernel.

    By one `split`, whose transpose is a concatenation; that of nine slices would be a sum
    of nine padded arrays.
    """
    flat = kernel.reshape(9, *kernel.shape[2:])
    parts = [part[0] for part in jax.lax.split(flat, (1,) * 9)]
    return [parts[:3], parts[3:6], parts[6:]]


def windows(x: Array) -> Grid:
    """The 4x4 window around each cell: pixel (i, j) of it as [n, th, tw, C]."""
    n, height, width, channels = x.shape
    th, tw = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * th + 1 - height), (1, 2 * tw + 1 - width), (0, 0)))
    x = x.reshape(n, th + 1, 2, tw + 1, 2, channels)

    def pixel(i: int, j: int) -> Array:
        return x[:, i // 2 : i // 2 + th, i % 2, j // 2 : j // 2 + tw, j % 2]

    return [[pixel(i, j) for j in range(4)] for i in range(4)]


def patches(x: Array) -> list[Array]:
    """The 3x3 patch around each corner of each cell: four of [n, th, tw, 9 C]."""
    seen = windows(x)
    return [
        jnp.concatenate([seen[a + i][b + j] for i in range(3) for j in range(3)], axis=-1)
        for a in (0, 1)
        for b in (0, 1)
    ]
