"""Scores of predicted values, such as ages, in standard deviations of what is predicted."""

from __future__ import annotations

import numpy as np

LOST = 10.0  # standard deviations off: what a prediction counts as that is no finite number


def errors(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far off each prediction is: logits [E, n, 1], y [E, n] -> [E, n] float64."""
    off = np.asarray(logits, np.float64)[..., 0] - y
    return np.where(np.isfinite(off), off, LOST)


def value_scores(logits: np.ndarray, y: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """{"r2", "error", "correlation"}, each [E], of logits [E, n, 1] and y, mask [E, n].

    y is measured from the support's mean in standard deviations of the data set, so that
    "r2", 1 - the mean squared error, is the share of the variance that is explained: 0 for the
    data set's own mean, and below 0 for worse. "error" is the mean absolute error. "correlation"
    is Pearson's, of an episode's queries; 0 where either has one value alone.

    >>> truth = np.array([[1.0, -1.0]])
    >>> {name: float(one[0]) for name, one in
    ...  value_scores(truth[..., None] / 2, truth, np.ones((1, 2), bool)).items()}
    {'r2': 0.75, 'error': 0.5, 'correlation': 1.0}
    """
    off, count = errors(logits, y), mask.sum(1)
    if not count.all():
        raise ValueError("an episode has no query images")

    def mean(values: np.ndarray) -> np.ndarray:
        return np.where(mask, values, 0).sum(1) / count

    told = y + off
    told, true = (np.where(mask, one - mean(one)[:, None], 0) for one in (told, y))
    spread = np.sqrt(mean(told**2) * mean(true**2))
    correlation = np.where(spread > 1e-9, mean(told * true) / np.maximum(spread, 1e-9), 0.0)
    return {"r2": 1 - mean(off**2), "error": mean(np.abs(off)), "correlation": correlation}


def pooled_value_scores(logits: np.ndarray, y: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Over all predictions together: "rmse", and "gain", the share of the squared error that is
    less than by predicting the support's mean."""
    square = float((errors(logits, y)[mask] ** 2).mean())
    return {"rmse": square**0.5, "gain": 1 - square / float((y[mask] ** 2).mean())}
