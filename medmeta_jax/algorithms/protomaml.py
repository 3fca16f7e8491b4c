"""Proto-MAML. Triantafillou et al., 2020 (Meta-Dataset), arXiv 1903.03096.

    W_k = 2 c_k,  b_k = -‖c_k‖²,  c_k the mean feature of class k;   then as MAML

ProtoNet's logits are linear in the features up to a term that all classes share, so that the
head starts as ProtoNet's classifier: with no inner step the two agree. The meta-gradient
flows through the head's start to the body.

Deviations: of second order, where the paper is of first; otherwise as `maml`.
"""

from __future__ import annotations

from typing import Any

import optax

from medmeta_jax.algorithms._adaptation import Adapted, adaptation
from medmeta_jax.algorithms.protonet import prototypes_of
from medmeta_jax.heads import with_head
from medmeta_jax.inner import Order, require_positive, unrolled
from medmeta_jax.losses import cross_entropy, query_loss
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


def protomaml(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.1,
    order: Order = "mixed",
) -> MetaLearner:
    """Proto-MAML over `backbone`; `outputs` is the number of ways. meta_params: {"body"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = protomaml(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body']
    """
    require_positive("inner_lr", inner_lr)
    model = with_head(backbone, outputs)
    solve = unrolled(optax.sgd(inner_lr), steps=steps, order=order)
    adapt_from, predict, _ = adaptation(
        model, outputs=outputs, loss=loss, steps=steps, solve=lambda theta: solve
    )

    def init(key: Array, x: PyTree) -> Params:
        return {"body": backbone.init(key, x)}

    def adapt(theta: Params, support: Examples, key: Array, count: Any = None) -> Adapted:
        features, _ = backbone.apply(theta["body"], support.x, support.mask)
        means = prototypes_of(features, support, outputs)
        if support.y.ndim == 1:
            head = {"kernel": 2 * means.T, "bias": -(means**2).sum(-1)}
        else:  # ProtoNet's two prototypes a label: the quadratic terms cancel there too
            shown, not_shown = means
            bias = (not_shown**2 - shown**2).sum(-1)
            head = {"kernel": 2 * (shown - not_shown).T, "bias": bias}
        return adapt_from({"body": theta["body"], "head": head}, support, key, count)

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
