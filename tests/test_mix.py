"""Mixing of queries and of tasks, from a configuration to a training step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import experiment as experiments, learners, running
from medmeta_jax.labels import MASKS, SEVERAL
from medmeta_jax.settings import ConfigError, TrainConfig

from .conftest import write_toy

CONFIG = TrainConfig(
    image_size=8, ways=3, queries=3, algorithm="protonet", net={"width": 4, "depth": 2},
    augment=("flip",), meta_steps=4, meta_batch=2, validate_every=4, dispatch=4, val_episodes=4,
    test_episodes=4, baselines="none",
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return dataclasses.replace(
        CONFIG, data=str(write_toy(tmp_path_factory.mktemp("mix") / "toy.npz"))
    )


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("cutmix", "metamix")]


@pytest.mark.parametrize("mix", ["mixup", *OTHERS])
def test_queries_are_mixed_in_training_alone(config: TrainConfig, mix: str) -> None:
    """Traced; the loss that training lowers is another than the learner's."""
    plain, made = (experiments.build(dataclasses.replace(config, mix=how)) for how in ("none", mix))
    key = jax.random.key(0)
    episode = jax.jit(made.sampler)(key, made.split.pools["train"])
    params = jax.jit(made.learner.init)(key, made.example_x)
    step = jnp.zeros((), jnp.int32)
    values = [
        float(jax.jit(of.loss)(params, episode, key, step)[0])
        for of in (plain.training, made.training, plain.learner, made.learner)
    ]
    assert values[0] != values[1]
    assert values[2] == values[3]


@pytest.mark.slow
def test_tasks_are_mixed_and_trained_on(config: TrainConfig) -> None:
    """Drawn operation by operation: two compiled programs may round the same image otherwise."""
    made = experiments.build(dataclasses.replace(config, mix="mlti", mix_alpha=0.5))
    plain = experiments.build(config)
    pool = made.split.pools["train"]
    pixels = {
        np.asarray(image).tobytes()
        for seed in range(30)
        for image in plain.sampler(jax.random.key(seed), pool).query.x
    }
    whole = [
        all(np.asarray(x).tobytes() in pixels for x in made.sampler(key, pool).query.x[:2])
        for key in jax.random.split(jax.random.key(1), 20)
    ]
    assert 3 < sum(whole) < 17  # a half of the episodes is as it was
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with an int count
        step = running.compile_step(made, made.training).step
        progress = running.fit_quietly(made, step)
    assert np.isfinite(progress.best_score)
    assert made.val.sampler is not made.sampler


def test_what_labels_can_be_mixed(config: TrainConfig) -> None:
    """Of label maps a box is cut, and nothing is blended."""
    learner = experiments.build(config).learner
    for mix, kind in (("mixup", MASKS), ("metamix", MASKS), ("mlti", MASKS), ("cutmix", SEVERAL)):
        with pytest.raises(ConfigError, match=f"mix: {mix} is of classes, grades"):
            learners.mixing(dataclasses.replace(config, mix=mix), kind, learner)
    cut = learners.mixing(dataclasses.replace(config, mix="cutmix"), MASKS, learner)
    assert cut.loss is not learner.loss
