"""Conv4: four blocks of 3x3 convolution, norm, ReLU and 2x2 max-pool.

The network of MAML and ProtoNet (Vinyals et al., 2016, arXiv 1606.04080). Deviations:
no convolution bias where a norm follows (the norm's own bias makes it redundant), and
the norm's statistics are a policy instead of running averages.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from medmeta_jax.adapters import from_linen
from medmeta_jax.backbones._layers import ConvNormPool, require_network
from medmeta_jax.ops import norm as norms
from medmeta_jax.ops.conv import Form
from medmeta_jax.types import Array, Backbone


class Conv4(nn.Module):
    """See `conv4`."""

    widths: tuple[int, ...]
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        for width in self.widths:
            x = ConvNormPool(width, self.norm, self.form)(x, mask)
        return x.reshape(x.shape[0], -1)


def conv4(
    *,
    width: int = 32,
    depth: int = 4,
    widths: Sequence[int] = (),
    norm: norms.NormPolicy = "support",
    form: Form = "auto",
) -> Backbone:
    """Conv4 as a backbone: [n, H, W, C] or [n, D, H, W, C] float -> [n, F] features.

    Args:
      width: channels of each block.
      depth: number of blocks.
      widths: channels block by block, in place of `width` and `depth`.
      norm: "batch" (statistics of the set at hand: transductive on a query set),
        "support" (statistics of the support set, applied to the query: inductive),
        "group" (each example by itself) or "none".
      form: how convolutions are computed, see `ops.conv`.

    The input's size and channels are read from the example at `init`; of volumes, kernels are
    3x3x3 and pools 2x2x2. F is `widths[-1] * h * w`, where each pool halves h and w while they
    are at least 2.

    >>> import jax, jax.numpy as jnp
    >>> backbone = conv4(width=8)
    >>> params = backbone.init(jax.random.key(0), jnp.ones((2, 28, 28, 1)))
    >>> jax.jit(backbone.apply)(params, jnp.ones((2, 28, 28, 1)), jnp.ones(2, bool))[0].shape
    (2, 8)
    """
    chosen = tuple(widths) or (width,) * depth
    require_network(chosen, norm)
    return from_linen(Conv4(chosen, norm, form), norm=norm)
