"""Objects found in the images of episodes, from logits a pixel: candidates, hits, scores.

A candidate is a connected part of what is marked, which is where the probability is above a half;
its score is the highest probability in it. It hits an object where its centre lies in the object's
box, as in LUNA16 (Setio et al., arXiv 1612.08012); a box that it would have to overlap is not asked
for, since a map tells where objects are and not how far they reach. What hits an object again
counts neither as true nor as false, but in average precision, where it is false, as in PASCAL VOC.

An image is a scan: CPM is the mean sensitivity at 1/8 to 8 false positives an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medmeta_jax.metrics.detection import AGAIN, FALSE, Matched, candidates, in_box, match
from medmeta_jax.metrics.froc import (
    RATES,
    Findings,
    at_threshold,
    average_precision,
    cpm,
    froc,
    over_scans,
    pool_scans,
    sensitivity_at,
)


def probability_map(logits: np.ndarray) -> np.ndarray:
    """Logits [*spatial, 2] as the probability of what is marked, in float64, in which large ones
    stay apart; 0 where it is a half or less, or not finite.

    >>> probability_map(np.array([[[0.0, 0.0], [0.0, np.nan], [1.0, 0.0]]]))
    array([[0., 0., 0.]])
    """
    with np.errstate(invalid="ignore"):
        above = np.asarray(logits[..., 1], np.float64) - logits[..., 0]
        marked = np.isfinite(above) & (above > 0)
    return np.where(marked, 1 / (1 + np.exp(-np.where(marked, above, 0.0))), 0.0)


def match_image(logits: np.ndarray, boxes: np.ndarray) -> Matched:
    """What the candidates of one image find. logits: [*spatial, 2]; boxes: [M, 2, axes], first
    corner and last in pixels, NaN where there are fewer objects."""
    found = candidates(probability_map(logits))
    there = boxes[~np.isnan(boxes).any((1, 2))]
    return match(found.scores, in_box(found.centres, there))


def match_images(logits: np.ndarray, boxes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`match_image` of every image of episodes: [E, n] of `Matched`, None for padding.

    logits: [E, n, *spatial, 2]; boxes: [E, n, M, 2, axes]; mask: [E, n].
    """
    matched = np.full(mask.shape, None, object)
    for place in zip(*np.nonzero(mask), strict=True):
        matched[place] = match_image(logits[place], boxes[place])
    return matched


def scores_of(scans: list[Matched]) -> dict[str, float]:
    """{"cpm", "ap", "object_recall", "object_precision"} of images that show an object or more.

    Recall and precision are of all candidates; precision is 0 where there are none. "ap" is average
    precision.
    """
    findings = pool_scans(scans)
    strict = [s._replace(found=np.where(s.found == AGAIN, FALSE, s.found)) for s in scans]
    every = at_threshold(findings, 0.0)
    return {
        "cpm": cpm(froc(findings)),
        "ap": average_precision(pool_scans(strict)),
        "object_recall": every["recall"],
        "object_precision": float(np.nan_to_num(every["precision"])),
    }


def object_scores(matched: np.ndarray, boxes: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """`scores_of` each episode's images together: {name: [E]}."""
    del boxes
    each = [scores_of(list(scans[there])) for scans, there in zip(matched, mask, strict=True)]
    return {name: np.asarray([one[name] for one in each]) for name in each[0]}


def pooled_object_scores(
    matched: np.ndarray, boxes: np.ndarray, mask: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    """`scores_of` the images of all episodes together, and "false_positives", those an image."""
    del boxes, classes
    scans = list(matched[mask])
    false = at_threshold(pool_scans(scans), 0.0)["false_positives"]
    return {**scores_of(scans), "false_positives": false}


def curve_over_groups(matched: np.ndarray, mask: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """The FROC curve of all images together: "rates" of false positives an image, "sensitivity" at
    each, their mean "cpm", and its 95% interval "over_groups" when patients are resampled.

    groups: [E, n], what names the patient of each image.
    """
    findings = pool_scans(list(matched[mask]))

    def score(some: Findings) -> float:
        return cpm(froc(some))

    return {
        "rates": list(RATES),
        "sensitivity": sensitivity_at(froc(findings)).tolist(),
        "cpm": score(findings),
        "over_groups": list(over_scans(score, findings, groups=groups[mask])),
    }
