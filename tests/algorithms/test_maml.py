"""MAML on a real network: differences, ANIL's identity, and what the norm policy does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from medmeta_jax.algorithms.anil import anil
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.backbones.pixels import pixels

from ..conftest import WAYS, double, make_episode, tiny_backbone

KEY, STEP = jax.random.key(1), 0


@pytest.mark.parametrize("norm", ["batch", "support", "group", "none"])
def test_meta_gradient_equals_central_differences(x64: None, norm: str) -> None:
    """Along random directions, in float64, through conv, norm, pool and three inner steps."""
    learner = maml(tiny_backbone(norm), outputs=WAYS, steps=3, inner_lr=0.2)
    episode = double(make_episode())
    flat, unravel = ravel_pytree(double(learner.init(jax.random.key(0), episode.support.x)))

    @jax.jit
    def loss(vector):
        return learner.loss(unravel(vector), episode, KEY, STEP)[0]

    grad = jax.jit(jax.grad(loss))(flat)
    for seed in range(3):
        direction = jax.random.normal(jax.random.key(seed), flat.shape, jnp.float64)
        direction = direction / jnp.linalg.norm(direction)
        h = 1e-6
        difference = (loss(flat + h * direction) - loss(flat - h * direction)) / (2 * h)
        np.testing.assert_allclose(grad @ direction, difference, rtol=1e-4, atol=1e-9)


def test_first_order_differs_from_second(x64: None) -> None:
    episode = double(make_episode())
    grads = {}
    for order in ("second", "first"):
        learner = maml(tiny_backbone(), outputs=WAYS, steps=2, order=order)
        params = double(learner.init(jax.random.key(0), episode.support.x))
        run = jax.jit(jax.grad(lambda p, run=learner: run.loss(p, episode, KEY, STEP)[0]))
        grads[order] = ravel_pytree(run(params))[0]
    gap = jnp.linalg.norm(grads["first"] - grads["second"])
    assert gap > 1e-2 * jnp.linalg.norm(grads["second"])


def test_nothing_is_learned_of_an_absent_way() -> None:
    """Its part of the head stays as it was, and the others share all of the probability."""
    learner = maml(tiny_backbone(), outputs=WAYS, steps=2)
    support = make_episode().support
    without = support._replace(mask=support.y != 1)
    params = learner.init(KEY, support.x)
    for examples, still in ((without, True), (support, False)):
        moved = learner.adapt(params, examples, KEY).params["head"]
        assert bool((moved["kernel"][:, 1] == params["head"]["kernel"][:, 1]).all()) is still
        assert bool(moved["bias"][1] == params["head"]["bias"][1]) is still


def test_anil_is_maml_that_moves_the_head(x64: None) -> None:
    episode = double(make_episode())
    efficient = anil(tiny_backbone(), outputs=WAYS, steps=3)
    general = maml(tiny_backbone(), outputs=WAYS, steps=3, moves=lambda path: path[0] == "head")
    params = double(efficient.init(jax.random.key(0), episode.support.x))
    found = [
        jax.jit(jax.value_and_grad(lambda p, run=run: run.loss(p, episode, KEY, STEP)[0]))(params)
        for run in (efficient, general)
    ]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
    for a, b in zip(*(jax.tree.leaves(grads) for _, grads in found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_batch_norm_is_transductive_and_support_norm_is_not() -> None:
    episode = make_episode()
    query = episode.query
    others = query.x.at[1:].multiply(5.0)
    for norm, depends in (("batch", True), ("support", False), ("group", False), ("none", False)):
        learner = maml(tiny_backbone(norm), outputs=WAYS, steps=1)
        params = learner.init(jax.random.key(0), episode.support.x)
        adapted = jax.jit(learner.adapt)(params, episode.support, KEY)
        predict = jax.jit(learner.predict)
        logits = [predict(adapted, x, query.mask)[0] for x in (query.x, others)]
        gap = jnp.abs(logits[0] - logits[1]).max()
        assert (gap > 1e-3) == depends, norm
        assert learner.norm == norm


def test_protonet_on_pixels_is_nearest_mean() -> None:
    episode = make_episode()
    learner = protonet(pixels(), outputs=WAYS)
    adapted = learner.adapt({"body": {}}, episode.support, KEY)
    logits = learner.predict(adapted, episode.query.x, episode.query.mask)
    support, query = (np.asarray(s.x).reshape(len(s.y), -1) for s in episode[:2])
    means = np.stack([support[np.asarray(episode.support.y) == k].mean(0) for k in range(WAYS)])
    distances = ((query[:, None] - means[None]) ** 2).sum(-1)
    np.testing.assert_allclose(logits, -distances, rtol=1e-4)
