"""MLDG: the gradient by hand, two domains always, and what it is for."""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from medmeta_jax.algorithms.maml import maml
from medmeta_jax.backbones.pixels import pixels
from medmeta_jax.meta_gradient import make_episode_loss
from medmeta_jax.mldg import mldg
from medmeta_jax.types import Episode, Examples

from .conftest import double

KEY, STEP = jax.random.key(0), jnp.asarray(0)


class Toy(NamedTuple):
    """A pool of domains d, each with the loss |A_d θ - c_d|² / 2."""

    mixing: jax.Array
    a: jax.Array
    c: jax.Array


def toy_loss(params: jax.Array, key: jax.Array, pool: Toy, step: jax.Array) -> Any:
    """Of the domain that a key draws; the score is the domain's number."""
    del step
    domain = jax.random.categorical(key, jnp.log(pool.mixing))
    rest = pool.a[domain] @ params - pool.c[domain]
    value = (rest**2).sum() / 2
    return value, (value, domain.astype(float), domain)


def toy(domains: int = 3, size: int = 2) -> Toy:
    a = jax.random.normal(jax.random.key(1), (domains, size, size))
    c = jax.random.normal(jax.random.key(2), (domains, size))
    return Toy(jnp.arange(1.0, domains + 1), a, c)


@pytest.mark.parametrize("order", ["second", "first"])
def test_the_gradient_by_hand(order: Any) -> None:
    pool, theta, alpha, beta = toy(), jnp.asarray([0.7, -0.4]), 0.3, 0.8
    loss = mldg(inner_lr=alpha, weight=beta, order=order)(toy_loss)
    (value, (mean, score, far)), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        theta, KEY, pool, STEP
    )
    near = round(2 * float(score) - float(far))
    a, b = pool.a[near], pool.a[int(far)]
    slope = a.T @ (a @ theta - pool.c[near])
    moved = theta - alpha * slope
    slope_far = b.T @ (b @ moved - pool.c[int(far)])
    through = slope_far - alpha * a.T @ a @ slope_far if order == "second" else slope_far
    np.testing.assert_allclose(grad, slope + beta * through, rtol=1e-5)
    parts = [float(((pool.a[d] @ t - pool.c[d]) ** 2).sum() / 2) for d, t in
             ((near, theta), (int(far), moved))]  # fmt: skip
    assert value == pytest.approx(parts[0] + beta * parts[1], rel=1e-5)
    assert mean == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_the_two_domains_differ_and_come_as_often_as_they_should() -> None:
    pool = toy()
    loss = jax.jit(jax.vmap(mldg(inner_lr=0.1)(toy_loss), (None, 0, None, None)))
    _, (_, score, far) = loss(jnp.zeros(2), jax.random.split(KEY, 3000), pool, STEP)
    far = np.asarray(far)
    near = np.round(2 * np.asarray(score) - far).astype(int)
    assert (near != far).all()
    np.testing.assert_allclose(np.bincount(near) / 3000, np.arange(1, 4) / 6, atol=0.03)
    after_first = np.bincount(far[near == 0], minlength=3) / (near == 0).sum()
    np.testing.assert_allclose(after_first, [0, 2 / 5, 3 / 5], atol=0.06)


def test_without_weight_it_is_the_first_domains_gradient() -> None:
    pool, theta = toy(), jnp.asarray([0.7, -0.4])
    near_key, _ = jax.random.split(KEY)
    expected = jax.grad(lambda p: toy_loss(p, near_key, pool, STEP)[0])(theta)
    got = jax.grad(lambda p: mldg(inner_lr=0.3, weight=0.0)(toy_loss)(p, KEY, pool, STEP)[0])(theta)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "bad", [{"inner_lr": 0.0}, {"inner_lr": 0.1, "weight": -1.0}, {"inner_lr": 0.1, "order": "x"}]
)
def test_nonsense_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        mldg(**bad)


def test_it_goes_around_any_learner(x64: None) -> None:
    """MAML's meta-gradient within another gradient: mixed mode against reverse and differences."""

    def sampler(key: jax.Array, pool: Toy) -> Episode:
        domain = jax.random.categorical(key, jnp.log(pool.mixing))
        x = jax.random.normal(key, (8, 3)) + pool.c[domain, 0]
        y = (x @ jnp.arange(1.0, 4.0) > domain.astype(float)).astype(jnp.int32)
        sides = (Examples(x[s], y[s], jnp.ones(4, bool)) for s in (slice(4), slice(4, 8)))
        return Episode(*sides, jnp.arange(2), domain.astype(jnp.int32))

    pool, grads = double(toy()), []
    for order in ("mixed", "second"):
        learner = maml(pixels(), outputs=2, steps=2, inner_lr=0.5, order=order)
        params = double(learner.init(KEY, jnp.zeros((4, 3))))
        one = mldg(inner_lr=0.2)(make_episode_loss(learner, sampler, lambda *of: of[0].mean()))
        value = jax.jit(lambda p, one=one: one(p, KEY, pool, STEP)[0])
        grads.append(jax.jit(jax.grad(value))(params))
    chex.assert_trees_all_close(*grads, rtol=1e-8)
    flat, unravel = ravel_pytree(params)
    along = jnp.cos(jnp.arange(flat.size, dtype=flat.dtype))
    step = 1e-5
    slope = (value(unravel(flat + step * along)) - value(unravel(flat - step * along))) / (2 * step)
    assert float(ravel_pytree(grads[0])[0] @ along) == pytest.approx(float(slope), rel=1e-5)
