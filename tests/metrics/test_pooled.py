"""Pooled scores against scikit-learn and by hand, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from medmeta_jax.metrics.intervals import over_episodes
from medmeta_jax.metrics.pooled import (
    calibration_error,
    class_predictions,
    over_blocks,
    pooled_scores,
    ranking,
    softmax,
)


@pytest.mark.parametrize("digits", [1, 6])
def test_ranking_equals_scikit_learn(digits: int) -> None:
    """With many equal scores, and with none."""
    rng = np.random.default_rng(digits)
    hits = rng.random(500) < 0.3
    scores = np.round(rng.normal(size=500) + hits, digits)
    found = ranking(scores, hits)
    assert found["auroc"] == pytest.approx(roc_auc_score(hits, scores))
    assert found["average_precision"] == pytest.approx(average_precision_score(hits, scores))
    false, true, _ = roc_curve(hits, scores, drop_intermediate=False)
    assert found["sensitivity"] == pytest.approx(true[false <= 0.05].max())


def test_ranking_of_one_kind_alone_is_unknown() -> None:
    assert all(np.isnan(v) for v in ranking(np.ones(3), np.ones(3, bool)).values())


def test_calibration_error_by_hand() -> None:
    """Two bins: 2 of 4 right at 0.9, 1 of 1 right at 0.5."""
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.5])
    correct = np.array([True, True, False, False, True])
    assert calibration_error(confidence, correct) == pytest.approx((4 * 0.4 + 0.5) / 5)
    assert calibration_error(np.ones(3), np.ones(3, bool)) == 0


def episodes() -> tuple[np.ndarray, ...]:
    """40 three-way episodes of five classes, the last way of every other one absent."""
    rng = np.random.default_rng(0)
    classes = np.stack([rng.permutation(5)[:3] for _ in range(40)])
    classes[::2, 2] = -1
    y = rng.integers(0, np.where(classes[:, 2] < 0, 2, 3)[:, None], (40, 12))
    mask = rng.random((40, 12)) < 0.9
    logits = rng.normal(size=(40, 12, 3)) + 2 * np.eye(3)[y]
    logits = np.where(classes[:, None] < 0, -1e9, logits)
    return softmax(logits), y, mask, classes


def test_each_class_stands_against_the_others_of_its_episodes() -> None:
    p, y, mask, classes = episodes()
    pairs = list(class_predictions(p, y, mask, classes))
    assert len(pairs) == 5
    scores, hits = [], []
    for e, i in zip(*np.nonzero(mask), strict=True):
        if 3 in classes[e]:
            way = list(classes[e]).index(3)
            scores.append(p[e, i, way])
            hits.append(y[e, i] == way)
    np.testing.assert_array_equal(pairs[3][0], scores)
    np.testing.assert_array_equal(pairs[3][1], hits)


def test_pooled_scores() -> None:
    p, y, mask, classes = episodes()
    found = pooled_scores(p, y, mask, classes)
    each = [roc_auc_score(hits, scores) for scores, hits in class_predictions(p, y, mask, classes)]
    assert found["auroc"] == pytest.approx(np.mean(each))
    by_way = [brier_score_loss(y[mask] == way, p[mask][:, way]) for way in range(3)]
    assert found["brier"] == pytest.approx(sum(by_way))
    spoilt = np.where(mask[..., None], p, np.nan)
    assert pooled_scores(spoilt, y, mask, classes) == found


def test_a_diverged_prediction_says_nothing() -> None:
    np.testing.assert_array_equal(softmax(np.array([np.inf, 0.0])), [0.5, 0.5])


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    found = over_blocks(lambda some: {"mean": float(some.mean())}, values)["mean"]
    assert found.mean == pytest.approx(values.mean())
    assert found.ci95 == pytest.approx(over_episodes(values).ci95, rel=0.4)


def test_the_jackknife_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        values = rng.exponential(size=200)
        found = over_blocks(lambda some: {"m": float(some.mean())}, values)["m"]
        hits += abs(found.mean - 1) <= found.ci95
    assert 0.92 < hits / 1000 < 0.97
