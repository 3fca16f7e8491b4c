"""Meta-SGD: a learned rate for every parameter. Li, Zhou, Chen, Li, 2017, arXiv 1707.09835.

    θ' = θ - α ∘ ∇L_S(θ);   minimise  L_Q(θ') over θ and α, α shaped like θ

Deviations: several steps with the same α in place of one; α starts at one value everywhere,
where the paper draws it from an interval; otherwise as `maml`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.algorithms._adaptation import adaptation
from medmeta_jax.heads import with_head
from medmeta_jax.inner import Order, Solve, descent, require_loop, require_positive, unrolled
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import Array, Backbone, Loss, MetaLearner, Params, PyTree, checked


def metasgd(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.1,
    order: Order = "mixed",
) -> MetaLearner:
    """Meta-SGD over `backbone` and a linear head; `inner_lr` is where the rates start.

    meta_params: {"body", "head", "rates": {"body", "head"}}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = metasgd(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta), sorted(theta["rates"])
    (['body', 'head', 'rates'], ['body', 'head'])
    """
    require_positive("inner_lr", inner_lr)
    require_loop(steps, order)
    model = with_head(backbone, outputs)

    def init(key: Array, x: PyTree) -> Params:
        params = model.init(key, x)
        return {**params, "rates": jax.tree.map(lambda p: jnp.full_like(p, inner_lr), params)}

    def solve(theta: Params) -> Solve:
        optimiser = descent(lambda grads, t: jax.tree.map(jnp.multiply, theta["rates"], grads))
        return unrolled(optimiser, steps=steps, order=order)

    adapt, predict, _ = adaptation(model, outputs=outputs, loss=loss, steps=steps, solve=solve)
    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
