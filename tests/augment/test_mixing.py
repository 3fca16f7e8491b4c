"""Examples and tasks made of two: against the sums that the papers write."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax.algorithms.anil import anil
from medmeta_jax.augment._mixing import (
    box,
    mixed_queries,
    mixed_tasks,
    of_mask,
    with_mixed_queries,
)
from medmeta_jax.config import check
from medmeta_jax.losses import cross_entropy, dice_and_cross_entropy
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Episode

from ..conftest import WAYS, make_episode, make_mask_episode, padded, tiny_backbone

KEY, STEP = jax.random.key(3), jnp.zeros((), jnp.int32)


@pytest.mark.parametrize("how", ["mixup", "cutmix", "metamix"])
def test_the_loss_is_that_of_both_labels(how: str) -> None:
    """λ ℓ(x̃, y_a) + (1 - λ) ℓ(x̃, y_b), by the plain learner on the mixed images."""
    episode = make_episode()
    learner = anil(tiny_backbone("support"), outputs=WAYS, steps=2)
    params = learner.init(jax.random.key(0), episode.support.x)
    made = with_mixed_queries(learner, cross_entropy, how=how)
    value, info = jax.jit(made.loss)(params, episode, KEY, STEP)
    mix_key, key = jax.random.split(KEY)
    query, y_other, kept = mixed_queries(how, 1.0, mix_key, episode)
    _, plain = jax.jit(learner.loss)(params, episode._replace(query=query), key, STEP)
    log_p = np.asarray(jax.nn.log_softmax(plain.logits))
    own, other = (-log_p[np.arange(len(log_p)), np.asarray(y)] for y in (query.y, y_other))
    kept = np.asarray(kept)
    np.testing.assert_allclose(value, (kept * own + (1 - kept) * other).mean(), rtol=1e-4)
    np.testing.assert_allclose(info.logits, plain.logits, rtol=1e-4, atol=1e-5)
    assert 0.1 < kept.std() < 0.5
    assert (np.asarray(y_other) != np.asarray(query.y)).any()


def test_mixed_images_lie_between(x64: None) -> None:
    episode = make_episode()
    query, y_other, kept = mixed_queries("mixup", 1.0, KEY, episode)
    for i in range(len(kept)):
        gap = np.asarray(query.x[i] - kept[i] * episode.query.x[i])
        others = np.asarray((1 - kept[i]) * episode.query.x)
        which = np.abs(others - gap).max((1, 2, 3)).argmin()
        np.testing.assert_allclose(gap, others[which], atol=1e-5)
        assert y_other[i] == episode.query.y[which]


def test_metamix_takes_the_other_image_from_the_support() -> None:
    episode = make_episode()
    support = episode.support._replace(mask=episode.support.y == 2)
    for how, found in (("metamix", {2}), ("mixup", {0, 1, 2})):
        _, y_other, _ = mixed_queries(how, 1.0, KEY, episode._replace(support=support))
        assert set(np.asarray(y_other).tolist()) == found


def test_a_cut_is_a_box_of_that_share() -> None:
    episode = make_episode(size=16)
    mixed, _, kept = mixed_queries("cutmix", 1.0, KEY, episode)
    same = np.asarray((mixed.x == episode.query.x).all(-1))
    np.testing.assert_allclose(same.reshape(len(same), -1).mean(1), kept, atol=0.15)
    cut = box(jax.random.key(0), jnp.asarray(0.25), 40, 40)
    assert 0.05 < float(cut.mean()) <= 0.26
    rows, columns = np.asarray(cut).any(1), np.asarray(cut).any(0)
    assert cut.sum() == rows.sum() * columns.sum()


def test_label_maps_are_cut_with_their_images() -> None:
    episode = make_mask_episode()
    mixed, y, kept = mixed_queries("cutmix", 1.0, KEY, episode)
    np.testing.assert_array_equal(kept, 1)
    np.testing.assert_array_equal(mixed.y, y)
    assert (np.asarray(mixed.y) != np.asarray(episode.query.y)).any()
    unchanged = np.asarray((mixed.x == episode.query.x)[..., 0])
    np.testing.assert_array_equal(
        np.asarray(mixed.y)[unchanged], np.asarray(episode.query.y)[unchanged]
    )
    learner = anil(tiny_backbone("none"), outputs=2, loss=dice_and_cross_entropy)
    assert with_mixed_queries(learner, dice_and_cross_entropy, how="cutmix").norm == "none"


def test_what_is_not_there_has_no_part() -> None:
    episode = make_episode()
    long = episode._replace(support=padded(episode.support, 4), query=padded(episode.query, 5))
    for how in ("mixup", "cutmix", "metamix"):
        mixed, y_other, _ = mixed_queries(how, 1.0, KEY, long)
        assert np.isfinite(mixed.x).all()
        assert set(np.asarray(y_other).tolist()) <= set(range(WAYS))
    places = of_mask(KEY, jnp.asarray([False, True, False, True]), 200)
    assert set(np.asarray(places).tolist()) == {1, 3}


def test_a_task_between_two() -> None:
    """Way by way: what is mixed has the label of both."""

    def sampler(key: jax.Array, pool: jax.Array) -> Episode:
        number = 1000 * jax.random.uniform(key)
        episode = make_episode(0)
        return episode._replace(
            support=episode.support._replace(x=episode.support.x + number),
            query=episode.query._replace(x=episode.query.x - number),
        )

    keys = jax.random.split(KEY, 4)
    first, second = (sampler(k, jnp.zeros(())) for k in keys[:2])
    drawn = jax.random.beta(keys[2], 0.5, 0.5)
    mixed = mixed_tasks(sampler, share=1.0)(KEY, jnp.zeros(()))
    for side in ("support", "query"):
        a, b, c = (getattr(of, side) for of in (first, second, mixed))
        np.testing.assert_allclose(c.x, drawn * a.x + (1 - drawn) * b.x, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(c.y, a.y)
        assert c.mask.all()
    plain = mixed_tasks(sampler, share=0.0)(KEY, jnp.zeros(()))
    np.testing.assert_array_equal(plain.support.x, first.support.x)


def test_examples_of_different_ways_are_left_out() -> None:
    def sampler(key: jax.Array, pool: jax.Array) -> Episode:
        episode = make_episode(0)
        turned = jax.random.bernoulli(key)
        y = jnp.where(turned, episode.support.y[::-1], episode.support.y)
        return episode._replace(support=episode.support._replace(y=y))

    for seed in range(8):
        keys = jax.random.split(jax.random.key(seed), 4)
        a, b = (sampler(k, jnp.zeros(())).support.y for k in keys[:2])
        found = mixed_tasks(sampler, share=1.0)(jax.random.key(seed), jnp.zeros(()))
        np.testing.assert_array_equal(found.support.mask, a == b)


def test_nonsense_is_refused() -> None:
    learner = anil(tiny_backbone(), outputs=WAYS)
    with pytest.raises(ValueError, match="alpha must be > 0, got 0"):
        with_mixed_queries(learner, cross_entropy, how="mixup", alpha=0)
    with pytest.raises(ValueError, match="how must be one of"):
        with_mixed_queries(learner, cross_entropy, how="blend")
    with pytest.raises(ValueError, match="share must be >= 0 and <= 1"):
        mixed_tasks(lambda key, pool: make_episode(), share=2.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mix_alpha": 0.0}, "mix_alpha: must be > 0"),
        ({"algorithm": "reptile"}, "mix: reptile's loss is not that of its queries"),
        ({"mix": "mlti", "algorithm": "finetune"}, "mix: finetune pre-trains on the pool's own"),
        ({"mix": "mlti", "baselines": "all"}, "mix: mlti would mix what baselines all pre-trains"),
        ({"algorithm": "mamal"}, "did you mean maml"),
        ({"mix": "mlti", "stream": "always"}, "mix: mlti draws two episodes from memory"),
        ({"covariates": "t.csv"}, "mix: is of images"),
    ],
)
def test_what_cannot_be_mixed_is_refused(change: dict, says: str) -> None:
    config = TrainConfig(mix="mixup", algorithm="anil")
    with pytest.raises(ConfigError, match=says):
        check(dataclasses.replace(config, **change))
