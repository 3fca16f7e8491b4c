"""The layers that backbones share: convolution through `ops`, and the norm policies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_args

import flax.linen as nn

from medmeta_jax.adapters import STATS
from medmeta_jax.ops import cells, norm as norms
from medmeta_jax.ops.conv import Form, choose, conv
from medmeta_jax.ops.draws import he_normal
from medmeta_jax.ops.pool import max_pool
from medmeta_jax.ops.winograd import FEW_CHANNELS, conv_corners
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


def require_network(widths: tuple[int, ...], norm: str) -> None:
    """Shared validation of the factories (ValueError)."""
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be >= 1, and one or more, got {widths}")
    if norm not in get_args(norms.NormPolicy):
        raise ValueError(f"norm must be one of {get_args(norms.NormPolicy)}, got {norm!r}")


class Norm(nn.Module):
    """A normalisation layer whose statistics come from where the policy says."""

    policy: norms.NormPolicy

    @nn.compact
    def __call__(
        self,
        x: Any,
        mask: Array,
        size: tuple[int, int] = (0, 0),
        of_set: Callable[[], norms.Moments] | None = None,
    ) -> Any:
        """Normalise x [n, *spatial, C]; or normalise and max-pool the corners of an image.

        `size` is the image's (H, W), for corners. `of_set` computes the set's statistics
        where there is a shorter way to them than x.
        """
        pooled = isinstance(x, tuple)
        if self.policy == "none":
            return cells.max_pool(x, size) if pooled else x
        channels = x[0].shape[-1] if pooled else x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if self.policy == "group":
            groups = group_count(channels)
            if not pooled:
                return norms.group_normalise(x, scale, bias, groups)
            moments = cells.group_moments(x, size, groups)
        else:
            moments = self.moments(of_set or (lambda: measured(x, mask, size)))
        if pooled:
            return cells.pool_normalised(x, size, moments, scale, bias)
        return norms.normalise(x, moments, scale, bias)

    def moments(self, of_set: Callable[[], norms.Moments]) -> norms.Moments:
        """Statistics of the set at hand, or under "support" those given."""
        if self.policy == "batch":
            return of_set()
        given = self.has_variable(STATS, "moments")
        held = self.variable(STATS, "moments", of_set)
        if not given:
            held.value = of_set()
        found: norms.Moments = held.value
        return found


def measured(x: Any, mask: Array, size: tuple[int, int]) -> norms.Moments:
    """Statistics of an image, or of one in corners."""
    if isinstance(x, tuple):
        return cells.moments(x, size, mask)
    return norms.masked_moments(x, mask)


class Conv(nn.Module):
    """A convolution through `ops`, padding SAME: of images, or of volumes with a cubic kernel.

    Where the form "winograd" does not apply (stride 2, other kernels, volumes), "auto" stands in.

    With `corners`, a 3x3 one gives the corners of its image (`ops/winograd.py`) and its kernel.
    """

    features: int
    use_bias: bool
    form: Form
    size: int = 3
    corners: bool = False
    stride: int = 1
    initial: nn.initializers.Initializer = he_normal

    @nn.compact
    def __call__(self, x: Array) -> Any:
        axes = x.ndim - 2
        shape = (*(self.size,) * axes, x.shape[-1], self.features)
        kernel = self.param("kernel", self.initial, shape)
        bias: Array | float = 0.0
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.corners:
            corners = conv_corners(x, kernel)
            return tuple(part + bias for part in corners) if self.use_bias else corners, kernel
        other = self.form == "winograd" and (axes, self.size, self.stride) != (2, 3, 1)
        y = conv(x, kernel, stride=self.stride, form="auto" if other else self.form)
        return y + bias if self.use_bias else y


class ConvNormPool(nn.Module):
    """3x3 convolution, norm, ReLU and 2x2 max-pool, where the map is large enough to pool.

    On corners the pool comes before the ReLU: the two commute, and a quarter of the pixels is
    left to do. On few channels they come from patches, and so do the norm's statistics. Volumes
    have no corners: 3x3x3 by patches, and 2x2x2.
    """

    features: int
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        spatial, channels = x.shape[1:-1], x.shape[-1]
        pools = min(spatial) >= 2
        few = channels <= FEW_CHANNELS
        chosen = choose((*(3,) * len(spatial), channels, self.features), 1, "SAME", spatial)
        by_cells = len(spatial) == 2 and (
            self.form == "winograd" or (self.form == "auto" and (few or chosen == "winograd"))
        )
        conv3 = Conv(
            self.features, self.norm == "none", self.form, corners=pools and by_cells, name="conv"
        )
        norm = Norm(self.norm, name="norm")
        if not (pools and by_cells):
            y = nn.relu(norm(conv3(x), mask))
            return max_pool(y) if pools else y
        corners, kernel = conv3(x)
        of_set = functools.partial(cells.moments_from_patches, x, kernel, mask) if few else None
        return nn.relu(norm(corners, mask, (spatial[0], spatial[1]), of_set))
