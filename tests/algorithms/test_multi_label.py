"""Learners where images have several labels: by label, in any order, from the support set."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax import registry
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.backbones.pixels import pixels
from medmeta_jax.losses import (
    balanced_binary_cross_entropy,
    label_accuracy,
    ranked_probability,
)
from medmeta_jax.types import Examples

from ..conftest import padded, tiny_backbone

KEY = jax.random.key(1)


def examples(n: int = 12, seed: int = 0) -> Examples:
    """Three labels, each a bright corner of an 8-pixel image."""
    rng = np.random.default_rng(seed)
    y = rng.random((n, 3)) < 0.4
    y[:2] = [[1, 1, 1], [0, 0, 0]]
    x = 0.3 * rng.normal(size=(n, 8, 8, 1))
    first, last = slice(4), slice(4, 8)
    for label, corner in enumerate(((first, first), (last, first), (first, last))):
        x[:, *corner] += 1.5 * y[:, label, None, None, None]
    return Examples(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32), jnp.ones(n, bool))


def test_protonet_by_hand() -> None:
    support, query = examples(), examples(5, seed=1)
    learner = protonet(pixels(), outputs=3, loss=balanced_binary_cross_entropy)
    logits = learner.predict(learner.adapt({"body": {}}, support, KEY), query.x, query.mask)
    flat, asked = (np.asarray(e.x).reshape(len(e.x), -1) for e in (support, query))
    y = np.asarray(support.y) > 0
    for label in range(3):
        shown, not_shown = flat[y[:, label]].mean(0), flat[~y[:, label]].mean(0)
        expected = ((asked - not_shown) ** 2).sum(1) - ((asked - shown) ** 2).sum(1)
        np.testing.assert_allclose(logits[:, label], expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["protonet", "protomaml", "r2d2", "anil", "maml"])
def test_each_label_is_told(name: str) -> None:
    """Adapted on twelve images of three corners; padding changes nothing."""
    factory = registry.factory("algorithms", name)
    backbone = pixels() if name not in ("anil", "maml") else tiny_backbone("none")
    settings = {"maml": {"steps": 60, "inner_lr": 0.3}, "anil": {"steps": 60, "inner_lr": 0.3},
                "protomaml": {"steps": 2, "inner_lr": 0.001}}.get(name, {})  # fmt: skip
    learner = factory(backbone, outputs=3, loss=balanced_binary_cross_entropy, **settings)
    support, query = examples(), examples(40, seed=2)
    theta = learner.init(jax.random.key(0), support.x)

    @jax.jit
    def told(support: Examples) -> jax.Array:
        return learner.predict(learner.adapt(theta, support, KEY), query.x, query.mask)

    logits = told(support)
    least = {"anil": 0.75, "maml": 0.75, "r2d2": 0.8}.get(name, 0.9)
    assert float(label_accuracy(logits, query.y, query.mask)) > least
    np.testing.assert_allclose(told(padded(support, 3)), logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["protonet", "protomaml", "r2d2"])
def test_labels_in_another_order(name: str) -> None:
    learner = registry.factory("algorithms", name)(
        pixels(), outputs=3, loss=balanced_binary_cross_entropy
    )
    support, order = examples(), jnp.asarray([2, 0, 1])
    theta = learner.init(jax.random.key(0), support.x)
    run = jax.jit(lambda s: learner.predict(learner.adapt(theta, s, KEY), s.x, s.mask))
    np.testing.assert_allclose(
        run(support._replace(y=support.y[:, order])), run(support)[:, order], rtol=1e-3, atol=1e-4
    )


def test_protomaml_starts_as_protonet() -> None:
    support = examples()
    found = []
    for name in ("protonet", "protomaml"):
        learner = registry.factory("algorithms", name)(
            pixels(), outputs=3, loss=balanced_binary_cross_entropy
        )
        theta = learner.init(jax.random.key(0), support.x)
        adapted = learner.adapt(theta, support, KEY, 0)
        found.append(learner.predict(adapted, support.x, support.mask))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_class_weights_are_the_supports() -> None:
    """One positive of four weighs as much as the three others together."""
    logits, y = jnp.asarray([[0.3], [-0.2], [0.5], [0.1]]), jnp.asarray([[1], [0], [0], [0]])
    mask = jnp.ones(4, bool)
    each = optax.sigmoid_binary_cross_entropy(logits, y.astype(float))[:, 0]
    expected = (each[0] + each[1:].mean()) / 2
    found = balanced_binary_cross_entropy(logits, y, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    spoilt = jnp.concatenate([logits, jnp.full((2, 1), jnp.nan)])
    with_padding = balanced_binary_cross_entropy(
        spoilt, jnp.pad(y, ((0, 2), (0, 0))), jnp.pad(mask, (0, 2))
    )
    np.testing.assert_allclose(with_padding, expected, rtol=1e-6)
    # A label that all show has nothing to be weighed against.
    every = balanced_binary_cross_entropy(logits, jnp.ones((4, 1), int), mask)
    plain = optax.sigmoid_binary_cross_entropy(logits, jnp.ones((4, 1))).mean()
    np.testing.assert_allclose(every, plain, rtol=1e-6)


def test_a_far_miss_costs_more() -> None:
    """By hand, and proper: least in expectation where the probabilities are the truth's."""
    p = np.asarray([0.2, 0.5, 0.3])

    def score(logits: jax.Array, grade: int) -> jax.Array:
        return ranked_probability(logits[None], jnp.asarray([grade]), jnp.ones(1, bool))

    cumulated = np.cumsum(p)
    for grade in range(3):
        expected = ((cumulated - (grade <= np.arange(3))) ** 2).sum()
        found = score(jnp.log(jnp.asarray(p, jnp.float32)), grade)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def risk(logits: jax.Array) -> jax.Array:
        return jnp.asarray(p, jnp.float32) @ jnp.stack([score(logits, k) for k in range(3)])

    np.testing.assert_allclose(jax.grad(risk)(jnp.log(jnp.asarray(p, jnp.float32))), 0, atol=1e-6)


def test_grades_are_learnt_in_their_order() -> None:
    """Brightness in three grades; the middle one is told between the others."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 4)
    x = jnp.asarray(y[:, None, None, None] + 0.1 * rng.normal(size=(12, 8, 8, 1)), jnp.float32)
    learner = maml(
        tiny_backbone("none"), outputs=3, steps=80, inner_lr=0.3, loss=ranked_probability
    )
    support = Examples(x, jnp.asarray(y), jnp.ones(12, bool))
    theta = learner.init(jax.random.key(0), x)
    run = jax.jit(lambda s: learner.predict(learner.adapt(theta, s, KEY), s.x, s.mask))
    assert (np.asarray(run(support)).argmax(1) == y).mean() > 0.9
