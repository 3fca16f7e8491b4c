"""Scores and intervals against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, recall_score

from medmeta_jax.metrics.classification import (
    confusion,
    episode_scores,
    pool_confusion,
    quadratic_kappa,
)
from medmeta_jax.metrics.intervals import (
    episode_means,
    over_classes,
    over_episodes,
    paired_difference,
    subject_means,
)


def test_scores_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, (20, 30))
    guess = np.where(rng.random((20, 30)) < 0.6, y, rng.integers(0, 4, (20, 30)))
    mask = rng.random((20, 30)) < 0.8
    scores = episode_scores(confusion(guess, y, mask, 4))
    for i in range(20):
        true, predicted = y[i][mask[i]], guess[i][mask[i]]
        labels = np.unique(true)
        assert scores["accuracy"][i] == pytest.approx(accuracy_score(true, predicted))
        expected = recall_score(true, predicted, labels=labels, average="macro")
        assert scores["recall"][i] == pytest.approx(expected)
        expected = f1_score(true, predicted, labels=labels, average="macro")
        assert scores["f1"][i] == pytest.approx(expected)


def test_a_class_that_is_absent_does_not_count() -> None:
    table = confusion(np.array([[0, 0]]), np.array([[0, 0]]), np.ones((1, 2), bool), 3)
    assert episode_scores(table) == {"accuracy": [1.0], "recall": [1.0], "f1": [1.0]}


def test_confusion_over_the_pools_classes_and_kappa() -> None:
    """Two episodes of three ways of four classes, a way absent in one; scikit-learn's kappa."""
    classes = np.array([[3, 0, 1], [0, 3, -1]])
    y = np.array([[0, 1, 2, 2], [0, 1, 1, 0]])
    guess = np.array([[0, 1, 0, 2], [1, 1, 2, 0]])
    mask = np.ones((2, 4), bool)
    mask[1, 3] = False
    found = pool_confusion(confusion(guess, y, mask, 3), classes, 4)
    expected = np.zeros((4, 4), int)
    for true, taken in [
        (3, 3),
        (0, 0),
        (1, 3),
        (1, 1),
        (0, 3),
        (3, 3),
    ]:
        expected[true, taken] += 1
    np.testing.assert_array_equal(found, expected)
    true, taken = np.repeat(np.argwhere(expected), expected[expected > 0], axis=0).T
    kappa = cohen_kappa_score(true, taken, labels=range(4), weights="quadratic")
    assert quadratic_kappa(found) == pytest.approx(kappa)
    assert np.isnan(quadratic_kappa(np.diag([0, 3])))


def test_an_empty_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="no query images"):
        episode_scores(np.zeros((1, 2, 2), int))


def test_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(size=30)
    found = over_episodes(values)
    low, high = t.interval(0.95, 29, values.mean(), values.std(ddof=1) / np.sqrt(30))
    assert found.mean == pytest.approx(values.mean())
    assert (found.mean - found.ci95, found.mean + found.ci95) == pytest.approx((low, high))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        found = over_episodes(rng.normal(size=10))
        hits += abs(found.mean) <= found.ci95
    assert abs(hits / 2000 - 0.95) < 0.015


def test_pairs_remove_what_is_common() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=200)
    a, b = hard + 0.1 + 0.01 * rng.normal(size=200), hard
    paired = paired_difference(a, b)
    assert paired.mean == pytest.approx(0.1, abs=0.01)
    assert paired.ci95 < 0.05 * over_episodes(a).ci95
    with pytest.raises(ValueError, match="pairs must match"):
        paired_difference(a, b[:-1])


def test_bootstrap_over_classes() -> None:
    classes = np.repeat(np.arange(10), 100)
    same = np.tile(np.arange(100) < 70, 10)
    low, high = over_classes(same, classes)
    assert (low, high) == pytest.approx((0.7, 0.7))
    uneven = classes < 5
    low, high = over_classes(uneven, classes)
    # The mean of ten draws of 0 or 1 is a binomial's, whose quantiles are 2 and 8 of 10.
    assert (low, high) == pytest.approx((0.2, 0.8))
    assert over_classes(uneven, classes) == (low, high)


def test_means_of_episodes_and_of_subjects_by_hand() -> None:
    values = np.array([[1.0, 0.0, 0.5], [0.25, 0.75, np.nan]])
    mask = np.array([[True, True, True], [True, True, False]])
    subjects = np.array([[7, 3, 3], [7, 9, 3]])
    np.testing.assert_allclose(episode_means(values, mask), [0.5, 0.5])
    np.testing.assert_allclose(subject_means(values, mask, subjects), [0.25, 0.625, 0.75])
    classes = np.stack([values, 1 - values], -1)
    np.testing.assert_allclose(episode_means(classes, mask), [[0.5, 0.5], [0.5, 0.5]])


def test_means_refuse_what_has_no_images_or_does_not_fit() -> None:
    with pytest.raises(ValueError, match="an episode has no query images"):
        episode_means(np.zeros((2, 1)), np.array([[True], [False]]))
    with pytest.raises(ValueError, match=r"must be \[E, n\] alike"):
        subject_means(np.zeros((2, 1)), np.ones((2, 1), bool), np.zeros(2))
