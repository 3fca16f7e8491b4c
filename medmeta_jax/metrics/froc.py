"""How well lesions are found over scans: FROC curves, CPM, average precision, and intervals.

`pool_scans` joins the matches of scans (`detection.match`); all else is of what it gives.

A FROC curve is sensitivity against false positives a scan, at all thresholds, from (0, 0) on and
joined by straight lines, as in LUNA16 (Setio et al., arXiv 1612.08012); beyond its last point
the sensitivity is held. Equal scores stand together: no point of a curve lies between them.
Average precision is PASCAL VOC's (Everingham et al., IJCV 2015) over all points: the area under
the precision-recall curve, each precision raised to the highest at that recall or more.
Sensitivity and average precision are NaN where no scan has a lesion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from medmeta_jax.metrics.detection import AGAIN, Matched

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a scan, for CPM


class Findings(NamedTuple):
    """All scans' candidates but those that hit again, the highest score first.

    scores, hits, scan: [k]. lesions: [S], in each scan. times: [S], how often a scan counts:
    once, or as often as a bootstrap drew it.
    """

    scores: np.ndarray
    hits: np.ndarray
    scan: np.ndarray
    lesions: np.ndarray
    times: np.ndarray


class Curve(NamedTuple):
    """thresholds, sensitivity and false positives a scan, each [points], from (0, 0) on."""

    thresholds: np.ndarray
    sensitivity: np.ndarray
    false_positives: np.ndarray


def pool_scans(scans: Sequence[Matched]) -> Findings:
    """The candidates of all scans, those without any, or without a lesion, among them."""
    if not scans:
        raise ValueError("there must be one scan or more")
    scores = np.concatenate([scan.scores for scan in scans])
    found = np.concatenate([scan.found for scan in scans])
    of_scan = np.repeat(np.arange(len(scans)), [len(scan.scores) for scan in scans])
    order = np.argsort(-scores, kind="stable")
    order = order[found[order] != AGAIN]
    lesions = np.asarray([scan.lesions for scan in scans], np.int64)
    return Findings(
        scores[order], found[order] >= 0, of_scan[order], lesions, np.ones_like(lesions)
    )


def _counts(findings: Findings) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Thresholds, true and false positives at each, and the lesions there are."""
    ends = np.flatnonzero(np.diff(findings.scores, append=np.nan) != 0)  # of runs of equal scores
    times = findings.times[findings.scan]
    true, both = np.cumsum(times * findings.hits)[ends], np.cumsum(times)[ends]
    return findings.scores[ends], true, both - true, int(findings.times @ findings.lesions)


def froc(findings: Findings) -> Curve:
    """Sensitivity against false positives a scan, at every score that occurs as a threshold.

    >>> from medmeta_jax.metrics.detection import match
    >>> one = match(np.array([0.9, 0.5]), np.array([[0.0], [1.0]]))
    >>> froc(pool_scans([one]))
    Curve(thresholds=array([inf, 0.9, 0.5]), sensitivity=array([0., 0., 1.]),
          false_positives=array([0., 1., 1.]))
    """
    thresholds, true, false, lesions = _counts(findings)
    return Curve(
        np.append(np.inf, thresholds),
        np.append(0, true) / lesions if lesions else np.full(len(true) + 1, np.nan),
        np.append(0, false) / findings.times.sum(),
    )


def sensitivity_at(curve: Curve, rates: Sequence[float] = RATES) -> np.ndarray:
    """Sensitivity at rates of false positives a scan, on the curve's straight lines; the highest
    where it rises at that very rate, and the last beyond its end."""
    wanted, x, y = np.asarray(rates, np.float64), curve.false_positives, curve.sensitivity
    if not (wanted >= 0).all():
        raise ValueError(f"rates must be >= 0, got {rates}")
    after = np.searchsorted(x, wanted, side="right")
    before, after = after - 1, np.minimum(after, len(x) - 1)
    gap = np.where(after > before, x[after] - x[before], 1)
    sensitivity: np.ndarray = y[before] + (wanted - x[before]) / gap * (y[after] - y[before])
    return sensitivity


def cpm(curve: Curve) -> float:
    """LUNA16's competition metric: mean sensitivity at `RATES` of false positives a scan.

    >>> cpm(Curve(np.array([np.inf, 0.5]), np.array([0.0, 1.0]), np.array([0.0, 0.0])))
    1.0
    """
    return float(sensitivity_at(curve).mean())


def at_threshold(findings: Findings, threshold: float) -> dict[str, float]:
    """{"precision", "recall", "false_positives"} of lesions, where candidates of at least that
    score are taken; precision is NaN where none is, and false positives are those a scan."""
    taken = findings.scores >= threshold
    times = findings.times[findings.scan]
    true, told = int(times[taken] @ findings.hits[taken]), int(times[taken].sum())
    lesions = int(findings.times @ findings.lesions)
    return {
        "precision": true / told if told else float("nan"),
        "recall": true / lesions if lesions else float("nan"),
        "false_positives": float((told - true) / findings.times.sum()),
    }


def average_precision(findings: Findings) -> float:
    """PASCAL VOC's, over all points; of scans matched with again="false", to be VOC's own.

    >>> from medmeta_jax.metrics.detection import match
    >>> one = match(np.array([0.9, 0.5]), np.array([[0.0], [1.0]]), again="false")
    >>> average_precision(pool_scans([one]))
    0.5
    """
    _, true, false, lesions = _counts(findings)
    if not lesions:
        return float("nan")
    precision = true / np.maximum(true + false, 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.diff(np.append(0, true)) @ highest / lesions)


def over_scans(
    statistic: Callable[[Findings], float],
    findings: Findings,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% bootstrap interval of a statistic when whole scans are resampled, as LUNA16 does.

    Resamples that tell nothing (NaN: no lesion among them) are left out; both ends are NaN where
    all are.

    groups: [S], what names each scan's patient: all scans of one are then drawn together.

    >>> from medmeta_jax.metrics.detection import match
    >>> scans = [match(np.array([0.9]), np.array([[overlap]])) for overlap in (0.0, 1.0, 1.0, 1.0)]
    >>> over_scans(lambda some: at_threshold(some, 0.5)["recall"], pool_scans(scans))
    (0.25, 1.0)
    """
    scans = len(findings.lesions)
    if resamples < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    if groups is not None and np.shape(groups) != (scans,):
        raise ValueError(f"groups must be one for each of {scans} scans, got {np.shape(groups)}")
    known, place = np.unique(np.arange(scans) if groups is None else groups, return_inverse=True)
    draws = np.random.default_rng(seed).integers(len(known), size=(resamples, len(known)))
    times = [np.bincount(draw, minlength=len(known))[place] for draw in draws]
    values = np.asarray([statistic(findings._replace(times=one)) for one in times])
    told = values[~np.isnan(values)]
    low, high = np.quantile(told, [0.025, 0.975]) if len(told) else (np.nan, np.nan)
    return float(low), float(high)
