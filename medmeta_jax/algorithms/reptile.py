"""Reptile. Nichol, Achiam, Schulman, 2018, arXiv 1803.02999.

    φ = θ after K steps of gradient descent on the task;   θ ← θ + β (φ - θ)

θ - φ is the gradient of ½ ‖θ - stop(φ)‖², which is what `loss` returns, so that any outer
optimiser serves.

Deviations: φ comes of the episode's support and query together, one labelled set, as the
paper trains on more shots than it is judged at; full batches in place of mini-batches; the
loss that is reported is the honest one, of adapting on the support alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from medmeta_jax.algorithms._adaptation import adaptation
from medmeta_jax.heads import with_head
from medmeta_jax.inner import require_positive, unrolled
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import (
    Array,
    Backbone,
    Episode,
    Examples,
    Info,
    Loss,
    MetaLearner,
    Params,
    checked,
)


def together(one: Examples, other: Examples) -> Examples:
    """Two sets as one."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), one, other)


def reptile(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.1,
) -> MetaLearner:
    """Reptile over `backbone` and a linear head. meta_params: {"body", "head"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = reptile(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body', 'head']
    """
    require_positive("inner_lr", inner_lr)
    model = with_head(backbone, outputs)
    solve = unrolled(optax.sgd(inner_lr), steps=steps, order="first")
    adapt, predict, problem = adaptation(
        model, outputs=outputs, loss=loss, steps=steps, solve=lambda theta: solve
    )

    judged = query_loss(adapt, predict, loss)

    def meta_loss(theta: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        inner_loss, moving, _ = problem(theta, together(episode.support, episode.query), key)
        phi = jax.lax.stop_gradient(solve(inner_loss, moving))
        gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), moving, phi)
        _, info = judged(jax.lax.stop_gradient(theta), episode, key, step)
        return 0.5 * jax.tree.reduce(jnp.add, gaps), info

    return checked(MetaLearner(model.init, adapt, predict, meta_loss, backbone.norm))
