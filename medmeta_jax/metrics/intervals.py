"""Means with 95% intervals: over episodes, paired, and over classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean and the half-width of its 95% interval."""

    mean: float
    ci95: float


def over_episodes(values: np.ndarray) -> Estimate:
    """Mean and Student-t 95% half-width of one value an episode [E]; needs E >= 2.

    >>> over_episodes(np.array([0.0, 1.0, 0.0, 1.0])).mean
    0.5
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must be [episodes] with 2 or more, got shape {values.shape}")
    error = values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(float(values.mean()), float(t.ppf(0.975, len(values) - 1) * error))


def paired_difference(values: np.ndarray, reference: np.ndarray) -> Estimate:
    """Mean of `values - reference`, episode by episode [E], with its interval."""
    if values.shape != reference.shape:
        raise ValueError(f"pairs must match, got {values.shape} and {reference.shape}")
    return over_episodes(np.asarray(values, np.float64) - np.asarray(reference, np.float64))


def over_classes(
    correct: np.ndarray, classes: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95% bootstrap interval of a score when the classes are resampled.

    Episodes drawn from few classes are not independent: this says how much the score
    rests on the classes at hand, which the interval over episodes does not.

    Args:
      correct: [N] bool, or another score, one a query image, all episodes together.
      classes: [N] int, the image's class in the pool.
    """
    known, place = np.unique(classes, return_inverse=True)
    score = np.bincount(place, correct.astype(np.float64)) / np.bincount(place)
    draws = np.random.default_rng(seed).integers(len(known), size=(resamples, len(known)))
    low, high = np.quantile(score[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)
