"""Adapting a network with a head by an inner loop: what the gradient-based methods share.

A method says how the inner problem is solved, given the meta-parameters (which may hold
learned rates), which parameters the loop moves, and, where these are not the identity, how
the network's parameters at a step follow from those that move, and what of the support a step
sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from medmeta_jax.inner import InnerLoss, Path, Solve, merge, partition
from medmeta_jax.losses import mask_absent, ways_present
from medmeta_jax.types import Array, Backbone, Examples, Loss, Params, PyTree, View

Effective = Callable[[Params, Params, Array], Params]


class Adapted(NamedTuple):
    """Adapted parameters, the support set's norm statistics, the ways it showed."""

    params: Params
    stats: PyTree
    present: Array


def everything(path: Path) -> bool:
    """The inner loop moves every parameter."""
    del path
    return True


def as_they_are(params: Params, theta: Params, t: Array) -> Params:
    """The network's parameters are those that the loop moves, and those it leaves."""
    del theta, t
    return params


def all_of_it(theta: Params, support: Examples, key: Array, t: Array) -> Examples:
    """Every step sees the support as it is."""
    del theta, key, t
    return support


class Adaptation(NamedTuple):
    """`adapt` and `predict` of a learner, and the parts for an objective of one's own.

    problem: (theta, support, key) -> (inner loss, the parameters that move, finish), where
    finish(moved, t) -> Adapted.
    """

    adapt: Callable[..., Adapted]
    predict: Callable[[Adapted, PyTree, Array], Array]
    problem: Callable[[Params, Examples, Array], tuple[InnerLoss, Params, Callable[..., Adapted]]]


def adaptation(
    model: Backbone,
    *,
    outputs: int,
    loss: Loss,
    steps: int,
    solve: Callable[[Params], Solve],
    moves: Callable[[Path], bool] = everything,
    effective: Effective = as_they_are,
    view: View = all_of_it,
) -> Adaptation:
    """Adaptation of `model`, a network with its head, on a support set.

    Args:
      model: parameters {"body", "head"}, as `heads.with_head` makes.
      outputs: the head's size.
      loss: (logits, y, mask) -> scalar.
      steps: inner steps where a call does not say.
      solve: meta-parameters -> `Solve`.
      moves: which of "body" and "head" the loop moves, by path.
      effective: (those parameters, meta-parameters, inner step) -> the network's.
      view: what a step sees of the support. Norm statistics are of the support as it is.
    """

    def problem(
        theta: Params, support: Examples, key: Array
    ) -> tuple[InnerLoss, Params, Callable[..., Adapted]]:
        present = ways_present(support, outputs)
        moving, rest = partition(moves, {"body": theta["body"], "head": theta["head"]})

        def inner_loss(current: Params, t: Array) -> Array:
            params, seen = effective(merge(current, rest), theta, t), view(theta, support, key, t)
            logits, _ = model.apply(params, seen.x, seen.mask)
            return loss(mask_absent(logits, present), seen.y, seen.mask)

        def finish(moved: Params, t: Array) -> Adapted:
            params = effective(merge(moved, rest), theta, t)
            _, stats = model.apply(params, support.x, support.mask)
            return Adapted(params, stats, present)

        return inner_loss, moving, finish

    def adapt(theta: Params, support: Examples, key: Array, count: Any = None) -> Adapted:
        inner_loss, moving, finish = problem(theta, support, key)
        moved = solve(theta)(inner_loss, moving, count)
        return finish(moved, jnp.asarray(steps if count is None else count, jnp.int32))

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        logits, _ = model.apply(adapted.params, x, mask, adapted.stats)
        return mask_absent(logits, adapted.present)

    return Adaptation(adapt, predict, problem)
