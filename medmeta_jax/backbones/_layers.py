"""The layers that backbones share: convolution through `ops.conv`, and the norm policies."""

from __future__ import annotations

import flax.linen as nn

from medmeta_jax.adapters import STATS
from medmeta_jax.ops import norm as norms
from medmeta_jax.ops.conv import Form, conv
from medmeta_jax.types import Array

MAX_GROUPS, MIN_GROUP_CHANNELS = 8, 4


def group_count(channels: int) -> int:
    """Groups of a group norm: at most 8, of 4 channels or more, dividing the channels.

    A group of one channel on a 1x1 map would be one number, normalised to nothing.

    >>> [group_count(channels) for channels in (4, 16, 30, 64)]
    [1, 4, 6, 8]
    """
    most = max(1, min(MAX_GROUPS, channels // MIN_GROUP_CHANNELS))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


class Norm(nn.Module):
    """A normalisation layer whose statistics come from where the policy says."""

    policy: norms.NormPolicy

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        if self.policy == "none":
            return x
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if self.policy == "group":
            return norms.group_normalise(x, scale, bias, group_count(channels))
        if self.policy == "batch":
            return norms.normalise(x, norms.masked_moments(x, mask), scale, bias)
        given = self.has_variable(STATS, "moments")
        held = self.variable(STATS, "moments", lambda: norms.masked_moments(x, mask))
        if not given:
            held.value = norms.masked_moments(x, mask)
        return norms.normalise(x, held.value, scale, bias)


class Conv(nn.Module):
    """A convolution through `ops.conv`, stride 1, padding SAME."""

    features: int
    use_bias: bool
    form: Form
    size: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        out = conv(x, kernel, form=self.form)
        if self.use_bias:
            out = out + self.param("bias", nn.initializers.zeros, (self.features,))
        return out
