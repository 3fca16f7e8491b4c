"""Scores where an image may show several labels: a probability for each, and a threshold."""

from __future__ import annotations

import numpy as np

from medmeta_jax.metrics.pooled import calibration_error, mean_known, rank_scores, ranking

THRESHOLDS = np.linspace(0.01, 0.99, 99)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64; a half where a logit is not finite."""
    from scipy.special import expit

    values = np.asarray(logits, np.float64)
    found: np.ndarray = np.where(np.isfinite(values), expit(values), 0.5)
    return found


def label_scores(
    p: np.ndarray, y: np.ndarray, mask: np.ndarray, threshold: float = 0.5
) -> dict[str, np.ndarray]:
    """{"auroc", "accuracy", "recall", "f1"}, each [E], of p and y [E, n, ways] and mask [E, n].

    Accuracy is over all labels of all images; recall, F1 and AUROC are means over the labels
    that some query of the episode shows (and, for AUROC, some does not; a half where there is
    no such label).
    """
    there = mask[..., None]
    told, shown = (p >= threshold) & there, (y > 0) & there
    hits, true, found = ((a & b).sum(1) for a, b in ((told, shown), (shown, shown), (told, told)))
    occurs = true > 0
    count = np.maximum(occurs.sum(1), 1)
    recall = np.where(occurs, hits / np.maximum(true, 1), 0).sum(1) / count
    f1 = np.where(occurs, 2 * hits / np.maximum(true + found, 1), 0).sum(1) / count
    right = ((told == shown) & there).sum((1, 2)) / (mask.sum(1) * p.shape[-1])
    return {"auroc": episode_auroc(p, y, mask), "accuracy": right, "recall": recall, "f1": f1}


def episode_auroc(p: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean AUROC over an episode's labels: [E]."""

    def one(p: np.ndarray, y: np.ndarray) -> float:
        each = [ranking(p[:, way], y[:, way] > 0)["auroc"] for way in range(p.shape[1])]
        mean = mean_known(each)
        return 0.5 if np.isnan(mean) else mean

    return np.asarray([one(p[e][mask[e]], y[e][mask[e]]) for e in range(len(p))])


def pooled_label_scores(
    p: np.ndarray, y: np.ndarray, mask: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    """As `pooled.pooled_scores`, of each label against its absence; "brier", "nll" and "ece" are
    over all probabilities of a label."""
    flat, true = p[mask].ravel(), y[mask].ravel() > 0
    own = np.where(true, flat, 1 - flat)
    return {
        **rank_scores(p, y, mask, classes),
        "brier": float(((flat - true) ** 2).mean()),
        "nll": float(-np.log(np.maximum(own, 1e-12)).mean()),
        "ece": calibration_error(flat, true),
    }


def best_threshold(p: np.ndarray, y: np.ndarray, mask: np.ndarray) -> float:
    """The threshold of the highest F1 over all labels together; for meta-validation, never for
    the queries that are judged.

    >>> best_threshold(np.array([[[0.2], [0.3], [0.7]]]), np.array([[[0], [1], [1]]]),
    ...                np.ones((1, 3), bool)) < 0.31
    True
    """
    flat, true = p[mask].ravel(), y[mask].ravel() > 0
    scores = []
    for threshold in THRESHOLDS:
        told = flat >= threshold
        scores.append(2 * (told & true).sum() / max(told.sum() + true.sum(), 1))
    best = np.flatnonzero(np.isclose(scores, max(scores)))
    return float(THRESHOLDS[best[len(best) // 2]])  # the middle of those that are as good
