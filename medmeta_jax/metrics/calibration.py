"""Probabilities that mean what they say: a temperature, and sets that hold the truth.

Temperature: Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599): logits
are divided by the T > 0 that makes the labels of the calibration tasks most likely.

Sets: conformal prediction pooled over tasks. A task's queries resemble each other, so a task
and not an image is the unit that is exchangeable. With n calibration tasks the quantile is
that of the mixture in which each task has weight 1 / (n + 1), shared among its queries, and
the new task's own weight 1 / (n + 1) lies at infinity (Dunn, Wasserman, Ramdas, arXiv
1809.07441; Lee, Barber, Willett, arXiv 2306.06342). The truth of a query of a new task of the
same distribution then lies in its set with at least the promised probability, on average over
tasks and not for each; of another distribution nothing is promised. Fisch et al. (arXiv
2102.08898), for few-shot tasks, predict a quantile for each task instead. The score of a label
is 1 - its probability.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medmeta_jax.metrics.pooled import softmax

TEMPERATURES = (0.02, 50.0)  # searched


class Calibration(NamedTuple):
    """What is fitted on meta-validation tasks and kept with a run.

    temperature: logits are divided by it.
    quantile: a way is in the set where 1 - its probability is at most this; infinite where
        there were too few tasks to promise anything, and the set is every way there is.
    coverage: the promised share of queries whose set holds the truth.
    tasks: calibration tasks of the temperature, and of the quantile.

    >>> Calibration(1.3, 0.8, 0.9, (50, 50)).temperature
    1.3
    """

    temperature: float
    quantile: float
    coverage: float
    tasks: tuple[int, int]


def reliability(p: np.ndarray, y: np.ndarray, mask: np.ndarray, bins: int = 10) -> list[dict]:
    """Of the queries [E, n] told with probabilities [E, n, ways], by that of the way they are taken
    for, in so many equal parts from 0 to 1: the mean "confidence", the "accuracy", the "count".

    Parts without a query are left out.

    >>> p = np.asarray([[[0.9, 0.1], [0.2, 0.8]]])
    >>> reliability(p, np.zeros((1, 2), int), np.asarray([[True, False]]))
    [{'confidence': 0.9, 'accuracy': 1.0, 'count': 1}]
    """
    told, right = p[mask].max(-1), p[mask].argmax(-1) == y[mask]
    part = np.minimum((told * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(told[part == one].mean()),
            "accuracy": float(right[part == one].mean()),
            "count": int((part == one).sum()),
        }
        for one in np.unique(part)
    ]


def fit_temperature(logits: np.ndarray, y: np.ndarray, mask: np.ndarray) -> float:
    """The temperature that makes y [E, n] most likely under logits [E, n, ways]."""
    from scipy.optimize import minimize_scalar

    kept, true = logits[mask], y[mask]

    def loss(log_temperature: float) -> float:
        own = softmax(kept, np.exp(log_temperature))[np.arange(len(true)), true]
        return float(-np.log(np.maximum(own, 1e-300)).mean())

    bounds = tuple(np.log(TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def pooled_quantile(scores: np.ndarray, mask: np.ndarray, coverage: float) -> float:
    """The quantile of scores [E, n] at which a new task's are covered (see the module).

    >>> pooled_quantile(np.arange(9.0)[:, None], np.ones((9, 1), bool), 0.9)
    8.0
    >>> pooled_quantile(np.arange(8.0)[:, None], np.ones((8, 1), bool), 0.9)
    inf
    """
    tasks, counts = len(scores), mask.sum(1)
    if not counts.all():
        raise ValueError("a calibration task has no query images")
    weights = np.broadcast_to(1 / (counts[:, None] * (tasks + 1)), scores.shape)[mask]
    order = np.argsort(scores[mask], kind="stable")
    below = np.cumsum(weights[order])
    place = int(np.searchsorted(below, coverage - 1e-9))
    return float(scores[mask][order][place]) if place < len(below) else float("inf")


def fit(
    logits: np.ndarray, y: np.ndarray, mask: np.ndarray, *, coverage: float = 0.9
) -> Calibration:
    """Fit on calibration tasks: logits [E, n, ways], y and mask [E, n].

    Every other task is for the temperature and the rest for the quantile: were one task to
    serve for both, its scores would look better than a new task's.
    """
    if len(logits) < 2:
        raise ValueError(f"calibration needs 2 or more tasks, got {len(logits)}")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be > 0 and < 1, got {coverage}")
    temperature = fit_temperature(logits[::2], y[::2], mask[::2])
    p, true = softmax(logits[1::2], temperature), y[1::2]
    scores = 1 - np.take_along_axis(p, true[..., None], -1)[..., 0]
    quantile = pooled_quantile(scores, mask[1::2], coverage)
    return Calibration(temperature, quantile, coverage, (len(logits[::2]), len(true)))


def prediction_sets(
    calibration: Calibration, logits: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Which ways are in each query's set: [E, n, ways] bool; absent ways (-1) never are."""
    p = softmax(logits, calibration.temperature)
    # The smallest slack keeps a score that equals the quantile in, whatever its last digit.
    return (1 - p <= calibration.quantile + 1e-12) & (classes >= 0)[:, None, :]


def covered(sets: np.ndarray, y: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each episode the share of queries whose set holds the truth, and the mean size."""
    counts = mask.sum(1)
    hits = np.take_along_axis(sets, y[..., None], -1)[..., 0] & mask
    return hits.sum(1) / counts, (sets.sum(-1) * mask).sum(1) / counts
