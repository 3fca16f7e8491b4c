"""U-Net: an encoder, a decoder, and the maps of one handed to the other; a feature a pixel.

Ronneberger, Fischer, Brox, 2015, arXiv 1505.04597. Deviations: convolutions keep the size of a map;
the decoder enlarges by repeating pixels, and not by a transposed convolution, whose strides leave
a chequered pattern; a norm after every convolution, with the policies of the other backbones; as
many levels and channels as are asked for, by default far fewer than there. With `hypercolumns` a
pixel's feature is that of every level of the decoder at its place (Hariharan et al., 2015, arXiv
1411.5752), so that a linear head sees what is around it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from medmeta_jax.adapters import from_linen
from medmeta_jax.backbones._layers import Conv, Norm, require_network
from medmeta_jax.ops import norm as norms
from medmeta_jax.ops.conv import Form
from medmeta_jax.ops.pool import doubled, max_pool
from medmeta_jax.types import Array, Backbone


class Level(nn.Module):
    """Convolutions of three taps an axis, each with its norm and ReLU."""

    features: int
    convolutions: int
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        for _ in range(self.convolutions):
            x = Conv(self.features, self.norm == "none", self.form)(x)
            x = nn.relu(Norm(self.norm)(x, mask))
        return x


class UNet(nn.Module):
    """See `unet`."""

    widths: tuple[int, ...]
    convolutions: int
    hypercolumns: bool
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        def level(x: Array, width: int) -> Array:
            return Level(width, self.convolutions, self.norm, self.form)(x, mask)

        kept = []
        for width in self.widths[:-1]:
            x = level(x, width)
            kept.append(x)
            x = max_pool(x) if min(x.shape[1:-1]) >= 2 else x
        x = level(x, self.widths[-1])
        levels = [x]
        for width, skip in zip(self.widths[-2::-1], reversed(kept), strict=True):
            if x.shape[1:-1] != skip.shape[1:-1]:
                x = doubled(x, skip.shape[1:-1])
            x = level(jnp.concatenate([x, skip], -1), width)
            levels.append(x)
        return columns(levels) if self.hypercolumns else x


def columns(levels: Sequence[Array]) -> Array:
    """Maps from the coarsest to the finest as one, of the finest's size: [n, *spatial, ΣF]."""
    found = levels[0]
    for finer in levels[1:]:
        if found.shape[1:-1] != finer.shape[1:-1]:
            found = doubled(found, finer.shape[1:-1])
        found = jnp.concatenate([found, finer], -1)
    return found


def unet(
    *,
    width: int = 16,
    depth: int = 3,
    convolutions: int = 1,
    widths: Sequence[int] = (),
    hypercolumns: bool = False,
    norm: norms.NormPolicy = "support",
    form: Form = "auto",
) -> Backbone:
    """A U-Net as a backbone: [n, *spatial, C] float -> a feature a pixel, [n, *spatial, F].

    Args:
      width: channels of the first level; each one below has twice as many.
      depth: number of levels.
      convolutions: of each level, on the way down and on the way up.
      widths: channels level by level, in place of `width` and `depth`.
      hypercolumns: whether a pixel has the features of all levels, and not of the first alone.
      norm, form: as of `conv4`.

    spatial is two axes or three. F is `widths[0]`, or with hypercolumns the sum of them.

    >>> import jax
    >>> backbone = unet(width=4, depth=2)
    >>> x = jnp.ones((2, 9, 8, 1))
    >>> params = backbone.init(jax.random.key(0), x)
    >>> jax.jit(backbone.apply)(params, x, jnp.ones(2, bool))[0].shape
    (2, 9, 8, 4)
    """
    if depth < 1 or convolutions < 1:
        raise ValueError(f"depth and convolutions must be >= 1, got {depth} and {convolutions}")
    chosen = tuple(widths) or tuple(width * 2**i for i in range(depth))
    require_network(chosen, norm)
    return from_linen(UNet(chosen, convolutions, hypercolumns, norm, form), norm=norm)
