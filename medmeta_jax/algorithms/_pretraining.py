"""Ordinary supervised pre-training, as a meta-learner's loss: what transfer rows share.

The images of an episode, support and query together, are one labelled batch of the
pool's own classes (`Episode.classes`), so pre-training goes through the same sampler,
step and budget as every meta-learner. Where labels are masks, an episode's images mark one
structure of the pool, and each structure has an output of its own: joint pre-training on all. Where
they mark lesions of several types, a pixel is of one of all types, or of none.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from medmeta_jax.heads import feature_size, init_linear, linear
from medmeta_jax.losses import cross_entropy, mask_absent
from medmeta_jax.types import Array, Backbone, Episode, Info, Loss, Params, PyTree


def init_pretraining(
    backbone: Backbone, outputs: int, pool_classes: int
) -> Callable[[Array, PyTree], Params]:
    """init for {"body", "head", "classifier"}: the new task's head and the old classes'."""

    def init(key: Array, x: PyTree) -> Params:
        body_key, head_key, classifier_key = jax.random.split(key, 3)
        body = backbone.init(body_key, x)
        size = feature_size(backbone, body, x)
        return {
            "body": body,
            "head": init_linear(head_key, size, outputs),
            "classifier": init_linear(classifier_key, size, pool_classes),
        }

    return init


def pretraining_loss(
    backbone: Backbone,
    classify: Callable[[Params, Array], Array] = linear,
    of_masks: Loss = cross_entropy,
) -> Callable[[Params, Episode, Array, Array], tuple[Array, Info]]:
    """Cross-entropy over the pool's own classes. Info holds the logits of the query.

    classify: (classifier, features [n, F]) -> logits [n, pool_classes].
    of_masks: the loss of the episode's structure, or of all types, where labels are masks.
    """

    def loss(params: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        del key, step
        support, query = episode.support, episode.query
        # Statistics as at meta-test: the support set's own, given to the query.
        seen, stats = backbone.apply(params["body"], support.x, support.mask)
        asked, _ = backbone.apply(params["body"], query.x, query.mask, stats)
        logits = classify(params["classifier"], jnp.concatenate([seen, asked]))
        y = jnp.concatenate([support.y, query.y])
        mask = jnp.concatenate([support.mask, query.mask])
        if y.ndim > 2 and episode.classes.shape[0] > 1:
            every = jnp.concatenate([jnp.zeros_like(logits[..., :1]), logits], -1)
            value = of_masks(every, jnp.where(y > 0, episode.classes[y - 1] + 1, 0), mask)
            of_types = jnp.append(0, episode.classes[:-1] + 1)  # the last way is of none
            return value, Info(value, every[support.y.shape[0] :][..., of_types])
        if y.ndim > 1:
            marked = logits[..., episode.classes[0]]
            logits = jnp.stack([jnp.zeros_like(marked), marked], -1)
            value = of_masks(logits, y, mask)
            return value, Info(value, logits[support.y.shape[0] :])
        value = cross_entropy(logits, episode.classes[y], mask)
        of_ways = logits[support.y.shape[0] :][:, episode.classes]
        return value, Info(value, mask_absent(of_ways, episode.classes >= 0))

    return loss


def require_sizes(outputs: int, pool_classes: int) -> None:
    """Shared validation of the factories that pre-train (ValueError)."""
    for name, size in (("outputs", outputs), ("pool_classes", pool_classes)):
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
