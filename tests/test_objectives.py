"""Objectives over a meta-batch: their weights, the gradient under them, what they reach."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax import parallel
from medmeta_jax.meta_gradient import make_episode_loss, of_an_objective, of_the_mean
from medmeta_jax.objectives import DomainWeights, Objective, cvar, tr_maml
from medmeta_jax.train import init_state, make_step
from medmeta_jax.types import Episode, Examples, Info, MetaLearner

LOSSES = jnp.asarray([3.0, 1.0, 2.0, 4.0])
NOWHERE = jnp.zeros(4, jnp.int32)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, [0.25] * 4),
        (0.5, [0.5, 0, 0, 0.5]),
        (0.375, [1 / 3, 0, 0, 2 / 3]),
        (0.1, [0, 0, 0, 1]),
    ],
)
def test_cvar_by_hand(share: float, expected: list[float]) -> None:
    weights, _ = cvar(share=share).weigh((), LOSSES, NOWHERE)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_cvar_is_rockafellar_and_uryasevs_minimum() -> None:
    """CVaR = min over c of c + mean(max(loss - c, 0)) / share."""
    losses = np.random.default_rng(0).normal(size=50).astype(np.float32)
    for share in (0.13, 0.5, 0.9):
        weights, _ = cvar(share=share).weigh((), jnp.asarray(losses), jnp.zeros(50, jnp.int32))
        values = [c + np.maximum(losses - c, 0).mean() / share for c in losses]
        assert float(weights @ losses) == pytest.approx(min(values), rel=1e-5)


def test_tr_maml_by_hand() -> None:
    """Two domains, the second drawn three times as often."""
    objective = tr_maml(rate=0.1)
    state = objective.init(jnp.asarray([1.0, 3.0]))
    np.testing.assert_allclose(state.q, [0.25, 0.75])
    domains = jnp.asarray([0, 1, 1, 1])
    weights, after = objective.weigh(state, LOSSES, domains)
    # p / q / B: 0.5 / 0.25 / 4, and 0.5 / 0.75 / 4 for the others.
    np.testing.assert_allclose(weights, [0.5, 1 / 6, 1 / 6, 1 / 6], rtol=1e-6)
    # Gains 3 and 7/3; half their difference moves p from the second to the first.
    shift = 0.1 * (3 - 7 / 3) / 2
    np.testing.assert_allclose(after.p, [0.5 + shift, 0.5 - shift], rtol=1e-5)


@pytest.mark.parametrize("wrong", [0.0, 1.5, -1.0])
def test_a_share_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="share must be"):
        cvar(share=wrong)
    with pytest.raises(ValueError, match="rate must be"):
        tr_maml(rate=min(wrong, 0.0))


# A learner of one number w whose loss on domain d is s_d (w - c_d)^2, plus the episode's noise
# times w, which has mean zero.
CENTRES, STEEPNESS = jnp.asarray([0.0, 1.0]), jnp.asarray([1.0, 4.0])


def toy_learner() -> MetaLearner:
    def loss(params: Any, episode: Episode, key: jax.Array, step: jax.Array) -> Any:
        w, d = params["w"], episode.domain
        noise, centre, steepness = (
            value.astype(w.dtype) for value in (episode.support.x[0, 0], CENTRES[d], STEEPNESS[d])
        )
        value = steepness * (w - centre) ** 2 + noise * w
        return value, Info(value, jnp.zeros((1, 2)))

    return MetaLearner(lambda key, x: {"w": jnp.asarray(0.3)}, None, None, loss)


def toy_sampler(key: jax.Array, pool: jax.Array) -> Episode:
    domain = jax.random.categorical(key, jnp.log(pool))
    noise = 0.01 * jax.random.normal(key, (1, 1))
    one = Examples(noise, jnp.zeros(1, jnp.int32), jnp.ones(1, bool))
    return Episode(one, one, jnp.arange(2), domain)


def zero_score(logits: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.zeros(())


def trained(objective: Objective | None, mixing: jax.Array, meta_batch: int = 8) -> Any:
    learner, optimiser, steps = toy_learner(), optax.sgd(0.005), 2000
    step = make_step(
        learner, toy_sampler, optimiser, zero_score, meta_batch=meta_batch, dispatch=steps,
        objective=objective,
    )  # fmt: skip
    carried = () if objective is None else objective.init(mixing)
    state = init_state(learner, optimiser, jax.random.key(0), jnp.zeros((1, 1)), carried)
    return step(state, mixing, steps)[0]


@pytest.mark.parametrize("mixing", [[1.0, 1.0], [4.0, 1.0]])
def test_tr_maml_reaches_the_saddle_point(mixing: list[float]) -> None:
    """w^2 = 4 (w - 1)^2 at w = 2/3, where both domains lose 4/9, however they are mixed; and
    the gradient 2 p_0 w + 8 p_1 (w - 1) is 0 there at p = (2/3, 1/3)."""
    state = trained(tr_maml(rate=0.005), jnp.asarray(mixing), meta_batch=64)
    np.testing.assert_allclose(state.params["w"], 2 / 3, atol=0.03)
    np.testing.assert_allclose(state.objective.p, [2 / 3, 1 / 3], atol=0.05)


def test_the_mean_goes_elsewhere() -> None:
    """The mean of both is least at w = 4/5."""
    state = trained(None, jnp.ones(2))
    np.testing.assert_allclose(state.params["w"], 0.8, atol=0.02)


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("devices", [None, 1, 2, 4])
def test_the_gradient_under_weights(x64: None, devices: int | None, chunk: int) -> None:
    """Equal to the gradient of the weighted sum; a share of 1 is the mean; on any devices."""
    if devices == 4 and chunk == 2:
        chunk = 1
    mesh = None if devices is None else parallel.task_mesh(jax.devices()[:devices])
    episode_loss = make_episode_loss(toy_learner(), toy_sampler, zero_score)
    params, pool, step = {"w": jnp.asarray(0.3)}, jnp.ones(2), jnp.zeros((), jnp.int32)
    keys = jax.random.split(jax.random.key(1), 4)

    def losses(theta: Any) -> jax.Array:
        return jnp.stack([episode_loss(theta, key, pool, step)[0] for key in keys])

    expected = jax.grad(lambda theta: jnp.sort(losses(theta))[2:].mean())(params)
    gradient = jax.jit(of_an_objective(episode_loss, cvar(share=0.5), chunk, mesh))
    found, loss, _, _ = gradient(params, (), pool, keys, step)
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-12)
    np.testing.assert_allclose(loss, losses(params).mean(), rtol=1e-12)
    whole = jax.jit(of_an_objective(episode_loss, cvar(share=1.0), chunk, mesh))
    mean = jax.jit(of_the_mean(episode_loss, chunk, mesh))
    a, b = (f(params, (), pool, keys, step)[0]["w"] for f in (whole, mean))
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_weights_of_domains_are_carried_on_devices(x64: None) -> None:
    objective, pool = tr_maml(rate=0.1), jnp.ones(2)
    state = objective.init(pool)
    episode_loss = make_episode_loss(toy_learner(), toy_sampler, zero_score)
    params, step = {"w": jnp.asarray(0.3)}, jnp.zeros((), jnp.int32)
    keys, found = jax.random.split(jax.random.key(1), 4), []
    for mesh in (None, parallel.task_mesh(jax.devices()[:4])):
        gradient = jax.jit(of_an_objective(episode_loss, objective, 1, mesh))
        grads, _, _, after = gradient(params, state, pool, keys, step)
        assert isinstance(after, DomainWeights)
        found.append((grads["w"], *after))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert float(jnp.abs(found[0][1] - 0.5).max()) > 1e-3
