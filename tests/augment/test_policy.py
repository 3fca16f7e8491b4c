"""The learned augmentation: its gradient by differences, its draws, what it does to a support."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import registry
from medmeta_jax.algorithms.anil import anil
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.augment._policy import (
    MOST,
    NONE,
    SPEED,
    START,
    Choice,
    by_step,
    changed,
    init_policy,
    magnitudes,
    one_hot_draw,
    shares,
    with_copies,
    with_policy,
)
from medmeta_jax.types import Array, Examples, MetaLearner, Params

from ..conftest import WAYS, double, make_episode, make_mask_episode, tiny_backbone

KEY, STEP = jax.random.key(2), jnp.zeros((), jnp.int32)


def choices(*names: str) -> dict[str, Choice]:
    return {
        name: Choice(
            registry.factory("augment", name), registry.defaults("augment", name)["magnitude"]
        )
        for name in names
    }


def always(policy: Params, name: str) -> Params:
    """The policy that draws one op."""
    chosen = {
        n: jnp.full_like(c, 50.0 if n == name else -50.0) for n, c in policy["choice"].items()
    }
    return {**policy, "choice": chosen}


def test_where_it_begins() -> None:
    ops = choices("noise", "rotate")
    policy = init_policy(ops)
    start = magnitudes(policy, ops)
    assert float(start["rotate"]) == pytest.approx(START * 15)
    assert sorted(shares(policy)) == sorted((NONE, "noise", "rotate"))
    assert [float(share) for share in shares(policy).values()] == pytest.approx([1 / 3] * 3)
    policy["magnitude"]["rotate"] = jnp.asarray(50.0)
    assert float(magnitudes(policy, ops)["rotate"]) == pytest.approx(MOST * 15)


def test_draws_are_one_op_as_often_as_the_choice_says() -> None:
    logits = jnp.log(jnp.asarray([0.2, 0.7, 0.1]))
    keys = jax.random.split(KEY, 4000)
    drawn = np.asarray(jax.vmap(lambda key: one_hot_draw(key, logits))(keys))
    np.testing.assert_allclose(np.sort(drawn, 1), np.tile([0, 0, 1], (4000, 1)), atol=1e-6)
    np.testing.assert_allclose(drawn.mean(0), [0.2, 0.7, 0.1], atol=0.03)
    slope = jax.grad(lambda c: one_hot_draw(KEY, c) @ jnp.asarray([1.0, 0.0, 0.0]))(logits)
    assert float(jnp.abs(slope).max()) > 1e-4
    assert float(slope.sum()) == pytest.approx(0, abs=1e-6)


def test_the_support_keeps_its_images_and_gets_changed_copies() -> None:
    ops, support = choices("brighten"), make_episode().support
    policy = always(init_policy(ops), "brighten")
    more = with_copies(policy, ops, KEY, support, 2)
    n = len(support.y)
    assert more.mask.shape == (3 * n,)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[:n], more), support)
    np.testing.assert_array_equal(more.y, jnp.tile(support.y, 3))
    shift = np.asarray(more.x[n:] - jnp.tile(support.x, (2, 1, 1, 1)))
    np.testing.assert_allclose(shift, shift[:, :1, :1] + 0 * shift, atol=1e-5)
    assert len(np.unique(shift[:, 0, 0, 0].round(5))) == 2 * n
    none = with_copies(always(policy, NONE), ops, KEY, support, 1)
    np.testing.assert_allclose(none.x[n:], support.x, atol=1e-6)


def test_label_maps_move_with_the_op_that_is_drawn() -> None:
    ops = choices("flip", "brighten")
    ops["flip"] = ops["flip"]._replace(
        make=lambda magnitude: registry.factory("augment", "flip")(magnitude=1.0)
    )
    support = make_mask_episode(shots=3).support
    flipped = changed(always(init_policy(ops), "flip"), ops, KEY, support)
    np.testing.assert_array_equal(flipped.y, support.y[:, :, ::-1])
    np.testing.assert_allclose(flipped.x, support.x[:, :, ::-1], atol=1e-4)
    kept = changed(always(init_policy(ops), "brighten"), ops, KEY, support)
    np.testing.assert_array_equal(kept.y, support.y)


@pytest.mark.parametrize("name", ["noise", "contrast"])
def test_its_gradient_is_that_of_differences(name: str, x64: None) -> None:
    """Through the inner loop, with the same draws on both sides of each difference."""
    ops = choices(name)
    learner = with_policy(anil(tiny_backbone("support"), outputs=WAYS, steps=2), ops)
    episode = double(make_episode())
    params = double(learner.init(KEY, episode.support.x))
    params["policy"] = always(params["policy"], name)

    @jax.jit
    def value(raw: Array) -> Array:
        policy = {**params["policy"], "magnitude": {name: raw}}
        return learner.loss({**params, "policy": policy}, episode, KEY, STEP)[0]

    at, step = params["policy"]["magnitude"][name], 1e-4
    expected = (value(at + step) - value(at - step)) / (2 * step)
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(jax.jit(jax.grad(value))(at), expected, rtol=1e-3)


def test_a_sum_is_of_all_by_their_shares(x64: None) -> None:
    """Σ α_j x_j with α the softmax of the choice, whose gradient is that of differences."""
    ops = choices("brighten", "contrast")
    learner = with_policy(anil(tiny_backbone("support"), outputs=WAYS, steps=2), ops, how="sum")
    episode = double(make_episode())
    params = double(learner.init(KEY, episode.support.x))
    parts = [
        changed(always(params["policy"], name), ops, KEY, episode.support, "sum").x
        for name in (NONE, *ops)
    ]
    weights = jnp.asarray([0.2, 0.5, 0.3])
    choice = dict(zip((NONE, *ops), jnp.log(weights) / SPEED, strict=True))
    policy = {**params["policy"], "choice": choice}
    found = changed(policy, ops, KEY, episode.support, "sum")
    expected = sum(w * part for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(found.x, expected, atol=1e-8)

    @jax.jit
    def value(c: Array) -> Array:
        moved = {**policy, "choice": {**choice, "contrast": c}}
        return learner.loss({**params, "policy": moved}, episode, KEY, STEP)[0]

    at, step = choice["contrast"], 1e-5
    slope = (value(at + step) - value(at - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(at), slope, rtol=1e-3)
    with pytest.raises(ValueError, match="how must be draw for label maps"):
        changed(policy, ops, KEY, make_mask_episode().support, "sum")


def test_a_first_order_gradient_gives_it_none() -> None:
    """Without a norm, whose statistics are of the support too."""
    ops = choices("brighten")
    episode = make_episode()
    slopes = []
    for order in ("mixed", "first"):
        learner = with_policy(maml(tiny_backbone("none"), outputs=WAYS, steps=1, order=order), ops)
        params = learner.init(KEY, episode.support.x)
        params["policy"] = always(params["policy"], "brighten")

        def loss(params: Params, learner: MetaLearner = learner) -> Array:
            return learner.loss(params, episode, KEY, STEP)[0]

        slope = jax.jit(jax.grad(loss))(params)["policy"]["magnitude"]["brighten"]
        slopes.append(abs(float(slope)))
    assert slopes[0] > 1e-6
    assert slopes[1] == 0


def test_padding_changes_nothing_and_copies_are_padded_too() -> None:
    ops = choices("noise")
    support = make_episode().support
    short = support._replace(mask=support.mask.at[-1].set(False))
    rubbish = short._replace(x=short.x.at[-1].set(jnp.nan))
    more = with_copies(init_policy(ops), ops, KEY, rubbish, 1)
    assert np.isfinite(more.x).all()
    np.testing.assert_array_equal(more.mask, jnp.tile(short.mask, 2))


def of_steps(steps: int, norm: str = "support", **more: Any) -> MetaLearner:
    make = functools.partial(maml, tiny_backbone(norm), outputs=WAYS, steps=steps, inner_lr=0.4)
    return by_step(make, choices("brighten"), steps=steps, **more)


def test_each_inner_step_has_a_policy_of_its_own(x64: None) -> None:
    """Two steps are one step by the first policy, and from there one by the second."""
    episode, two, one = double(make_episode()), of_steps(2, "none"), of_steps(1, "none")
    params = double(two.init(KEY, episode.support.x))
    params["policy"]["choice"]["brighten"] = jnp.asarray([50.0, -50.0])
    params["policy"]["magnitude"]["brighten"] = jnp.asarray([0.1, 0.0])
    found = two.adapt(params, episode.support, KEY).params

    first = jax.tree.map(lambda leaf: leaf[:1], params["policy"])
    middle = one.adapt({**params, "policy": first}, episode.support, KEY).params
    # The second step leaves every copy as it is: a step on the support alone.
    plain = maml(tiny_backbone("none"), outputs=WAYS, steps=1, inner_lr=0.4)
    chex.assert_trees_all_close(found, plain.adapt(middle, episode.support, KEY).params, rtol=1e-6)
    beyond = two.adapt(params, episode.support, KEY, 3).params
    chex.assert_trees_all_close(beyond, plain.adapt(found, episode.support, KEY).params, rtol=1e-6)
    twice = plain.adapt(plain.adapt(params, episode.support, KEY).params, episode.support, KEY)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(found, twice.params, rtol=1e-3)


def test_the_gradient_of_each_steps_magnitude_is_that_of_differences(x64: None) -> None:
    episode, learner = double(make_episode()), of_steps(2)
    params = double(learner.init(KEY, episode.support.x))
    params["policy"] = always(params["policy"], "brighten")

    @jax.jit
    def value(raw: Array) -> Array:
        policy = {**params["policy"], "magnitude": {"brighten": raw}}
        return learner.loss({**params, "policy": policy}, episode, KEY, STEP)[0]

    at = params["policy"]["magnitude"]["brighten"]
    slopes = jax.jit(jax.grad(value))(at)
    assert slopes.shape == (2,)
    for way, slope in zip(1e-4 * jnp.eye(2), slopes, strict=True):
        expected = (value(at + way) - value(at - way)) / 2e-4
        assert abs(expected) > 1e-6
        np.testing.assert_allclose(slope, expected, rtol=1e-3)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        of_steps(0)
    with pytest.raises(ValueError, match="copies must be >= 1, got 0"):
        of_steps(1, copies=0)
    learner = anil(tiny_backbone(), outputs=WAYS)
    with pytest.raises(ValueError, match="ops must name one or more"):
        with_policy(learner, {})
    with pytest.raises(ValueError, match="how must be one of"):
        with_policy(learner, choices("noise"), how="all")
    with pytest.raises(ValueError, match="copies must be >= 1, got 0"):
        with_policy(learner, choices("noise"), copies=0)
    support = Examples(jnp.zeros((2, 8, 8, 1)), jnp.zeros(3, jnp.int32), jnp.ones(2, bool))
    made = with_policy(learner, choices("noise"))
    params = made.init(KEY, support.x)
    with pytest.raises(ValueError, match=r"support\.y must have n=2"):
        made.adapt(params, support, KEY)
