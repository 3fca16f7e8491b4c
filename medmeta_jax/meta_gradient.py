"""The meta-gradient of a batch of episodes: the one place with an axis of episodes.

Episodes run `chunk` at a time (a vmap), the chunks one after another (a scan). The gradient
of their mean is added up as it comes; under another objective the episodes' own gradients are
kept until all losses are known. Over devices there is one reduction of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from medmeta_jax import parallel
from medmeta_jax.objectives import Objective
from medmeta_jax.types import Array, Episode, MetaLearner, Params, PyTree

Sampler = Callable[[Array, Any], Episode]  # (key, pool) -> one episode
Score = Callable[[Array, Array, Array], Array]  # (logits, y, mask) -> scalar
# (params, objective state, pool, keys [B], step)
# -> (gradient, mean loss, mean score, objective state)
MetaGradient = Callable[..., tuple[Params, Array, Array, PyTree]]
EpisodeLoss = Callable[[Params, Array, Any, Array], tuple[Array, tuple[Array, Array, Array]]]


def step_keys(key: Array, step: Array, count: int) -> Array:
    """The keys [count] of a training step's episodes, from the run's own."""
    return jax.random.split(jax.random.fold_in(key, step), count)


def make_episode_loss(learner: MetaLearner, sampler: Sampler, score: Score) -> EpisodeLoss:
    """(params, key, pool, step) -> what to differentiate, and (loss, score, domain) of the
    episode that the key draws."""

    def episode_loss(
        params: Params, key: Array, pool: Any, step: Array
    ) -> tuple[Array, tuple[Array, Array, Array]]:
        sample_key, learner_key = jax.random.split(key)
        episode = sampler(sample_key, pool)
        value, info = learner.loss(params, episode, learner_key, step)
        judged = score(info.logits, episode.query.y, episode.query.mask)
        domain = jnp.zeros((), jnp.int32) if episode.domain is None else episode.domain
        # Metrics are of JAX's default precision, whatever the parameters are.
        return value, (info.loss.astype(float), judged.astype(float), domain)

    return episode_loss


def of_the_mean(
    episode_loss: EpisodeLoss, chunk: int, mesh: Mesh | None, held: Any = parallel.EVERYWHERE
) -> MetaGradient:
    """The gradient of the mean loss; the objective's state is passed through.

    held: how the pool lies on the mesh, a spec or a tree of them.
    """

    def local(params: Params, pool: Any, keys: Array, step: Array) -> PyTree:
        def chunk_loss(theta: Params, some: Array) -> tuple[Array, tuple[Array, Array]]:
            if chunk == 1:  # no axis to batch over: a quarter less to trace
                values, aux = episode_loss(theta, some[0], pool, step)
            else:
                values, aux = jax.vmap(episode_loss, (None, 0, None, None))(theta, some, pool, step)
            return values.sum(), (aux[0].sum(), aux[1].sum())

        def add_chunk(total: PyTree, some: Array) -> tuple[PyTree, None]:
            (_, aux), grads = jax.value_and_grad(chunk_loss, has_aux=True)(params, some)
            return jax.tree.map(jnp.add, total, (grads, *aux)), None

        count = keys.shape[0]
        zero = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), jnp.zeros(()))
        total, _ = jax.lax.scan(add_chunk, zero, keys.reshape(count // chunk, chunk))
        return jax.tree.map(lambda leaf: leaf / count, total)

    mean = local if mesh is None else parallel.mean_over_tasks(local, mesh, held)

    def gradient(params: Params, state: PyTree, pool: Any, keys: Array, step: Array) -> Any:
        return (*mean(params, pool, keys, step), state)

    return gradient


def of_an_objective(
    episode_loss: EpisodeLoss,
    objective: Objective,
    chunk: int,
    mesh: Mesh | None,
    held: Any = parallel.EVERYWHERE,
) -> MetaGradient:
    """The gradient under an objective's weights, which need the losses of all episodes; `held` as
    in `of_the_mean`."""
    each = jax.value_and_grad(episode_loss, has_aux=True)

    def local(params: Params, state: PyTree, pool: Any, keys: Array, step: Array) -> Any:
        def one(key: Array) -> Any:
            (_, (loss, judged, domain)), grads = each(params, key, pool, step)
            return ravel_pytree(grads)[0], loss, judged, domain

        batch = chunk if chunk > 1 else None
        grads, losses, judged, domains = jax.lax.map(one, keys, batch_size=batch)
        every: Any = (losses, judged, domains)
        first: Any = 0
        if mesh is not None:
            every = jax.tree.map(parallel.from_all, every)
            first = parallel.place() * keys.shape[0]
        losses, judged, domains = every
        weights, state = objective.weigh(state, losses, domains)
        own = jax.lax.dynamic_slice_in_dim(weights, first, keys.shape[0])
        flat = own.astype(grads.dtype) @ grads
        if mesh is not None:
            flat = parallel.sum_of_all(flat)
        return ravel_pytree(params)[1](flat), losses.mean(), judged.mean(), state

    if mesh is None:
        return local
    every = parallel.EVERYWHERE
    return parallel.spread(local, mesh, (every, every, held, parallel.BY_TASK, every), every)
