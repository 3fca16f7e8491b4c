"""Learners where labels are values: which take them, and what they come to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import registry
from medmeta_jax.algorithms.r2d2 import r2d2
from medmeta_jax.backbones.pixels import pixels
from medmeta_jax.labels import VALUES
from medmeta_jax.losses import gentle_squared_error, squared_error
from medmeta_jax.types import Examples

from ..conftest import OF_MASKS, padded, tiny_backbone

KEY = jax.random.key(1)
OF_CLASSES = {"protonet", "protomaml", "pmf", "baseline_plus_plus", "nearest_centroid"}
WITH_A_HEAD = sorted(set(registry.names("algorithms")) - OF_CLASSES - set(OF_MASKS))


def examples(n: int, seed: int = 0) -> Examples:
    """8-pixel images as bright as their value, but for noise."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    x = y[:, None, None, None] * np.linspace(0, 1, 8)[:, None, None]
    x = x + 0.1 * rng.normal(size=(n, 8, 8, 1))
    return Examples(*(jnp.asarray(a, jnp.float32) for a in (x, y)), jnp.ones(n, bool))


# Where the body stays as it was drawn, the head alone has to find it.
RATES = {"anil": 0.5, "linear_probe": 1.0, "cavia": 0.2}


@pytest.mark.parametrize("name", WITH_A_HEAD)
def test_values_are_told_from_the_support(name: str) -> None:
    """Better than the support's mean, which is what no adaptation gives, and padding apart."""
    given = {"steps": 40, "inner_lr": RATES.get(name, 0.1)}
    if "steps" not in registry.defaults("algorithms", name):
        given = {}
    learner = registry.factory("algorithms", name)(
        tiny_backbone("none"), outputs=1, loss=VALUES.loss, **given
    )
    support, query = examples(10), examples(40, seed=1)
    theta = learner.init(jax.random.key(0), support.x)

    @jax.jit
    def told(support: Examples) -> jax.Array:
        return learner.predict(learner.adapt(theta, support, KEY), query.x, query.mask)

    logits = told(support)
    assert logits.shape == (40, 1)
    share = float(squared_error(logits, query.y, query.mask) / (query.y**2).mean())
    assert share < 0.7
    np.testing.assert_allclose(told(padded(support, 3)), logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(OF_CLASSES - {"nearest_centroid"}))
def test_what_is_of_classes_says_so(name: str) -> None:
    learner = registry.factory("algorithms", name)(tiny_backbone("none"), outputs=1)
    support = examples(4)
    theta = learner.init(jax.random.key(0), support.x)
    with pytest.raises(
        ValueError, match="these labels are values; take one that has a linear head"
    ):
        learner.adapt(theta, support, KEY)


def test_r2d2_of_values_is_the_ridge_solution() -> None:
    support, query = examples(9), examples(5, seed=1)
    learner = r2d2(pixels(), outputs=1, loss=VALUES.loss, strength=0.7)
    theta = learner.init(jax.random.key(0), support.x)
    told = learner.predict(learner.adapt(theta, support, KEY), query.x, query.mask)
    x, asked = (np.asarray(e.x, np.float64).reshape(len(e.x), -1) for e in (support, query))
    w = np.linalg.solve(x.T @ x + 0.7 * np.eye(x.shape[1]), x.T @ np.asarray(support.y))
    np.testing.assert_allclose(told[:, 0], asked @ w, rtol=1e-3, atol=1e-4)


def test_the_gentle_error_bends_as_the_logistic_loss_at_its_steepest() -> None:
    one = (jnp.ones((1, 1)), jnp.zeros(1), jnp.ones(1, bool))
    bend = jax.grad(jax.grad(lambda z: gentle_squared_error(z * one[0], *one[1:])))(0.3)
    assert float(bend) == pytest.approx(0.25)
