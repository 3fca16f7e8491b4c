"""Adaptation switched off where the support says so; what it is to patients, from end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import baselines, details, experiment as experiments, running
from medmeta_jax.losses import cross_entropy
from medmeta_jax.personal import Both, careful, unadapted
from medmeta_jax.settings import TrainConfig
from medmeta_jax.types import Array, Episode, Examples, MetaLearner

KEY = jax.random.key(0)


def toy(gain: float) -> MetaLearner:
    """Logits ±(start + gain * steps * the mean label, in ±1, of what it was adapted to)."""

    def adapt(params: Any, support: Examples, key: Array, steps: Any = None) -> Any:
        del key
        count = jnp.asarray(1 if steps is None else steps).astype(float)
        seen = support.mask.astype(float)
        mean = (seen * (2.0 * support.y.astype(float) - 1)).sum() / jnp.maximum(seen.sum(), 1)
        return {"w": params + gain * count * mean}

    def predict(adapted: Any, x: Array, mask: Array) -> Array:
        del mask
        shown = x[:, 0] * adapted["w"]
        return jnp.stack([-shown, shown], -1)

    def unused(*_: Any) -> Any:
        raise AssertionError

    return MetaLearner(unused, adapt, predict, unused)


def support(labels: list[int], there: int | None = None) -> Examples:
    count = len(labels) if there is None else there
    mask = jnp.arange(len(labels)) < count
    return Examples(jnp.ones((len(labels), 1)), jnp.asarray(labels), mask)


@pytest.mark.parametrize(
    ("gain", "labels", "adapts"),
    [
        (1.0, [1, 1, 1, 1], True),  # either half says the same of the other
        (-1.0, [1, 1, 1, 1], False),  # adapting leads away
        (1.0, [1, 0, 1, 0], False),  # each half is the other's contrary
        (1.0, [0, 0, 0, 0], True),
    ],
)
@pytest.mark.parametrize("traced", [False, True])
def test_the_other_half_says_whether_to_adapt(
    gain: float, labels: list[int], adapts: bool, traced: bool
) -> None:
    learner, given = toy(gain), support(labels)
    steps: Any = jnp.asarray(2) if traced else 2
    both = Both(0.1, 0.2)
    found = jax.jit(careful(learner, loss=cross_entropy).adapt)(both, given, KEY, steps)["w"]
    expected = learner.adapt(0.1, given, KEY, 2)["w"] if adapts else 0.2
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_with_one_half_alone_it_adapts_and_padding_is_nobody() -> None:
    learner = toy(1.0)
    for labels, there in (([1], 1), ([1, 0, 0, 0], 1)):
        given = support(labels, there)
        found = careful(learner, loss=cross_entropy).adapt(Both(-0.5, 9.0), given, KEY, 1)["w"]
        assert found == pytest.approx(0.5)


def test_the_one_model_takes_no_step_and_is_trained_on_queries() -> None:
    one = unadapted(toy(1.0), loss=cross_entropy)
    given = support([1, 1])
    assert one.adapt(0.3, given, KEY, 5)["w"] == pytest.approx(0.3)
    episode = Episode(given, support([0, 1, 1]), jnp.arange(2))
    value, info = one.loss(0.3, episode, KEY, jnp.asarray(0))
    logits = 0.3 * jnp.asarray([[-1.0, 1.0]] * 3)
    np.testing.assert_allclose(info.logits, logits, rtol=1e-6)
    assert value == pytest.approx(
        float(cross_entropy(logits, episode.query.y, episode.query.mask)), rel=1e-5
    )


def write_visits(path: Path, *, personal: bool) -> str:
    """Visits of patients whose brightness is well or ill; of half of them the other way round,
    where the effect is personal."""
    rng = np.random.default_rng(0)
    patients, visits = 72, 16
    turn = np.arange(patients) // 6 % 2  # whatever the side, which every sixth is of
    sign = np.where(turn == 0, 1, -1) if personal else np.ones(patients, int)
    label = np.tile(np.arange(visits) % 2, (patients, 1))
    level = 128 + 70 * sign[:, None] * (2 * label - 1)
    images = level[..., None, None] + rng.normal(0, 25, (patients, visits, 4, 4))
    np.savez(
        path, images=images.clip(0, 255).astype(np.uint8).reshape(-1, 4, 4), labels=label.ravel(),
        groups=np.repeat([f"p{i:02}" for i in range(patients)], visits),
        times=np.tile(np.arange(visits), patients),
    )  # fmt: skip
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("personal", [True, False])
def test_a_personal_effect_is_found_and_without_one_there_is_no_harm(
    tmp_path: Path, personal: bool
) -> None:
    """The best that one model can do of the one is a half, and of the other nearly all."""
    data = write_visits(tmp_path / "visits.npz", personal=personal)
    made = experiments.build(
        TrainConfig(
            data=data, task="patient", image_size=4, backbone="pixels", norm="none", augment=(),
            hyper={"steps": 3, "inner_lr": 0.3}, shots=3, queries=4, meta_steps=150, meta_batch=4,
            val_episodes=20, test_episodes=60, validate_every=50, dispatch=50, outer_lr=0.01,
        )
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with an int count
        step = running.compile_step(made, made.training).step
        params = running.fit_quietly(made, step).best_params
        rows = list(running.judge(made, params))
    names = [row.learner for row in rows]
    assert names == [
        "maml", "global", "maml-careful", "maml-untrained", "scratch", "raw-centroid",
    ]  # fmt: skip
    own, one, watched = (row.scores.estimate("accuracy").mean for row in rows[:3])
    task = running.task_of(made)
    groups = baselines.query_groups(task)
    assert groups is not None
    found = details.by_patient(
        {row.learner: baselines.patient_means(row.scores, groups) for row in rows}
    )
    assert found["patients"] == 12
    worse = {name: found["rows"][name]["made_worse"] for name in names[:3]}
    assert worse["global"] == 0
    if personal:
        assert 0.4 < one < 0.6
        assert min(own, watched) > 0.9
        assert found["rows"]["maml"]["worst_decile"] > 0.8
    else:
        assert one > 0.95
        assert min(own, watched) > one - 0.02
        assert found["rows"]["maml"]["mean_loss"] < 0.02
    facts = running.facts(made, task)
    assert (facts["disjoint"], facts["ways"]) == ("time", 2)
    assert dataclasses.replace(made.spec, disjoint="image").within == "domain"
