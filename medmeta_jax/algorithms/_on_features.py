"""Adapting on features that stay as they are: what the methods with a frozen body share.

The body is applied to the support once, whatever the number of inner steps. A method says
what the inner loop moves, where that starts, and how it makes logits of features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from medmeta_jax.inner import Solve
from medmeta_jax.losses import mask_absent, ways_present
from medmeta_jax.types import Array, Backbone, Examples, Loss, Params, PyTree


class Adapted(NamedTuple):
    """The meta-parameters as they were, what was adapted, norm statistics, the ways present."""

    theta: Params
    moved: PyTree
    stats: PyTree
    present: Array


def on_features(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss,
    solve: Solve,
    start: Callable[[Params, Array, Examples], PyTree],
    classify: Callable[[Params, PyTree, Array], Array],
) -> tuple[Callable[..., Adapted], Callable[[Adapted, PyTree, Array], Array]]:
    """`adapt` and `predict` of a learner whose inner loop leaves the body alone.

    Args:
      outputs: the number of ways.
      loss: (logits, y, mask) -> scalar.
      solve: how the inner problem is solved.
      start: (meta-parameters, support features [n, F], support) -> what moves.
      classify: (meta-parameters, what moves, features [n, F]) -> logits [n, outputs].
    """

    def adapt(theta: Params, support: Examples, key: Array, count: Any = None) -> Adapted:
        del key
        present = ways_present(support, outputs)
        features, stats = backbone.apply(theta["body"], support.x, support.mask)

        def inner_loss(moved: PyTree, t: Array) -> Array:
            del t
            logits = mask_absent(classify(theta, moved, features), present)
            return loss(logits, support.y, support.mask)

        moved = solve(inner_loss, start(theta, features, support), count)
        return Adapted(theta, moved, stats, present)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.theta["body"], x, mask, adapted.stats)
        return mask_absent(classify(adapted.theta, adapted.moved, features), adapted.present)

    return adapt, predict
