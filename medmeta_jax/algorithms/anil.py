"""ANIL: almost no inner loop. Raghu, Raghu, Bengio, Vinyals, 2020, arXiv 1909.09157.

    θ = (b, w);  w'_{t+1} = w'_t - α ∇_w L_S(b, w'_t);   minimise  L_Q(b, w'_K) over b, w

The inner loop moves the head alone, so the support features are computed once. The
meta-gradient still flows to the body through every inner step.

Deviations: as `maml`.
"""

from __future__ import annotations

import optax

from medmeta_jax.algorithms._on_features import on_features
from medmeta_jax.heads import linear, with_head
from medmeta_jax.inner import Loop, Order, require_positive, unrolled
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import Backbone, Loss, MetaLearner, checked


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

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = anil(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body', 'head']
    """
    require_positive("inner_lr", inner_lr)
    model = with_head(backbone, outputs)
    solve = unrolled(optax.sgd(inner_lr), steps=steps, order=order, loop=loop)

    adapt, predict = on_features(
        backbone,
        outputs=outputs,
        loss=loss,
        solve=solve,
        start=lambda theta, features, support: theta["head"],
        classify=lambda theta, head, features: linear(head, features),
    )
    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(model.init, adapt, predict, meta_loss, backbone.norm))
