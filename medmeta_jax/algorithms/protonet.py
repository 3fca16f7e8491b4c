"""Prototypical networks. Snell, Swersky, Zemel, 2017, arXiv 1703.05175.

    c_k = mean of f(x) over the support of class k;   logits_k(x) = -‖f(x) - c_k‖²

Deviations: the ways that an episode lacks are masked out of the softmax.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.losses import cross_entropy, mask_absent, query_loss, ways_present
from medmeta_jax.types import (
    Array,
    Backbone,
    Examples,
    Loss,
    MetaLearner,
    Params,
    PyTree,
    checked,
)


class Adapted(NamedTuple):
    """The body, one prototype a way [ways, F], norm statistics, the ways present."""

    body: Params
    prototypes: Array
    stats: PyTree
    present: Array


def class_means(features: Array, support: Examples, ways: int) -> Array:
    """Mean feature of each way's support: [n, F] -> [ways, F], 0 where a way is absent."""
    members = jax.nn.one_hot(support.y, ways, dtype=jnp.bool_) & support.mask[:, None]
    weights = members.astype(features.dtype)
    # Padding is selected away and not multiplied by zero: it may hold anything.
    kept = jnp.where(support.mask[:, None], features, 0)
    return (weights.T @ kept) / jnp.maximum(weights.sum(0), 1)[:, None]


def protonet(backbone: Backbone, *, outputs: int, loss: Loss = cross_entropy) -> MetaLearner:
    """Prototypical networks over `backbone`; `outputs` is the number of ways.

    `adapt` has no steps: its `steps` argument is ignored. meta_params: {"body"}.
    """
    if outputs < 1:
        raise ValueError(f"outputs must be >= 1, got {outputs}")

    def init(key: Array, x: PyTree) -> Params:
        return {"body": backbone.init(key, x)}

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key, steps
        features, stats = backbone.apply(theta["body"], support.x, support.mask)
        prototypes = class_means(features, support, outputs)
        return Adapted(theta["body"], prototypes, stats, ways_present(support, outputs))

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        gaps = features[:, None, :] - adapted.prototypes[None]
        return mask_absent(-(gaps**2).sum(-1), adapted.present)

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
