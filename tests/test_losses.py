"""Losses by hand, and padding that may hold anything."""

from __future__ import annotations

import functools
from collections.abc import Callable

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from medmeta_jax import losses
from medmeta_jax.types import Examples


def test_cross_entropy_by_hand() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    value = losses.cross_entropy(logits, jnp.array([0, 1]), jnp.ones(2, bool))
    np.testing.assert_allclose(value, -(np.log(0.5) + np.log(0.8)) / 2, rtol=1e-6)


def test_squared_and_binary_error_by_hand() -> None:
    value = losses.squared_error(
        jnp.array([[1.0], [3.0]]), jnp.array([0.0, 1.0]), jnp.ones(2, bool)
    )
    assert value == (1 + 4) / 2
    value = losses.binary_cross_entropy(jnp.zeros((2, 3)), jnp.ones((2, 3)), jnp.ones(2, bool))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)


def test_segmentation_cross_entropy_is_a_mean_over_pixels() -> None:
    logits = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    y = jax.random.randint(jax.random.key(1), (2, 4, 4), 0, 3)
    flat = losses.cross_entropy(logits.reshape(-1, 3), y.reshape(-1), jnp.ones(32, bool))
    np.testing.assert_allclose(losses.cross_entropy(logits, y, jnp.ones(2, bool)), flat, rtol=1e-6)


LOSSES = {
    "cross_entropy": (losses.cross_entropy, (3,), "int"),
    "binary_cross_entropy": (losses.binary_cross_entropy, (3,), "binary"),
    "squared_error": (losses.squared_error, (1,), "real"),
    "accuracy": (losses.accuracy, (3,), "int"),
}


@functools.cache
def compiled(loss: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Value and gradient; operation by operation, each number of examples would compile all."""
    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kept=st.integers(1, 5),
    rubbish=st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 0.0]),
)
def test_padding_changes_nothing(name: str, seed: int, kept: int, rubbish: float) -> None:
    """Value and gradient are those of the examples alone, whatever the padding holds."""
    loss, shape, kind = LOSSES[name]
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(6, *shape)).astype(np.float32)
    y = {
        "int": rng.integers(0, 3, 6),
        "binary": rng.integers(0, 2, (6, *shape)),
        "real": rng.normal(size=6).astype(np.float32),
    }[kind]
    logits[kept:] = rubbish
    mask = jnp.arange(6) < kept
    of_loss = compiled(loss)
    value, grad = of_loss(jnp.asarray(logits), jnp.asarray(y), mask)
    alone = jnp.asarray(logits[:kept]), jnp.asarray(y[:kept]), mask[:kept]
    expected, expected_grad = of_loss(*alone)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad[:kept], expected_grad, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(grad[kept:], 0.0)


def test_an_empty_set_has_loss_zero() -> None:
    assert losses.cross_entropy(jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), jnp.zeros(2, bool)) == 0


def test_ways_present() -> None:
    def of(y, mask):
        return losses.ways_present(Examples(None, jnp.asarray(y), jnp.asarray(mask)), 4).tolist()

    assert of([0, 2, 2], [True, True, True]) == [True, False, True, False]
    assert of([0, 2, 3], [True, True, False]) == [True, False, True, False]
    assert of([[0, 1, 0, 0]], [True]) == [True] * 4  # multi-label
    assert of([0.5, 2.0], [True, True]) == [True] * 4  # regression


def test_absent_ways_get_no_probability_and_no_gradient() -> None:
    present = jnp.array([True, False, True])

    def loss(logits):
        masked = losses.mask_absent(logits, present)
        return losses.cross_entropy(masked, jnp.array([0]), jnp.ones(1, bool))

    logits = jnp.array([[0.0, 100.0, 0.0]])
    np.testing.assert_allclose(loss(logits), np.log(2), rtol=1e-6)
    assert jax.grad(loss)(logits)[0, 1] == 0
