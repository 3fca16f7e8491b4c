"""A small learner that is also told what a large one makes of each episode.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), episode by
episode: the teacher adapts to the support set, and its softened answers on the query set are what
the student's are drawn to,

    (1 - w) L + w τ² KL(softmax(teacher / τ) ‖ softmax(student / τ)).

Deviations: the teacher is one for each episode, adapted. Its ways are the student's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.types import Array, Episode, Info, MetaLearner, Params


def divergence(teacher: Array, student: Array, mask: Array, temperature: float) -> Array:
    """τ² KL of softened answers [..., n, ways], the mean over examples that are there."""
    p = jax.nn.softmax(teacher / temperature)
    gap = jax.nn.log_softmax(teacher / temperature) - jax.nn.log_softmax(student / temperature)
    each = (p * gap).sum(-1)
    there = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (each.ndim - 1)), each.shape)
    mean = jnp.where(there, each, 0).sum() / jnp.maximum(there.sum(), 1).astype(each.dtype)
    return temperature**2 * mean


def distilled(
    learner: MetaLearner,
    teacher: MetaLearner,
    teacher_params: Params,
    *,
    weight: float = 0.5,
    temperature: float = 4.0,
) -> MetaLearner:
    """The learner with its loss drawn to the answers of a teacher, which is not trained.

    The reported loss and logits are the learner's own.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be >= 0 and <= 1, got {weight}")
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")

    def loss(params: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        value, info = learner.loss(params, episode, key, step)
        adapted = teacher.adapt(teacher_params, episode.support, key)
        told = teacher.predict(adapted, episode.query.x, episode.query.mask)
        told = jax.lax.stop_gradient(told)
        gap = divergence(told, info.logits, episode.query.mask, temperature)
        return (1 - weight) * value + weight * gap.astype(value.dtype), info

    return learner._replace(loss=loss)
