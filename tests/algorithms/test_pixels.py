"""Regressions of pixels: against their objective's minimum, found by other means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from medmeta_jax.algorithms.pixel_logistic import drawn_rows, logistic, pixel_logistic
from medmeta_jax.algorithms.pixel_ridge import balanced_ridge, pixel_ridge
from medmeta_jax.backbones.unet import unet
from medmeta_jax.types import Examples

from ..conftest import make_mask_episode

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
X[:, 3] = 1.0
RARE = (X[:, 0] + 0.8 * RNG.normal(size=60) > 1.2).astype(float)


def test_the_ridge_is_the_weighted_one(x64: None) -> None:
    targets = np.stack([1 - RARE, RARE], -1)
    weight = targets @ (1 / targets.sum(0))
    gram = X.T @ (weight[:, None] * X) + 0.3 * np.eye(4)
    expected = np.linalg.solve(gram, X.T @ (weight[:, None] * targets))
    found = balanced_ridge(jnp.asarray(X), jnp.asarray(targets), jnp.asarray(0.3))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_ridge_does_not_ask_how_often_a_label_is_there(x64: None) -> None:
    """Each of the rest's pixels twice is the same task; so are rows of zeros."""
    targets = np.stack([1 - RARE, RARE], -1)
    rest = RARE == 0
    more_x = np.concatenate([X, X[rest], np.zeros((3, 4))])
    more_y = np.concatenate([targets, targets[rest], np.zeros((3, 2))])
    pair = [
        balanced_ridge(jnp.asarray(x), jnp.asarray(y), jnp.asarray(0.3))
        for x, y in ((X, targets), (more_x, more_y))
    ]
    np.testing.assert_allclose(*pair, rtol=1e-9)


def test_newtons_steps_find_the_minimum(x64: None) -> None:
    weight, strength = np.full(60, 1 / 60), 0.01

    def objective(w: np.ndarray) -> float:
        value = X @ w
        return float(weight @ (np.logaddexp(0, value) - RARE * value) + strength / 2 * w @ w)

    expected = scipy.optimize.minimize(objective, np.zeros(4), tol=1e-12).x
    arrays = map(jnp.asarray, (X, RARE, weight))
    found = logistic(*arrays, jnp.asarray(strength), steps=8)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    few = logistic(*map(jnp.asarray, (X, RARE, weight)), jnp.asarray(strength), steps=5)
    assert objective(np.asarray(few)) < objective(expected) + 1e-4


def test_probabilities_add_up_to_what_is_marked(x64: None) -> None:
    """With a constant and no penalty: the mean probability is the label's share."""
    weight = jnp.full(60, 1 / 60)
    w = logistic(jnp.asarray(X), jnp.asarray(RARE), weight, jnp.asarray(0.0), steps=12)
    assert float(jax.nn.sigmoid(X @ w).mean()) == pytest.approx(RARE.mean(), abs=1e-8)


@pytest.mark.parametrize("make", [pixel_ridge, pixel_logistic])
def test_a_type_that_no_pixel_shows_is_marked_nowhere_and_harms_nothing(make) -> None:  # type: ignore[no-untyped-def]
    learner = make(unet(widths=(4, 4)), outputs=3)
    episode = make_mask_episode(shots=3)  # whose second type is in no image
    params = learner.init(KEY, episode.support.x)

    @jax.jit
    def value(params):  # type: ignore[no-untyped-def]
        return learner.loss(params, episode, KEY, jnp.zeros((), jnp.int32))

    (loss, info), grads = jax.value_and_grad(value, has_aux=True)(params)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert (np.asarray(info.logits).argmax(-1) == 2).mean() < 0.05


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (pixel_ridge, {"outputs": 1}, "outputs must be >= 2"),
        (pixel_ridge, {"outputs": 2, "strength": 0.0}, "strength must be"),
        (pixel_logistic, {"outputs": 2, "newton_steps": 0}, "newton_steps must be >= 1, got 0"),
        (pixel_logistic, {"outputs": 2, "strength": -1.0}, "strength must be"),
        (pixel_logistic, {"outputs": 2, "pixels": 1}, "pixels must be >= 2, got 1"),
        (pixel_logistic, {"outputs": 2, "margin": float("nan")}, "margin must be finite, got nan"),
    ],
)
def test_nonsense_is_refused(make, arguments: dict, message: str) -> None:  # type: ignore[no-untyped-def, type-arg]
    with pytest.raises(ValueError, match=message):
        make(unet(widths=(4, 4)), **arguments)


def test_pixels_that_are_drawn_stand_for_those_that_are_not() -> None:
    """Half of what is drawn is marked, no pixel is drawn twice, and over draws the weighted sum of
    anything is that over all pixels that are there."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=400).astype(np.float32)
    there = jnp.asarray(np.arange(400) < 360)
    marked = jnp.asarray(np.arange(400) % 8 == 0)  # 45 of them there

    places, weights = jax.vmap(lambda key: drawn_rows(key, marked, there, 60))(
        jax.random.split(KEY, 2000)
    )
    assert there[places].all()
    assert (marked[places].sum(1) == 30).all()
    assert all(len(set(row.tolist())) == 60 for row in np.asarray(places[:20]))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    means = (weights * values[places]).sum(1)
    expected = values[:360].mean()
    assert abs(float(means.mean()) - expected) < 4 * float(means.std()) / np.sqrt(2000)


def test_few_marked_pixels_are_all_drawn_and_weigh_what_they_are() -> None:
    marked, there = jnp.asarray(np.arange(50) < 3), jnp.ones(50, bool)
    places, weights = drawn_rows(KEY, marked, there, 20)
    drawn = np.asarray(weights) > 0
    assert {0, 1, 2} <= set(np.asarray(places)[drawn].tolist())
    assert drawn.sum() == 3 + 10
    of_marked = np.asarray(weights)[drawn & np.asarray(marked[places])]
    np.testing.assert_allclose(of_marked, 1 / 50, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)


@pytest.mark.slow
def test_where_all_pixels_are_seen_the_key_changes_nothing() -> None:
    episode = make_mask_episode(shots=3)
    count = episode.support.y.size

    def told(pixels: int, seed: int) -> np.ndarray:
        learner = pixel_logistic(unet(widths=(4, 4)), outputs=2, pixels=pixels)
        params = learner.init(KEY, episode.support.x)
        adapted = learner.adapt(params, episode.support, jax.random.key(seed))
        return np.asarray(adapted.weights)

    np.testing.assert_array_equal(told(count, 0), told(count, 1))
    assert (told(count // 2, 0) != told(count // 2, 1)).any()


def test_a_margin_marks_more_and_is_not_trained_with() -> None:
    episode = make_mask_episode(shots=3)

    def told(margin: float) -> tuple[np.ndarray, float]:
        learner = pixel_logistic(unet(widths=(4, 4)), outputs=2, margin=margin)
        params = learner.init(KEY, episode.support.x)
        adapted = learner.adapt(params, episode.support, KEY)
        loss, _ = learner.loss(params, episode, KEY, jnp.zeros((), jnp.int32))
        logits = learner.predict(adapted, episode.query.x, episode.query.mask)
        return np.asarray(logits), float(loss)

    (plain, loss), (wider, same) = told(0.0), told(1.5)
    np.testing.assert_allclose(wider[..., 1] - plain[..., 1], 1.5, atol=1e-5)
    np.testing.assert_array_equal(wider[..., 0], plain[..., 0])
    assert same == loss


def test_unmarked_supports_are_taken(x64: None) -> None:
    """Of nothing but images without a lesion, nothing is marked."""
    learner = pixel_logistic(unet(widths=(4, 4)), outputs=2)
    support = make_mask_episode(shots=3).support
    support = Examples(support.x.astype(float), 0 * support.y, support.mask)
    params = learner.init(KEY, support.x)
    adapted = learner.adapt(params, support, KEY)
    logits = learner.predict(adapted, support.x, support.mask)
    assert (np.asarray(logits).argmax(-1) == 0).all()
