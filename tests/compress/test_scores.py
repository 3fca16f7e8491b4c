"""Scores of channels, gates, and a teacher: by hand, and on channels that are known to be dead."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax.algorithms.anil import anil
from medmeta_jax.compress import gates, scores
from medmeta_jax.compress.channels import channels_of
from medmeta_jax.compress.distil import distilled, divergence
from medmeta_jax.compress.slicing import masked
from medmeta_jax.types import MetaLearner

from ..conftest import WAYS, double, make_episode, tiny_backbone

KEY, STEP = jax.random.key(1), jnp.zeros((), jnp.int32)
CHANNELS = channels_of("conv4", (4, 4), "support")
DEAD = [np.array([0, 2, 3]), np.array([1, 2])]  # what is kept


@pytest.fixture(scope="module")
def learner() -> MetaLearner:
    return anil(tiny_backbone("support"), outputs=WAYS, steps=2)


@pytest.fixture(scope="module")
def params(learner: MetaLearner) -> Any:
    return jax.jit(learner.init)(jax.random.key(0), make_episode().support.x)


def test_magnitude_is_the_mean_weight(params: Any) -> None:
    found = scores.magnitude(params, CHANNELS)
    kernel = np.asarray(params["body"]["ConvNormPool_1"]["conv"]["kernel"])
    np.testing.assert_allclose(found[1], np.abs(kernel).mean((0, 1, 2)), rtol=1e-6)
    assert [len(of) for of in found] == [4, 4]


def test_chance_differs_by_the_key() -> None:
    a, b, again = (scores.random(jax.random.key(k), CHANNELS) for k in (0, 1, 0))
    np.testing.assert_array_equal(a[0], again[0])
    assert (a[0] != b[0]).all()
    assert (a[0] != a[1]).all()


def test_dead_channels_are_worth_nothing_by_sensitivity(learner: MetaLearner, params: Any) -> None:
    dead = masked(params, CHANNELS, DEAD)
    found = scores.sensitivity(learner, dead, CHANNELS, lambda key: make_episode(), KEY, episodes=2)
    for of, kept in zip(found, DEAD, strict=True):
        gone = np.setdiff1d(np.arange(4), kept)
        np.testing.assert_array_equal(of[gone], 0)
        assert (of[kept] > 0).any()
    with pytest.raises(ValueError, match="episodes must be >= 1"):
        scores.sensitivity(learner, dead, CHANNELS, lambda key: make_episode(), KEY, episodes=0)


def test_sensitivity_is_the_square_of_a_derivative(x64: None, learner: MetaLearner) -> None:
    """By central differences of the loss in one channel's norm."""
    episode = double(make_episode())
    params = double(learner.init(jax.random.key(0), episode.support.x))
    found = scores.sensitivity(learner, params, CHANNELS, lambda key: episode, KEY, episodes=1)

    @jax.jit
    def loss(factor: jax.Array) -> jax.Array:
        norm = params["body"]["ConvNormPool_0"]["norm"]
        moved = {name: leaf.at[2].multiply(factor) for name, leaf in norm.items()}
        block = {**params["body"]["ConvNormPool_0"], "norm": moved}
        body = {**params["body"], "ConvNormPool_0": block}
        return learner.loss({**params, "body": body}, episode, KEY, STEP)[0]

    h = 1e-6
    slope = (loss(jnp.asarray(1 + h)) - loss(jnp.asarray(1 - h))) / (2 * h)
    np.testing.assert_allclose(found[0][2], slope**2, rtol=1e-4)


def test_gates_are_those_of_the_paper() -> None:
    """The share of draws that are not 0 is the chance that the penalty counts."""
    log_alpha = jnp.asarray([-2.0, 0.0, 3.0])
    z = jax.vmap(lambda key: gates.drawn(key, log_alpha))(jax.random.split(KEY, 20000))
    assert (z >= 0).all()
    assert (z <= 1).all()
    share = np.asarray((z > 0).mean(0))
    np.testing.assert_allclose(share, gates.chance_open(log_alpha), atol=0.012)
    np.testing.assert_allclose(gates.settled(jnp.asarray([-9.0, 9.0])), [0, 1])


def test_a_closed_gate_is_a_channel_taken_out(learner: MetaLearner, params: Any) -> None:
    """And it stays closed in the inner loop; the penalty is the share that is open."""
    episode = make_episode()
    gated = gates.with_gates(learner, CHANNELS, penalty=0.5)
    shut = [np.full(4, -20.0) for _ in CHANNELS]
    for log_alpha, kept in zip(shut, DEAD, strict=True):
        log_alpha[kept] = 20.0
    given = {"learner": params, "gates": [jnp.asarray(a, jnp.float32) for a in shut]}
    value, info = jax.jit(gated.loss)(given, episode, KEY, STEP)
    _, key = jax.random.split(KEY)
    dead = masked(params, CHANNELS, DEAD)
    expected, plain = jax.jit(learner.loss)(dead, episode, key, STEP)
    np.testing.assert_allclose(info.logits, plain.logits, rtol=1e-5, atol=1e-6)
    first, second = gates.weights(params, CHANNELS)
    assert 4 * (first + second) == pytest.approx(1)
    assert second > first  # its kernels have four times the weights
    np.testing.assert_allclose(value, expected + 0.5 * (3 * first + 2 * second), rtol=1e-5)
    adapted = jax.jit(gated.adapt)(given, episode.support, KEY)
    x, mask = episode.query.x, episode.query.mask
    by_hand = learner.predict(learner.adapt(dead, episode.support, KEY), x, mask)
    np.testing.assert_allclose(gated.predict(adapted, x, mask), by_hand, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_gate_equals_differences(x64: None, learner: MetaLearner) -> None:
    """Under the same draw."""
    episode = double(make_episode())
    gated = gates.with_gates(learner, CHANNELS, penalty=0.3, start=0.4)
    params = double(gated.init(jax.random.key(0), episode.support.x))
    loss = jax.jit(lambda g: gated.loss({**params, "gates": g}, episode, KEY, STEP)[0])
    slopes = jax.jit(jax.grad(loss))(params["gates"])
    h = 1e-6
    for i in range(len(CHANNELS)):
        for c in range(2):

            def moved(by: float, i: int = i, c: int = c) -> list[jax.Array]:
                return [a.at[c].add(by) if n == i else a for n, a in enumerate(params["gates"])]

            difference = (loss(moved(h)) - loss(moved(-h))) / (2 * h)
            np.testing.assert_allclose(slopes[i][c], difference, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
def test_a_high_price_closes_gates(learner: MetaLearner) -> None:
    """Trained for a few steps: fewer are open than with no price."""
    episode = make_episode()

    def share(penalty: float) -> float:
        gated = gates.with_gates(learner, CHANNELS, penalty=penalty, start=0.0)
        params = gated.init(jax.random.key(0), episode.support.x)
        optimiser = optax.sgd(0.5)

        @jax.jit
        def step(params: Any, key: jax.Array) -> Any:
            grads = jax.grad(lambda p: gated.loss(p, episode, key, STEP)[0])(params)
            return optax.apply_updates(params, optimiser.update(grads, optimiser.init(params))[0])

        for key in jax.random.split(KEY, 30):
            params = step(params, key)
        return float(jnp.stack([gates.chance_open(a).mean() for a in params["gates"]]).mean())

    dear, free = share(10.0), share(0.0)
    assert dear < free - 0.2


def test_a_teacher_draws_the_loss_to_its_answers(learner: MetaLearner, params: Any) -> None:
    episode = make_episode()
    other = learner.init(jax.random.key(5), episode.support.x)
    plain, info = learner.loss(params, episode, KEY, STEP)
    taught = distilled(learner, learner, other, weight=0.25, temperature=2.0)
    value, told = taught.loss(params, episode, KEY, STEP)
    np.testing.assert_array_equal(told.logits, info.logits)
    assert told.loss == info.loss
    adapted = learner.adapt(other, episode.support, KEY)
    answers = learner.predict(adapted, episode.query.x, episode.query.mask)
    p, q = (np.asarray(jax.nn.softmax(a / 2.0)) for a in (answers, info.logits))
    by_hand = 4 * (p * (np.log(p) - np.log(q))).sum(-1).mean()
    np.testing.assert_allclose(value, 0.75 * plain + 0.25 * by_hand, rtol=1e-5)
    own = distilled(learner, learner, params, weight=1.0)
    np.testing.assert_allclose(own.loss(params, episode, KEY, STEP)[0], 0, atol=1e-5)
    gap = divergence(answers, info.logits, episode.query.mask.at[3:].set(False), 2.0)
    np.testing.assert_allclose(gap, 4 * (p * np.log(p / q)).sum(-1)[:3].mean(), rtol=1e-4)


def test_nonsense_is_refused(learner: MetaLearner) -> None:
    with pytest.raises(ValueError, match="penalty must be >= 0"):
        gates.with_gates(learner, CHANNELS, penalty=-1.0)
    with pytest.raises(ValueError, match="weight must be >= 0 and <= 1"):
        distilled(learner, learner, {}, weight=2.0)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        distilled(learner, learner, {}, temperature=0.0)
