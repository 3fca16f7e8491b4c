"""Controls of every meta-learner: training is what makes it good, adapting is what it needs, and
labels that mean nothing teach it nothing.

The tasks: a class is a mixture of fixed textures, each image shows it shifted, under a slope of
brightness that is larger than it. What to look past is the same in all tasks, and can be learned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax import registry, train
from medmeta_jax.backbones.conv4 import conv4
from medmeta_jax.evaluation import FixedEpisodes, episode_keys, evaluate
from medmeta_jax.losses import accuracy
from medmeta_jax.types import Array, Episode, Examples

from ..conftest import OF_MASKS

PRETRAINING = [
    name
    for name in registry.names("algorithms")
    if "pool_classes" in registry.defaults("algorithms", name)
]
META = [name for name in registry.names("algorithms") if name not in (*PRETRAINING, *OF_MASKS)]
WAYS, SHOTS, QUERIES, SIZE, PERIOD, TEXTURES = 3, 3, 5, 12, 4, 6
STEPS, META_BATCH, JUDGED = 150, 4, 120

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def strict_promotion() -> None:
    """Not here: optax's Adam mixes a float with an int count."""


class Pool(NamedTuple):
    """values: the textures, [TEXTURES, PERIOD, PERIOD]. shuffled: whether supports' labels are.

    That it is a part of the pool, and not a sampler of its own, saves compiling a program more.
    """

    values: Array
    shuffled: Array


def sampler(key: Array, pool: Pool) -> Episode:
    """An episode of three classes."""
    class_key, support_key, query_key, label_key = jax.random.split(key, 4)
    mixtures = jax.random.normal(class_key, (WAYS, TEXTURES))
    textures = jnp.tile(pool.values, (1, SIZE // PERIOD, SIZE // PERIOD))
    place = jnp.linspace(-1, 1, SIZE)

    def image(key: Array, way: Array) -> Array:
        shift_key, slope_key, noise_key = jax.random.split(key, 3)
        shown = jnp.tensordot(mixtures[way], textures, 1)
        shown = jnp.roll(shown, tuple(jax.random.randint(shift_key, (2,), 0, PERIOD)), (0, 1))
        slope = 3 * jax.random.normal(slope_key, (3,))
        light = slope[0] + slope[1] * place[:, None] + slope[2] * place[None]
        return (shown + light + 0.3 * jax.random.normal(noise_key, shown.shape))[..., None]

    def side(key: Array, count: int) -> Examples:
        y = jnp.repeat(jnp.arange(WAYS), count)
        return Examples(jax.vmap(image)(jax.random.split(key, len(y)), y), y, y >= 0)

    support = side(support_key, SHOTS)
    y = jnp.where(pool.shuffled, jax.random.permutation(label_key, support.y), support.y)
    return Episode(support._replace(y=y), side(query_key, QUERIES), jnp.arange(WAYS))


class Judged(NamedTuple):
    """Accuracies: trained, untrained, trained with no step, trained on shuffled labels."""

    trained: Any
    untrained: Any
    unadapted: Any
    shuffled: Any


def judged(name: str) -> Judged:
    textures = np.random.default_rng(0).normal(size=(TEXTURES, PERIOD, PERIOD))
    pool = Pool(jnp.asarray(textures, jnp.float32), jnp.asarray(False))
    shuffled = pool._replace(shuffled=jnp.asarray(True))
    backbone = conv4(widths=(8, 8, 8), form="patches")  # which unoptimised code runs quickest
    learner = registry.factory("algorithms", name)(backbone, outputs=WAYS)
    optimiser = optax.adam(3e-3)
    step = train.make_step(
        learner, sampler, optimiser, accuracy, meta_batch=META_BATCH, dispatch=STEPS
    )
    example = sampler(jax.random.key(0), pool).support.x
    state = train.init_state(learner, optimiser, jax.random.key(0), example)
    before = jax.tree.map(jnp.copy, state.params)
    (*_, last) = train.fit(step, train.start(state), pool, steps=STEPS, dispatch=STEPS)
    after = last.progress.state.params
    steps = registry.defaults("algorithms", name).get("steps")

    def of(params: Any, pool: Pool, count: Any) -> Any:
        episodes = FixedEpisodes(sampler, pool, episode_keys(9, JUDGED))
        return evaluate(learner, params, episodes, steps=count).estimate("accuracy")

    return Judged(
        of(after, pool, steps), of(before, pool, steps),
        of(after, pool, 0) if steps else None, of(after, shuffled, steps),
    )  # fmt: skip


@pytest.mark.parametrize("name", META)
def test_controls(name: str) -> None:
    found = judged(name)
    print(name, found)
    chance = 1 / WAYS
    assert found.trained.mean - found.trained.ci95 > found.untrained.mean + found.untrained.ci95
    assert found.trained.mean > chance + 0.15
    assert abs(found.shuffled.mean - chance) < found.shuffled.ci95 + 0.02
    if found.unadapted is not None and name != "protomaml":  # whose head is one without a step
        assert found.trained.mean - found.trained.ci95 > found.unadapted.mean
