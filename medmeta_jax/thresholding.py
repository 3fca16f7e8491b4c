"""One intensity for all images: what is brighter than it is marked, or what is darker.

    t, s = argmax Dice([s (g(x) - t) > 0], y) over the support;   logits(x) = (0, s (g(x) - t))

g is the mean over the channels that are there. Of `LEVELS` thresholds between the support's least
and greatest value the best is taken, on either side. Nothing is learned: a baseline of
segmentation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.losses import dice_and_cross_entropy, overlap, query_loss
from medmeta_jax.types import Array, Examples, MetaLearner, Params, PyTree, checked

LEVELS = 64


class Adapted(NamedTuple):
    """The threshold, and 1 where what is brighter is marked, -1 where what is darker."""

    level: Array
    sign: Array


def threshold() -> MetaLearner:
    """The best threshold on the support. meta_params: {}."""

    def init(key: Array, x: PyTree) -> Params:
        del key, x
        return {}

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del theta, key, steps
        grey = jnp.nanmean(support.x, -1)
        there = support.mask.reshape(-1, *(1,) * (grey.ndim - 1))
        low = jnp.where(there, grey, jnp.inf).min()
        high = jnp.where(there, grey, -jnp.inf).max()
        levels = low + (high - low) * jnp.linspace(0.0, 1.0, LEVELS + 2, dtype=grey.dtype)[1:-1]
        truth = support.y.astype(grey.dtype)

        def score(level: Array, sign: Array) -> Array:
            marked = (sign * (grey - level) > 0).astype(grey.dtype)
            return overlap(marked, truth, support.mask, 1e-6)

        signs = jnp.asarray([1.0, -1.0], grey.dtype)
        scores = jax.vmap(lambda sign: jax.lax.map(lambda level: score(level, sign), levels))(signs)
        best = jnp.argmax(scores)
        return Adapted(levels[best % LEVELS], signs[best // LEVELS])

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        del mask
        above = adapted.sign * (jnp.nanmean(x, -1) - adapted.level)
        return jnp.stack([jnp.zeros_like(above), above], -1)

    meta_loss = query_loss(adapt, predict, dice_and_cross_entropy)
    return checked(MetaLearner(init, adapt, predict, meta_loss, "none"))
