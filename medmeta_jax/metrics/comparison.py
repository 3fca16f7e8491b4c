"""Is the difference there: paired tests, and Holm's correction for asking many times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def paired_p(values: np.ndarray, reference: np.ndarray) -> float:
    """Two-sided p of Student's paired test, episode by episode [E]; 1 where all pairs agree.

    >>> round(paired_p(np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.0, 0.0])), 3)
    0.118
    """
    from scipy.stats import t

    gaps = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    if gaps.ndim != 1 or len(gaps) < 2:
        raise ValueError(f"values must be [episodes] with 2 or more, got shape {gaps.shape}")
    error = gaps.std(ddof=1) / np.sqrt(len(gaps))
    if error == 0:
        return 0.0 if gaps[0] else 1.0
    return float(2 * t.sf(abs(gaps.mean() / error), len(gaps) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm, 1979): the chance of any false find.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = highest
    return adjusted
