"""Evaluation against a plain loop, and the identity of a list of episodes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import evaluation
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.evaluation import (
    FixedEpisodes,
    Predictions,
    episode_keys,
    predict_episodes,
    sample_key,
    score_predictions,
)
from medmeta_jax.types import Episode

from .conftest import WAYS, tiny_backbone
from .test_train import EXAMPLE, POOL, sampler


def test_predictions_equal_a_plain_loop() -> None:
    learner = maml(tiny_backbone(), outputs=WAYS, steps=2)
    params = learner.init(jax.random.key(0), EXAMPLE)
    fixed = FixedEpisodes(sampler, POOL, episode_keys(3, 4))
    draw = jax.jit(sampler)

    @functools.partial(jax.jit, static_argnums=2)
    def told(episode: Episode, key: jax.Array, steps: int | None) -> jax.Array:
        adapted = learner.adapt(params, episode.support, key, steps)
        return learner.predict(adapted, episode.query.x, episode.query.mask)

    for steps in (None, 0, 2):
        found = predict_episodes(learner, params, fixed, steps=steps)
        for i, key in enumerate(fixed.keys):
            episode = draw(sample_key(key), POOL)
            logits = told(episode, key, steps)
            np.testing.assert_allclose(found.logits[i], logits, rtol=1e-3, atol=1e-4)
            np.testing.assert_array_equal(found.y[i], episode.query.y)
            np.testing.assert_array_equal(found.classes[i], episode.classes)


def test_the_learner_gets_the_part_of_a_key_that_the_sampler_does_not() -> None:
    """By a learner whose predictions are the key that it adapted with."""

    def adapt(params: Any, support: Any, key: Any, steps: Any = None) -> Any:
        return jax.random.uniform(key)

    def predict(adapted: Any, x: Any, mask: Any) -> Any:
        return jnp.full((len(mask), WAYS), adapted)

    learner = maml(tiny_backbone(), outputs=WAYS)._replace(adapt=adapt, predict=predict)
    fixed = FixedEpisodes(sampler, POOL, episode_keys(3, 4))
    found = predict_episodes(learner, {}, fixed)
    for logits, key in zip(found.logits, fixed.keys, strict=True):
        of_sampler, of_learner = jax.random.split(key)
        assert of_sampler == sample_key(key)
        np.testing.assert_array_equal(logits, jax.random.uniform(of_learner))


def test_side_by_side_is_the_same(monkeypatch) -> None:
    """As on accelerators, which run a block's episodes together."""
    learner = maml(tiny_backbone(), outputs=WAYS, steps=2)
    params = learner.init(jax.random.key(0), EXAMPLE)
    fixed = FixedEpisodes(sampler, POOL, episode_keys(3, 4))
    programs = (evaluation.compiled_draw, evaluation.compiled)
    after_one_another = predict_episodes(learner, params, fixed, steps=2)
    for program in programs:
        program.cache_clear()
    monkeypatch.setattr(evaluation.parallel, "default_chunk", lambda count: count)
    together = predict_episodes(learner, params, fixed, steps=2)
    for program in programs:
        program.cache_clear()
    for a, b in zip(after_one_another, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_blocks_are_put_together_in_order(monkeypatch) -> None:
    learner = protonet(tiny_backbone(), outputs=WAYS)
    params = learner.init(jax.random.key(0), EXAMPLE)
    fixed = FixedEpisodes(sampler, POOL, episode_keys(3, 7))
    whole = predict_episodes(learner, params, fixed)
    monkeypatch.setattr(evaluation, "BLOCK_ON_CPU", 3)
    parts = predict_episodes(learner, params, fixed)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_prediction_that_is_not_finite_is_wrong() -> None:
    logits = np.array([[[1.0, 0.0], [np.nan, np.nan]], [[1.0, 0.0], [0.0, 1.0]]])
    y, mask = np.array([[0, 0], [0, 1]]), np.ones((2, 2), bool)
    scores = score_predictions(Predictions(logits, y, mask, np.array([[0, 1], [0, 1]])))
    np.testing.assert_allclose(scores.per_episode["accuracy"], [0.5, 1.0])


def test_a_longer_list_begins_with_the_shorter() -> None:
    short, long = (jax.random.key_data(episode_keys(7, n)) for n in (5, 20))
    np.testing.assert_array_equal(short, long[:5])
    assert (jax.random.key_data(episode_keys(8, 5)) != short).any()


def test_scores_pool_what_was_predicted() -> None:
    logits = np.zeros((2, 3, 2))
    logits[0, :, 0] = 1.0  # always way 0
    logits[1, :, 1] = 1.0  # always way 1
    y = np.array([[0, 0, 1], [1, 1, 0]])
    mask = np.array([[True, True, True], [True, True, False]])
    scores = score_predictions(Predictions(logits, y, mask, np.array([[5, 6], [6, 5]])))
    np.testing.assert_allclose(scores.per_episode["accuracy"], [2 / 3, 1.0])
    # Class 5: three of three right in all; class 6: none of one. Resampled, the mean of the
    # two is 0, 1/2 or 1.
    assert scores.by_classes == (0.0, 1.0)
