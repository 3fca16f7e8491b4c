"""No network: an image's own pixels as its features, for the baseline on raw pixels."""

from __future__ import annotations

import jax.numpy as jnp

from medmeta_jax.types import Array, Backbone, Params, PyTree


def pixels(*, norm: str = "none") -> Backbone:
    """[n, *spatial, C] -> [n, all of an image's values]. Has no parameters, and no norm but "none".

    A modality that an image lacks is zeros, the mean of those that have it.

    >>> pixels().apply({}, jnp.ones((2, 4, 4, 1)), jnp.ones(2, bool))[0].shape
    (2, 16)
    """
    if norm != "none":
        raise ValueError(f"norm must be 'none' for pixels, got {norm!r}")

    def init(key: Array, x: PyTree) -> Params:
        del key, x
        return {}

    def apply(params: Params, x: PyTree, mask: Array, stats: PyTree = None) -> tuple[Array, PyTree]:
        del params, mask, stats
        return jnp.where(jnp.isnan(x), 0, x).reshape(x.shape[0], -1), {}

    return Backbone(init, apply, "none")
