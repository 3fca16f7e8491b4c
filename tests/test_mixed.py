"""Mixed-mode meta-gradients: those of reverse over reverse, for every leaf, in flat memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax.algorithms.anil import anil
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.inner import unrolled
from medmeta_jax.mixed import mixed_gradient

from .conftest import WAYS, double, make_episode, tiny_backbone

KEY, STEP = jax.random.key(1), jnp.zeros((), jnp.int32)


def equal(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, expected
    )


def meta_gradient(factory, order: str, **arguments) -> Any:
    learner = factory(tiny_backbone("support"), outputs=WAYS, steps=3, order=order, **arguments)
    episode = double(make_episode())
    params = double(learner.init(jax.random.key(0), episode.support.x))
    return jax.jit(jax.grad(lambda p: learner.loss(p, episode, KEY, STEP)[0]))(params)


def body_only(path: tuple[str, ...]) -> bool:
    return path[0] == "body"


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        pytest.param(maml, {}, id="maml"),
        pytest.param(maml, {"moves": body_only}, id="body moves", marks=pytest.mark.slow),
        pytest.param(anil, {}, id="anil"),
        pytest.param(maml, {"loop": "unroll"}, id="unrolled", marks=pytest.mark.slow),
    ],
)
def test_learners_get_the_same_meta_gradient(x64: None, factory, arguments) -> None:
    """ANIL's frozen body and a frozen head get theirs through the mixed second derivative."""
    equal(
        meta_gradient(factory, "mixed", **arguments), meta_gradient(factory, "second", **arguments)
    )


OPTIMISERS = {"sgd": optax.sgd(0.1), "adam": optax.adam(0.1, eps_root=1e-8)}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("steps", [2, 7])
def test_whatever_the_loss_depends_on_gets_its_cotangent(x64: None, name: str, steps: int) -> None:
    """A learned input transformation, a learned rate and a learned initialisation, vmapped."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(3, 6, 4))), jnp.asarray(rng.integers(0, 3, (3, 6)))
    theta = {
        "init": jnp.asarray(rng.normal(size=(4, 3))),
        "mix": jnp.asarray(np.eye(4) + 0.1 * rng.normal(size=(4, 4))),
        "weight": jnp.asarray(0.7),
    }

    def task_loss(theta, x, y, order):
        def inner_loss(w, t):
            logits = jnp.tanh(x @ theta["mix"]) @ w * (1 + 0.1 * t.astype(x.dtype))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean() + theta["weight"] * (w**2).mean()

        w = unrolled(OPTIMISERS[name], steps=steps, order=order)(inner_loss, theta["init"])
        return optax.softmax_cross_entropy_with_integer_labels(x @ w, y).mean()

    def gradient(order):
        def mean_loss(theta):
            return jax.vmap(task_loss, (None, 0, 0, None))(theta, x, y, order).mean()

        return jax.jit(jax.grad(mean_loss))(theta)

    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int
        found, expected = gradient("mixed"), gradient("second")
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected)) > 1e-6
    equal(found, expected)


def test_it_can_be_differentiated_again(x64: None) -> None:
    """d³/dw³ of w⁴ at 2 is 48: the rule is made of differentiable parts."""
    gradient = mixed_gradient(lambda w, t: w**4, jnp.asarray(2.0), STEP)
    assert jax.grad(jax.grad(gradient))(jnp.asarray(2.0), STEP) == 48.0


def test_memory_does_not_grow_with_the_steps() -> None:
    """Temporaries at 20 steps: those of 2, where reverse over reverse takes several times more."""
    x = jnp.ones((64, 32))

    def temporaries(order: str, steps: int) -> int:
        def outer(w):
            def inner(v, t):
                hidden = x @ v
                for _ in range(4):
                    hidden = jnp.tanh(hidden @ (v.T @ v))
                return (hidden**2).mean()

            solve = unrolled(optax.sgd(0.1), steps=steps, order=order, loop="scan")
            return solve(inner, w).sum()

        program = jax.jit(jax.grad(outer)).lower(jnp.ones((32, 32))).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries("mixed", 20) < 1.5 * temporaries("mixed", 2)
    assert temporaries("second", 20) > 3 * temporaries("mixed", 20)
