"""Scores of probabilities over all predictions together, which are no means over episodes.

AUROC, average precision and sensitivity are of one class against the others, over every
prediction of the episodes that the class is a way of, and then means over the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from medmeta_jax.metrics.intervals import Estimate

BINS = 15  # of confidence, for the calibration error
SPECIFICITY = 0.95
BLOCKS = 20  # of episodes, left out one after another for an interval


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities [..., ways] in float64; all ways alike where a logit is not finite.

    >>> softmax(np.array([[0.0, 0.0], [np.nan, 1.0]]))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = np.where(np.isfinite(scaled).all(-1, keepdims=True), scaled, 0.0)
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def ranking(scores: np.ndarray, hits: np.ndarray) -> dict[str, float]:
    """How well scores [N] put the hits [N] bool above the others; equal scores stand together.

    Returns "auroc", "average_precision" (the mean precision over the hits, as a step function
    of recall) and "sensitivity" (the largest share of hits found while at least `SPECIFICITY`
    of the others are not). NaN where there are no hits, or nothing else.

    >>> ranking(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]))["auroc"]
    0.75
    """
    total, rest = int(hits.sum()), int((~hits).sum())
    if not total or not rest:
        return dict.fromkeys(("auroc", "average_precision", "sensitivity"), float("nan"))
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)  # of runs of equal scores
    found = np.cumsum(hits[order])[ends]
    wrong = ends + 1 - found
    recall, false = np.append(0, found) / total, np.append(0, wrong) / rest
    gained = np.diff(recall)
    return {
        "auroc": float(np.sum(np.diff(false) * (recall[1:] + recall[:-1]) / 2)),
        "average_precision": float(np.sum(gained * found / (ends + 1))),
        "sensitivity": float(recall[false <= 1 - SPECIFICITY + 1e-12].max()),
    }


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: |accuracy - mean confidence| of `BINS` equal bins of
    confidence [N], weighted by how many predictions fall into each (Guo, arXiv 1706.04599).

    >>> calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, correct - confidence, BINS)
    return round(float(np.abs(gaps).sum() / len(confidence)), 12)


def class_predictions(
    p: np.ndarray, y: np.ndarray, mask: np.ndarray, classes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each class of the pool its scores [N] and hits [N] in the episodes that hold it.

    p: [E, n, ways]; y: [E, n], or [E, n, ways] of 1 and 0 where there are several labels; mask:
    [E, n]; classes: [E, ways], the pool's labels, -1 where absent.
    """
    of_way = y > 0 if y.ndim == 3 else y[..., None] == np.arange(p.shape[-1])
    for label in np.unique(classes[classes >= 0]):
        episodes, ways = np.nonzero(classes == label)
        there = mask[episodes]
        scores = p[episodes, :, ways]  # [of these episodes, n]
        yield scores[there], of_way[episodes, :, ways][there]


def pooled_scores(
    p: np.ndarray, y: np.ndarray, mask: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    """All pooled scores of single labels: `rank_scores` and `probability_scores`."""
    return {**rank_scores(p, y, mask, classes), **probability_scores(p, y, mask)}


def rank_scores(
    p: np.ndarray, y: np.ndarray, mask: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    """ "auroc", "average_precision" and "sensitivity" (at 95% specificity) as means over classes.

    Shapes as `class_predictions`. A class that is all or none of its predictions has no rank
    scores and is left out of their mean.
    """
    each = [ranking(*pair) for pair in class_predictions(p, y, mask, classes)]
    return {name: mean_known([one[name] for one in each]) for name in each[0]}


def probability_scores(p: np.ndarray, y: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """ "brier" (the squared error of the probabilities, summed over ways), "nll" and "ece" of
    p [E, n, ways], y and mask [E, n]."""
    flat, true = p[mask], y[mask]
    own = flat[np.arange(len(true)), true]
    squares = (flat**2).sum(1) - 2 * own + 1
    return {
        "brier": float(squares.mean()),
        "nll": float(-np.log(np.maximum(own, 1e-12)).mean()),
        "ece": calibration_error(flat.max(1), flat.argmax(1) == true),
    }


def mean_known(values: list[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def over_blocks(
    statistics: Callable[..., dict[str, float]], *arrays: np.ndarray
) -> dict[str, Estimate]:
    """Statistics of arrays of episodes [E, ...] with 95% intervals, by the jackknife.

    A pooled score is no mean over episodes, so its spread is taken from how it moves when
    a block of the episodes is left out (delete-a-group jackknife, Student's t).

    Args:
      statistics: of the arrays, or of the same episodes of each; called `BLOCKS` + 1 times.
      arrays: of the same two or more episodes.
    """
    from scipy.stats import t

    episodes = len(arrays[0])
    if episodes < 2:
        raise ValueError(f"episodes must be >= 2, got {episodes}")
    places, blocks = np.arange(episodes), min(BLOCKS, episodes)
    whole = statistics(*arrays)
    kept = [places % blocks != block for block in range(blocks)]
    without = [statistics(*(array[some] for array in arrays)) for some in kept]
    found = {}
    for name, value in whole.items():
        left = np.asarray([one[name] for one in without])
        error = np.sqrt((blocks - 1) / blocks * ((left - left.mean()) ** 2).sum())
        found[name] = Estimate(value, float(t.ppf(0.975, blocks - 1) * error))
    return found
