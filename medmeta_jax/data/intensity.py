"""From the values of a scan to the 8 bits that a pool holds: windows, clips and z-scores.

A volume is scaled as a whole, never slice by slice: a slice's own range would make its
brightness depend on what else is in it. What is not a number (padding of some scanners) counts as
the lowest value, and is no part of any statistic.
"""

from __future__ import annotations

import numpy as np

# Level and width in Hounsfield units, as they are usual in reading CT.
WINDOWS = {
    "lung": (-600.0, 1500.0),
    "soft": (50.0, 400.0),
    "brain": (40.0, 80.0),
    "bone": (400.0, 1800.0),
}
LOWEST, HIGHEST = 0.5, 99.5  # percentiles
DEVIATIONS = 3.0  # of a z-score, to each side, that are told apart
METHODS = ("percentile", "zscore", "range", *WINDOWS)


def to_uint8(
    values: np.ndarray, method: str | tuple[float, float], mask: np.ndarray | None = None
) -> np.ndarray:
    """Values of any shape and real dtype -> uint8 of that shape.

    Args:
      method: "percentile" (0.5 to 99.5 of the values), "zscore" (three deviations to each side of
        the mean), "range" (lowest to highest), a window's name in Hounsfield units ("lung",
        "soft", "brain", "bone"), or a window's level and width.
      mask: bool, of the same shape: which values the statistics are of; all by default.

    Raises ValueError for an unknown method, a window without width, or no value to be scaled by.

    >>> to_uint8(np.array([-100.0, 50.0, 1000.0]), (50.0, 100.0))
    array([  0, 128, 255], dtype=uint8)
    """
    finite = np.isfinite(values)
    return between(values, *limits(values[finite if mask is None else finite & mask], method))


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values of any shape -> uint8: 0 at `low` and below and where there is no number, 255 at
    `high` and above.

    >>> between(np.array([-1.0, 0.5, np.nan]), 0.0, 1.0)
    array([  0, 128,   0], dtype=uint8)
    """
    values = np.where(np.isfinite(values), values, low).astype(np.float64)
    scaled = (np.clip(values, low, high) - low) / max(high - low, 1e-12)
    return np.asarray((scaled * 255).round(), np.uint8)


def limits(values: np.ndarray, method: str | tuple[float, float]) -> tuple[float, float]:
    """What becomes 0 and 255, from the values [n] that the statistics are of."""
    if not isinstance(method, str) or method in WINDOWS:
        level, width = WINDOWS[method] if isinstance(method, str) else method
        if width <= 0:
            raise ValueError(f"a window's width must be > 0, got {width}")
        return level - width / 2, level + width / 2
    if method not in METHODS:
        raise ValueError(f"no intensity method {method!r}; there are {', '.join(METHODS)}")
    if not values.size:
        raise ValueError("there is no value to scale by: all are outside the mask or no numbers")
    if method == "range":
        return float(values.min()), float(values.max())
    if method == "zscore":
        mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return mean - DEVIATIONS * deviation, mean + DEVIATIONS * deviation
    low, high = np.percentile(values, (LOWEST, HIGHEST))
    # Where nearly all is background, its percentiles are all there is: take the range.
    return (float(low), float(high)) if high > low else (float(values.min()), float(values.max()))
