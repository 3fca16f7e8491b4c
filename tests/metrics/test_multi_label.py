"""Scores of several labels, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
)

from medmeta_jax.metrics.multi_label import (
    best_threshold,
    label_scores,
    pooled_label_scores,
    sigmoid,
)


@pytest.fixture(scope="module")
def predictions() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    y = (rng.random((30, 20, 3)) < 0.3).astype(int)
    y[:, 0] = 1  # every label is shown, and is not, in every episode
    y[:, 1] = 0
    mask = rng.random((30, 20)) < 0.8
    mask[:, :2] = True
    p = sigmoid(rng.normal(size=y.shape) + 2 * y - 1)
    classes = np.stack([rng.permutation(6)[:3] for _ in range(30)])
    return p, y, mask, classes


def test_scores_equal_scikit_learn(predictions: tuple[np.ndarray, ...]) -> None:
    p, y, mask, _ = predictions
    found = label_scores(p, y, mask, 0.4)
    for e in range(30):
        true, told = y[e][mask[e]], p[e][mask[e]] >= 0.4
        assert found["recall"][e] == pytest.approx(recall_score(true, told, average="macro"))
        assert found["f1"][e] == pytest.approx(f1_score(true, told, average="macro"))
        assert found["accuracy"][e] == pytest.approx((true == told).mean())
        assert found["auroc"][e] == pytest.approx(roc_auc_score(true, p[e][mask[e]]))


def test_pooled_over_the_episodes_that_hold_a_label(predictions: tuple[np.ndarray, ...]) -> None:
    p, y, mask, classes = predictions
    found = pooled_label_scores(p, y, mask, classes)
    each = []
    for label in range(6):
        scores, hits = [], []
        for e, way in zip(*np.nonzero(classes == label), strict=True):
            scores += p[e, mask[e], way].tolist()
            hits += y[e, mask[e], way].tolist()
        each.append(roc_auc_score(hits, scores))
    assert found["auroc"] == pytest.approx(np.mean(each))
    assert found["brier"] == pytest.approx(brier_score_loss(y[mask].ravel(), p[mask].ravel()))


def test_the_threshold_is_the_best(predictions: tuple[np.ndarray, ...]) -> None:
    p, y, mask, _ = predictions
    chosen = best_threshold(p, y, mask)
    scores = {t: f1_score(y[mask].ravel(), p[mask].ravel() >= t) for t in np.arange(0.05, 1, 0.05)}
    assert f1_score(y[mask].ravel(), p[mask].ravel() >= chosen) >= max(scores.values()) - 1e-9
