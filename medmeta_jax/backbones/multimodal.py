"""Any of several modalities: a stem for each, what is there fused, and a trunk that all share.

HeMIS: Havaei, Guizard, Chapados, Bengio, 2016, arXiv 1607.05194. Channels of the input are the
modalities, and NaN says that an image lacks one:

    f_m(x) = norm(conv_0(x_m) + conv_m(x_m));   g = (mean_m f_m, var_m f_m) over those present

and g goes through the trunk. Deviations: every stem is a shared convolution and its own, which
starts at zero, so that a modality that was never trained on begins as what stems have in common and
not at random; the norm's statistics are of all present modalities together, so that one that the
support lacks has some; the variance is the biased one, and 0 where one modality is there; a trunk
of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp

from medmeta_jax.adapters import from_linen
from medmeta_jax.backbones._layers import Conv, Norm, require_network
from medmeta_jax.backbones.conv4 import Conv4
from medmeta_jax.backbones.unet import UNet
from medmeta_jax.ops import norm as norms
from medmeta_jax.ops.conv import Form
from medmeta_jax.types import Array, Backbone

Trunk = Literal["conv4", "unet"]
Stem = Literal["own", "shared"]


class Stems(nn.Module):
    """x [n, *spatial, M], NaN where absent -> mean and variance over modalities, [n, *spatial, 2F].

    own: whether each modality has a convolution beside the shared one.
    """

    features: int
    own: bool
    norm: norms.NormPolicy
    form: Form

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        n, count = x.shape[0], x.shape[-1]
        absent = jnp.isnan(x)
        there = ~absent.any(range(1, x.ndim - 1)) & mask[:, None]  # [n, M]
        # Before anything is computed: a gradient passes through what is not selected.
        each = jnp.moveaxis(jnp.where(absent, 0, x), -1, 1)[..., None]  # [n, M, *spatial, 1]
        flat = each.reshape(n * count, *each.shape[2:])
        y = Conv(self.features, self.norm == "none", self.form, name="shared")(flat)
        y = y.reshape(n, count, *y.shape[1:])
        if self.own:
            zeros = nn.initializers.zeros
            own = [
                Conv(self.features, False, self.form, initial=zeros, name=f"own_{m}")(each[:, m])
                for m in range(count)
            ]
            y += jnp.stack(own, 1)
        flat = y.reshape(n * count, *y.shape[2:])
        y = nn.relu(Norm(self.norm)(flat, there.reshape(-1))).reshape(y.shape)
        return jnp.concatenate(moments(y, there), -1)


def moments(y: Array, there: Array) -> tuple[Array, Array]:
    """Mean and variance [n, *spatial, F] over the modalities of y [n, M, *spatial, F] that are
    there [n, M]; zeros where none is."""
    weight = there.reshape(*there.shape, *(1,) * (y.ndim - 2)).astype(y.dtype)
    weight /= jnp.maximum(weight.sum(1, keepdims=True), 1)
    mean = (weight * y).sum(1)
    return mean, (weight * (y - mean[:, None]) ** 2).sum(1)


class MultiModal(nn.Module):
    """See `multimodal`."""

    stems: nn.Module
    trunk: nn.Module

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        out: Array = self.trunk(self.stems(x, mask), mask)
        return out


def multimodal(
    *,
    width: int = 16,
    depth: int = 3,
    widths: Sequence[int] = (),
    trunk: Trunk = "conv4",
    stems: Stem = "own",
    hypercolumns: bool = False,
    norm: norms.NormPolicy = "support",
    form: Form = "auto",
) -> Backbone:
    """Stems, fusion and a trunk as a backbone: [n, *spatial, modalities] float, a channel that is
    NaN throughout being absent -> the trunk's features.

    Args:
      width, depth, widths: of the trunk; stems have the channels of its first level.
      trunk: "conv4" for [n, F], or "unet" for a feature a pixel.
      stems: "own": one for each modality; "shared": one for all, which then stand in alike.
      hypercolumns: of a "unet", whether a pixel has the features of all its levels.
      norm, form: as of `conv4`.

    >>> import jax
    >>> backbone = multimodal(width=4, depth=2)
    >>> x = jnp.ones((2, 8, 8, 3)).at[0, ..., 1].set(jnp.nan)
    >>> params = backbone.init(jax.random.key(0), x)
    >>> out, _ = jax.jit(backbone.apply)(params, x, jnp.ones(2, bool))
    >>> out.shape, bool(jnp.isfinite(out).all())
    ((2, 16), True)
    """
    for name, value, known in (("trunk", trunk, Trunk), ("stems", stems, Stem)):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {get_args(known)}, got {value!r}")
    if depth < 1:
        raise ValueError(f"depth must be >= 1, got {depth}")
    grows = trunk == "unet"
    if hypercolumns and not grows:
        raise ValueError(f"trunk must be 'unet' for hypercolumns, got {trunk!r}")
    chosen = tuple(width * 2**i if grows else width for i in range(depth))
    chosen = tuple(widths) or chosen
    require_network(chosen, norm)
    made = UNet(chosen, 1, hypercolumns, norm, form) if grows else Conv4(chosen, norm, form)
    return from_linen(MultiModal(Stems(chosen[0], stems == "own", norm, form), made), norm=norm)
