"""MLDG: meta-learning for a domain that was not trained on. Li et al., 2018, arXiv 1710.03463.

    θ' = θ - α ∇F_a(θ);   minimise  F_a(θ) + β F_b(θ')  over θ,   a, b two domains, drawn anew

A step towards one domain shall help on another as well. F_d is the loss of an episode of domain d,
of any learner, so that this stands around what a meta-step differentiates and inside nothing.

Deviations: the paper's F and G are means over all domains of either part, here over one each, of as
many pairs as a meta-batch has; and beside the second-order gradient there is the first-order one,
in which ∇F_a is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from medmeta_jax.meta_gradient import EpisodeLoss
from medmeta_jax.types import Array, Params

Order = Literal["second", "first"]


def mldg(
    *, inner_lr: float, weight: float = 1.0, order: Order = "second"
) -> Callable[[EpisodeLoss], EpisodeLoss]:
    """A transformation of an episode's loss into that of a pair, of two domains.

    Args:
      inner_lr: α, > 0. weight: β, >= 0.
      order: "second", or "first", which takes a third less and keeps no graph of the first
        episode's gradient.

    The pool has a `mixing` of two domains or more, and its episodes are of one each. What is
    reported beside the loss is the mean of both episodes' losses and scores, the second's at θ'.
    """
    if not inner_lr > 0:
        raise ValueError(f"inner_lr must be > 0, got {inner_lr}")
    if not weight >= 0:
        raise ValueError(f"weight must be >= 0, got {weight}")
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {get_args(Order)}, got {order!r}")

    def of_pairs(episode_loss: EpisodeLoss) -> EpisodeLoss:
        def loss(
            params: Params, key: Array, pool: Any, step: Array
        ) -> tuple[Array, tuple[Array, Array, Array]]:
            near_key, far_key = jax.random.split(key)
            (near, aux), slope = jax.value_and_grad(episode_loss, has_aux=True)(
                params, near_key, pool, step
            )
            if order == "first":
                slope = jax.lax.stop_gradient(slope)
            moved = jax.tree.map(lambda p, g: p - inner_lr * g, params, slope)
            others = pool._replace(mixing=pool.mixing.at[aux[2]].set(0.0))
            far, far_aux = episode_loss(moved, far_key, others, step)
            means = [(one + other) / 2 for one, other in zip(aux[:2], far_aux[:2], strict=True)]
            return near + jnp.asarray(weight, near.dtype) * far, (means[0], means[1], far_aux[2])

        return loss

    return of_pairs
