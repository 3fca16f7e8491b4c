"""Means with 95% intervals: over episodes or subjects, paired, and over classes."""

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


def episode_means(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over an episode's images: [E, ...] of values [E, n, ...] and mask [E, n].

    For `over_episodes`, as are those of `subject_means`.

    >>> episode_means(np.array([[1.0, 0.0, np.nan]]), np.array([[True, True, False]]))
    array([0.5])
    """
    counts = np.sum(mask, 1)
    if not counts.all():
        raise ValueError("an episode has no query images")
    axes = (1,) * (np.ndim(values) - 2)
    kept = np.where(np.reshape(mask, (*np.shape(mask), *axes)), values, 0.0)
    means: np.ndarray = kept.sum(1) / counts.reshape(-1, *axes)
    return means


def subject_means(values: np.ndarray, mask: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The mean over each subject's images, of all episodes together: [subjects].

    values, mask and groups are [E, n]; a group is what names a subject, and the means are in
    the order of those names. An image counts as often as it was drawn. The interval of these means
    is of how a score varies from one subject to another, which episodes that share subjects hide.

    >>> values, groups = np.array([[1.0, 0.0], [0.5, 9.0]]), np.array([["b", "a"], ["a", ""]])
    >>> subject_means(values, np.array([[True, True], [True, False]]), groups)
    array([0.25, 1.  ])
    """
    if not np.shape(values) == np.shape(mask) == np.shape(groups):
        raise ValueError(
            "values, mask and groups must be [E, n] alike, "
            f"got {np.shape(values)}, {np.shape(mask)} and {np.shape(groups)}"
        )
    known, place = np.unique(groups[mask], return_inverse=True)
    return np.bincount(place, values[mask], len(known)) / np.bincount(place, minlength=len(known))


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
