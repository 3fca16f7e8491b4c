"""Devices: the same result on 1, 2, 4 and 8, one reduction a step, no task mixed with another."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax import parallel
from medmeta_jax.algorithms.linear_probe import linear_probe
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.evaluation import FixedEpisodes, episode_keys, predict_episodes
from medmeta_jax.losses import accuracy
from medmeta_jax.train import init_state, make_step
from medmeta_jax.types import Episode, MetaLearner

from .conftest import WAYS, make_episode, tiny_backbone

META_BATCH = 8
ONE = np.asarray(1, np.int32)


def pool_of(dtype: Any) -> Episode:
    episodes = [make_episode(k, queries=2) for k in range(5)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *episodes)
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, stacked
    )


def sampler(key: jax.Array, pool: Episode) -> Episode:
    index = jax.random.randint(key, (), 0, pool.classes.shape[0])
    return jax.tree.map(lambda leaf: leaf[index], pool)


def one_step(learner: MetaLearner, devices: int, dtype: Any, chunk: int = 1) -> Any:
    """Program, state and pool of a training step on some devices."""
    mesh = parallel.task_mesh(jax.devices()[:devices])
    pool = pool_of(dtype)
    optimiser = optax.sgd(0.1)
    state = init_state(learner, optimiser, jax.random.key(0), pool.support.x[0])
    state = state._replace(params=jax.tree.map(lambda p: p.astype(dtype), state.params))
    step = make_step(
        learner, sampler, optimiser, accuracy, meta_batch=META_BATCH, chunk=chunk, mesh=mesh
    )
    state, pool = parallel.replicate((state, pool), mesh)
    return step.lower(state, pool, ONE).compile(), state, pool


make_learner = functools.partial(maml, outputs=WAYS, steps=2)


def test_the_same_on_any_number_of_devices(x64: None) -> None:
    """Under shard_map's own check, inner gradients would be summed over devices, silently."""
    learner = make_learner(tiny_backbone("support"))
    results = []
    for devices in (1, 2, 4, 8):
        step, state, pool = one_step(learner, devices, jnp.float64)
        after, metrics = step(state, pool, ONE)
        results.append(jax.tree.map(np.asarray, (after.params, metrics)))
    for other in results[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
            other, results[0],
        )  # fmt: skip


def test_parameters_that_start_as_constants_are_not_summed(x64: None) -> None:
    """A linear probe's head starts at zeros made inside: its gradient is its device's own."""
    learner = linear_probe(tiny_backbone("support"), outputs=WAYS, pool_classes=WAYS, steps=2)
    pool = pool_of(jnp.float64)
    params = learner.init(jax.random.key(0), pool.support.x[0])
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    keys = episode_keys(3, 16)
    found = []
    for devices in (1, 8):
        mesh = parallel.task_mesh(jax.devices()[:devices])
        held = parallel.replicate((params, pool), mesh)
        episodes = FixedEpisodes(sampler, held[1], keys, mesh)
        found.append(predict_episodes(learner, held[0], episodes))
    plain = predict_episodes(learner, params, FixedEpisodes(sampler, pool, keys))
    for spread in found:
        np.testing.assert_allclose(spread.logits, plain.logits, rtol=1e-10)
        np.testing.assert_array_equal(spread.y, plain.y)


@pytest.mark.parametrize("chunk", [1, 2])
def test_one_all_reduce_and_no_all_gather(chunk: int) -> None:
    """The compiled program, read: its only communication is the meta-gradient's mean."""
    learner = make_learner(tiny_backbone("batch"))
    text = one_step(learner, 4, jnp.float32, chunk)[0].as_text()
    calls = re.findall(r"= [^=]*? (all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?\(", text)
    assert calls == ["all-reduce"]


def test_a_meta_batch_that_does_not_divide_is_refused() -> None:
    mesh = parallel.task_mesh(jax.devices()[:3])
    learner = make_learner(tiny_backbone())
    with pytest.raises(ValueError, match="meta_batch must be a multiple of the 3 devices, got 8"):
        make_step(learner, sampler, optax.sgd(0.1), accuracy, meta_batch=8, mesh=mesh)
    mesh = parallel.task_mesh(jax.devices()[:2])
    with pytest.raises(ValueError, match="chunk must divide 4 episodes a device, got 3"):
        make_step(learner, sampler, optax.sgd(0.1), accuracy, meta_batch=8, chunk=3, mesh=mesh)
