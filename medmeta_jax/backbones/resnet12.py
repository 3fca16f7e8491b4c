"""ResNet-12: four residual blocks of three 3x3 convolutions, and a mean over the image.

The larger network of few-shot learning (Oreshkin et al., 2018, arXiv 1805.10123; the widths
64, 160, 320, 640 of Lee et al., 2019, arXiv 1904.03758). A block is

    leaky_relu(norm(conv(·)) three times, the last without its ReLU  +  norm(conv1x1(x))),

then a 2x2 max-pool. Deviations: no DropBlock, since an inner loop of few steps on few
images is to be deterministic; norm statistics are a policy instead of running averages.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from medmeta_jax.adapters import from_linen
from medmeta_jax.backbones._layers import Conv, Norm, require_network
from medmeta_jax.ops import norm as norms
from medmeta_jax.ops.conv import Form
from medmeta_jax.ops.pool import max_pool
from medmeta_jax.types import Array, Backbone

SLOPE = 0.1  # of the leaky ReLU
WIDTHS = (64, 160, 320, 640)


class Block(nn.Module):
    """One residual block with its pool."""

    width: int
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        biased = self.norm == "none"
        y = x
        for i in range(3):
            y = Norm(self.norm)(Conv(self.width, biased, self.form)(y), mask)
            y = nn.leaky_relu(y, SLOPE) if i < 2 else y
        skip = Norm(self.norm)(Conv(self.width, biased, self.form, size=1)(x), mask)
        out = nn.leaky_relu(y + skip, SLOPE)
        return max_pool(out) if min(out.shape[1:-1]) >= 2 else out


class ResNet12(nn.Module):
    """See `resnet12`."""

    widths: tuple[int, ...]
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        for width in self.widths:
            x = Block(width, self.norm, self.form)(x, mask)
        return x.mean(tuple(range(1, x.ndim - 1)))


def resnet12(
    *,
    width: int = 64,
    widths: Sequence[int] = (),
    norm: norms.NormPolicy = "support",
    form: Form = "auto",
) -> Backbone:
    """ResNet-12 as a backbone: [n, H, W, C] or [n, D, H, W, C] float -> [n, F] features.

    Args:
      width: channels of the first block; the others keep the proportions 2.5, 5 and 10.
      widths: channels block by block, in place of `width`.
      norm: "batch" (statistics of the set at hand: transductive on a query set),
        "support" (statistics of the support set, applied to the query: inductive),
        "group" (each example by itself) or "none".
      form: how convolutions are computed, see `ops.conv`.

    >>> import jax, jax.numpy as jnp
    >>> backbone = resnet12(widths=(4, 8))
    >>> params = backbone.init(jax.random.key(0), jnp.ones((2, 16, 16, 1)))
    >>> jax.jit(backbone.apply)(params, jnp.ones((2, 16, 16, 1)), jnp.ones(2, bool))[0].shape
    (2, 8)
    """
    if width < 1:
        raise ValueError(f"width must be >= 1, got {width}")
    chosen = tuple(widths) or tuple(w * width // WIDTHS[0] for w in WIDTHS)
    require_network(chosen, norm)
    return from_linen(ResNet12(chosen, norm, form), norm=norm)
