"""MAML: model-agnostic meta-learning. Finn, Abbeel, Levine, 2017, arXiv 1703.03400.

    θ'_{t+1} = θ'_t - α ∇L_S(θ'_t),  θ'_0 = θ,  t = 0..K-1;   minimise  L_Q(θ'_K) over θ

The meta-gradient is of second order, taken in mixed mode (`mixed.py`) unless `order` says
otherwise; `order="first"` is first-order MAML (FOMAML): ∇L_S is held constant.

Deviations: the ways that an episode lacks are masked out of the softmax; normalisation
statistics are the backbone's policy; any optax transformation may take the place of
gradient descent.
"""

from __future__ import annotations

from collections.abc import Callable

import optax

from medmeta_jax.algorithms._adaptation import adaptation, all_of_it, everything
from medmeta_jax.heads import with_head
from medmeta_jax.inner import Loop, Order, Path, Remat, require_positive, unrolled
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import Backbone, Loss, MetaLearner, View, checked


def maml(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.1,
    order: Order = "mixed",
    remat: Remat = "auto",
    loop: Loop = "scan",
    optimiser: optax.GradientTransformation | None = None,
    moves: Callable[[Path], bool] = everything,
    view: View = all_of_it,
) -> MetaLearner:
    """Second-order MAML over `backbone` and a linear head.

    Args:
      outputs: the head's size: ways, labels, or 1 for regression.
      loss: (logits, y, mask) -> scalar, used inside and outside.
      steps, order, remat, loop: see `inner.unrolled`.
      inner_lr: α.
      optimiser: replaces gradient descent at rate `inner_lr`.
      moves: which parameters the inner loop moves, by path ("body" or "head" first).
      view: (meta-parameters, support, key, t) -> what inner step t sees of the support.

    meta_params: {"body", "head"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> from medmeta_jax.types import Examples
    >>> learner = maml(conv4(width=4), outputs=2, steps=1)
    >>> x, y, mask = jnp.ones((2, 8, 8, 1)), jnp.array([0, 1]), jnp.ones(2, bool)
    >>> theta = learner.init(jax.random.key(0), x)
    >>> adapted = learner.adapt(theta, Examples(x, y, mask), jax.random.key(1))
    >>> learner.predict(adapted, x, mask).shape
    (2, 2)
    """
    require_positive("inner_lr", inner_lr)
    model = with_head(backbone, outputs)
    solve = unrolled(
        optimiser or optax.sgd(inner_lr), steps=steps, order=order, remat=remat, loop=loop
    )

    adapt, predict, _ = adaptation(
        model, outputs=outputs, loss=loss, steps=steps, solve=lambda theta: solve, moves=moves,
        view=view,
    )  # fmt: skip
    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(model.init, adapt, predict, meta_loss, backbone.norm))
