"""ANIL: almost no inner loop. Raghu, Raghu, Bengio, Vinyals, 2020, arXiv 1909.09157.

    θ = (b, w);  w'_{t+1} = w'_t - α ∇_w L_S(b, w'_t);   minimise  L_Q(b, w'_K) over b, w

The inner loop moves the head alone, so the support features are computed once. The
meta-gradient still flows to the body through every inner step.

Deviations: as `maml`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import optax

from medmeta_jax.heads import linear, with_head
from medmeta_jax.inner import Loop, Order, require_positive, unrolled
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
    """The body as it was, the adapted head, the support set's norm statistics and ways."""

    body: Params
    head: Params
    stats: PyTree
    present: Array


def anil(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.1,
    order: Order = "mixed",
    loop: Loop = "scan",
) -> MetaLearner:
    """ANIL over `backbone` and a linear head; arguments as in `maml`.

    meta_params: {"body", "head"}.
    """
    require_positive("inner_lr", inner_lr)
    model = with_head(backbone, outputs)
    solve = unrolled(optax.sgd(inner_lr), steps=steps, order=order, loop=loop)

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key
        present = ways_present(support, outputs)
        features, stats = backbone.apply(theta["body"], support.x, support.mask)

        def inner_loss(head: Params, t: Array) -> Array:
            del t
            return loss(mask_absent(linear(head, features), present), support.y, support.mask)

        return Adapted(theta["body"], solve(inner_loss, theta["head"], steps), stats, present)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        return mask_absent(linear(adapted.head, features), adapted.present)

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(model.init, adapt, predict, meta_loss, backbone.norm))
