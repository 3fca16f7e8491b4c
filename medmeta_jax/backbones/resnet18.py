"""ResNet-18: eight residual blocks of two 3x3 convolutions, and a mean over the image.

He, Zhang, Ren, Sun, 2015, arXiv 1512.03385. A block is

    relu(norm(conv(relu(norm(conv(x))))) + skip(x)),

where skip is x, or norm(conv1x1(x)) where the size changes: the first convolution of stages
2, 3 and 4 has stride 2. Deviations: for small images the stem is one 3x3 convolution of stride
1; the large stem pools 2x2 where the paper pools 3x3; norm statistics are a policy instead
of running averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn

from medmeta_jax.adapters import from_linen
from medmeta_jax.backbones._layers import Conv, Norm, require_network
from medmeta_jax.ops import norm as norms
from medmeta_jax.ops.conv import Form
from medmeta_jax.ops.pool import max_pool
from medmeta_jax.types import Array, Backbone

Stem = Literal["small", "large"]
BLOCKS = 2  # a stage


class Block(nn.Module):
    """One residual block."""

    width: int
    stride: int
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        biased = self.norm == "none"
        first = Conv(self.width, biased, self.form, stride=self.stride)
        y = nn.relu(Norm(self.norm)(first(x), mask))
        y = Norm(self.norm)(Conv(self.width, biased, self.form)(y), mask)
        if self.stride != 1 or x.shape[-1] != self.width:
            across = Conv(self.width, biased, self.form, size=1, stride=self.stride)
            x = Norm(self.norm)(across(x), mask)
        return nn.relu(y + x)


class ResNet18(nn.Module):
    """See `resnet18`."""

    widths: tuple[int, ...]
    stem: Stem
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        large = self.stem == "large"
        kind = {"size": 7, "stride": 2} if large else {}
        stem = Conv(self.widths[0], self.norm == "none", self.form, name="stem", **kind)
        x = nn.relu(Norm(self.norm, name="stem_norm")(stem(x), mask))
        x = max_pool(x) if large and min(x.shape[1:-1]) >= 2 else x
        for stage, width in enumerate(self.widths):
            for i in range(BLOCKS):
                x = Block(width, 2 if stage and not i else 1, self.norm, self.form)(x, mask)
        return x.mean(tuple(range(1, x.ndim - 1)))


def resnet18(
    *,
    width: int = 64,
    widths: Sequence[int] = (),
    stem: Stem = "small",
    norm: norms.NormPolicy = "support",
    form: Form = "auto",
) -> Backbone:
    """ResNet-18 as a backbone: [n, H, W, C] or [n, D, H, W, C] float -> [n, F] features.

    Args:
      width: channels of the first stage; the others have 2, 4 and 8 times as many.
      widths: channels stage by stage, in place of `width`.
      stem: "small" keeps the image's size, for some 28 to 84 pixels; "large" quarters it.
      norm: "batch" (statistics of the set at hand: transductive on a query set),
        "support" (statistics of the support set, applied to the query: inductive),
        "group" (each example by itself) or "none".
      form: how convolutions are computed, see `ops.conv`.

    >>> import jax, jax.numpy as jnp
    >>> backbone = resnet18(widths=(4, 8))
    >>> params = backbone.init(jax.random.key(0), jnp.ones((2, 12, 12, 1)))
    >>> jax.jit(backbone.apply)(params, jnp.ones((2, 12, 12, 1)), jnp.ones(2, bool))[0].shape
    (2, 8)
    """
    if stem not in get_args(Stem):
        raise ValueError(f"stem must be one of {get_args(Stem)}, got {stem!r}")
    chosen = tuple(widths) or tuple(width * n for n in (1, 2, 4, 8))
    require_network(chosen, norm)
    return from_linen(ResNet18(chosen, stem, norm, form), norm=norm)
