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
from typing import Any, NamedTuple

import optax

from medmeta_jax.heads import with_head
from medmeta_jax.inner import Loop, Order, Path, Remat, merge, partition, require_positive, unrolled
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
    """Adapted parameters, the support set's norm statistics, the ways it showed."""

    params: Params
    stats: PyTree
    present: Array


def everything(path: Path) -> bool:
    """The inner loop moves every parameter."""
    del path
    return True


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
) -> MetaLearner:
    """Second-order MAML over `backbone` and a linear head.

    Args:
      outputs: the head's size: ways, labels, or 1 for regression.
      loss: (logits, y, mask) -> scalar, used inside and outside.
      steps, order, remat, loop: see `inner.unrolled`.
      inner_lr: α.
      optimiser: replaces gradient descent at rate `inner_lr`.
      moves: which parameters the inner loop moves, by path ("body" or "head" first).

    meta_params: {"body", "head"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
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

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key
        present = ways_present(support, outputs)
        moving, rest = partition(moves, theta)

        def inner_loss(current: Params, t: Array) -> Array:
            del t
            logits, _ = model.apply(merge(current, rest), support.x, support.mask)
            return loss(mask_absent(logits, present), support.y, support.mask)

        params = merge(solve(inner_loss, moving, steps), rest)
        _, stats = model.apply(params, support.x, support.mask)
        return Adapted(params, stats, present)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        logits, _ = model.apply(adapted.params, x, mask, adapted.stats)
        return mask_absent(logits, adapted.present)

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(model.init, adapt, predict, meta_loss, backbone.norm))
