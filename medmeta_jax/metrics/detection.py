"""Lesions found in a scan: candidates from a probability map, and what they hit.

The way of a scan is `candidates` (or a detector's own boxes or points, and `suppress_boxes` or
`suppress_points`), then the overlap [k, L] of candidates with lesions (`in_mask`, `in_radius`,
`in_box` or `box_iou`), then `match`. Scores over scans are in `froc.py`.

The rules are LUNA16's (Setio et al., arXiv 1612.08012): a candidate whose centre lies in a lesion
finds it; a lesion is found once, by the highest score, and what hits it again counts neither as
true nor as false. For boxes PASCAL VOC's (Everingham et al., IJCV 2015) may be taken, by which
what hits a box again is false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from medmeta_jax.metrics.segmentation import pixel_size

FALSE, AGAIN = -1, -2  # in place of the lesion that a candidate finds


class Candidates(NamedTuple):
    """Candidates of one scan, the highest score first.

    scores: [k]. centres: [k, axes], in pixels, the first pixel's centre being 0. boxes:
    [k, 2, axes], first corner and last, in pixels, the last not within. sizes: [k] pixels.
    """

    scores: np.ndarray
    centres: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray


class Matched(NamedTuple):
    """scores [k], the lesion [k] that each candidate finds (or `FALSE`, `AGAIN`), and how many
    lesions the scan has."""

    scores: np.ndarray
    found: np.ndarray
    lesions: int


def candidates(
    probability: np.ndarray, threshold: float = 0.5, min_size: int = 1, *, score: str = "max"
) -> Candidates:
    """The connected parts of a map [*spatial] that are at least `threshold` everywhere.

    Pixels that share a corner are connected. A part's centre is the mean of its pixels' places
    weighted by their probabilities. NaN is no lesion: a model that diverged has found nothing.

    Args:
      threshold: > 0 and <= 1.
      min_size: in pixels, >= 1; smaller parts are left out.
      score: "max" or "mean", of the probabilities in the part.

    >>> found = candidates(np.array([[0.9, 0.6, 0.1, 0.7]]))
    >>> found.scores, found.centres[:, 1]
    (array([0.9, 0.7]), array([0.4, 3. ]))
    """
    from scipy.ndimage import find_objects, generate_binary_structure, label

    probability = np.asarray(probability)
    axes = probability.ndim
    if axes not in (2, 3):
        raise ValueError(f"probability must be a 2-D or 3-D map, got shape {probability.shape}")
    if min_size < 1:
        raise ValueError(f"min_size must be >= 1, got {min_size}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be > 0 and <= 1, got {threshold}")
    if score not in ("max", "mean"):
        raise ValueError(f"score must be max or mean, got {score!r}")
    if (probability < 0).any() or (probability > 1).any():
        raise ValueError("probabilities must be >= 0 and <= 1; logits need a sigmoid first")
    parts, count = label(probability >= threshold, generate_binary_structure(axes, axes))
    places = np.nonzero(parts)
    own, p = parts[places] - 1, probability[places].astype(np.float64)
    sizes, total = np.bincount(own, minlength=count), np.bincount(own, p, count)
    centres = [np.bincount(own, p * place, count) / total for place in places]
    highest = np.zeros(count)
    np.maximum.at(highest, own, p)
    scores = highest if score == "max" else total / sizes
    corners = [[(s.start, s.stop) for s in box] for box in find_objects(parts)]
    boxes = np.asarray(corners, np.float64).reshape(count, axes, 2).swapaxes(1, 2)
    order = np.argsort(-scores, kind="stable")
    order = order[sizes[order] >= min_size]
    return Candidates(scores[order], np.stack(centres, -1)[order], boxes[order], sizes[order])


def _checked(name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array in float64, if finite and of that shape (None: any length)."""
    found = np.asarray(array, np.float64)
    fits = len(shape) == found.ndim and all(
        n is None or n == m for n, m in zip(shape, found.shape, strict=True)
    )
    if not fits or not np.isfinite(found).all():
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must be finite and [{wanted}], got shape {found.shape}")
    return found


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union [k, L] of boxes [k, 2, axes] and [L, 2, axes] (first corner, last).

    >>> box_iou(np.array([[[0, 0], [2, 2]]]), np.array([[[0, 1], [2, 3]]])).round(2)
    array([[0.33]])
    """
    a = _checked("boxes", boxes, (None, 2, None))
    b = _checked("others", others, (None, 2, a.shape[2]))
    for name, one in (("boxes", a), ("others", b)):
        if not (one[:, 0] < one[:, 1]).all():
            raise ValueError(f"{name} must have their first corner below their last")
    low = np.maximum(a[:, None, 0], b[None, :, 0])
    high = np.minimum(a[:, None, 1], b[None, :, 1])
    common = np.maximum(high - low, 0).prod(-1)
    volume_a, volume_b = ((one[:, 1] - one[:, 0]).prod(-1) for one in (a, b))
    iou: np.ndarray = common / (volume_a[:, None] + volume_b - common)
    return iou


def _best_apart(scores: np.ndarray, near: Callable[[int], np.ndarray]) -> np.ndarray:
    """Places in falling order of score, each not near any before it that is kept."""
    scores = _checked("scores", scores, (None,))
    kept: list[int] = []
    left = np.ones(len(scores), bool)
    for place in np.argsort(-scores, kind="stable"):
        if left[place]:
            kept.append(place)
            left[near(place)] = False
    return np.asarray(kept, np.int64)


def suppress_boxes(boxes: np.ndarray, scores: np.ndarray, iou: float = 0.5) -> np.ndarray:
    """Which boxes [k, 2, axes] to keep, the highest score first: those that overlap none kept
    before by more than `iou`.

    >>> boxes = np.array([[[0], [4]], [[1], [5]], [[8], [9]]])
    >>> suppress_boxes(boxes, np.array([0.5, 0.9, 0.1]))
    array([1, 2])
    """
    if not 0 <= iou <= 1:
        raise ValueError(f"iou must be >= 0 and <= 1, got {iou}")
    boxes = _checked("boxes", boxes, (len(scores), 2, None))
    return _best_apart(scores, lambda place: box_iou(boxes[place][None], boxes)[0] > iou)


def suppress_points(
    centres: np.ndarray,
    scores: np.ndarray,
    distance: float,
    spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """Which centres [k, axes] to keep, the highest score first: those with none kept before
    nearer than `distance` (mm, or pixels where no spacing is given).

    >>> suppress_points(np.array([[0.0], [1.0], [3.0]]), np.array([0.5, 0.9, 0.1]), 2.0)
    array([1, 2])
    """
    if not distance > 0:
        raise ValueError(f"distance must be > 0, got {distance}")
    centres = _checked("centres", centres, (len(scores), None))
    centres = centres * pixel_size(spacing, centres.shape[1])
    return _best_apart(
        scores, lambda place: np.linalg.norm(centres - centres[place], axis=1) < distance
    )


def in_mask(centres: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Overlap [k, L] of centres [k, axes] in pixels with a map [*spatial] of 0 and each lesion's
    own label: 1 where the pixel that a centre lies in is of the lesion, else 0.

    The lesions are in the order of their labels. The centre of a ring or a sickle may lie outside
    it, and then finds nothing.

    >>> in_mask(np.array([[0.0, 0.4], [0.0, 2.0]]), np.array([[7, 0, 3]]))
    array([[0., 1.], [1., 0.]])
    """
    lesions = np.asarray(lesions)
    if lesions.dtype.kind not in "iu" or (lesions < 0).any():
        raise ValueError(
            "lesions must be a map of whole numbers, 0 and each lesion's own; "
            "scipy.ndimage.label makes one of a mask"
        )
    centres = _checked("centres", centres, (None, lesions.ndim))
    framed = np.pad(lesions, 1)  # what lies outside the map falls on its frame
    place = np.clip(np.floor(centres + 1.5), 0, np.asarray(framed.shape) - 1).astype(np.int64)
    label = framed[tuple(place.T)]
    return (label[:, None] == np.unique(lesions[lesions > 0])).astype(np.float64)


def in_radius(
    centres: np.ndarray,
    lesions: np.ndarray,
    radii: np.ndarray,
    spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """Overlap [k, L] of centres [k, axes] with balls about lesions [L, axes]: 1 at a ball's
    centre, falling evenly to 0 at its radius [L], which is no hit, as in LUNA16's code.

    radii: in mm where a spacing is given; centres and lesions are in pixels then.

    >>> in_radius(np.array([[0.0, 1.0], [0.0, 2.0]]), np.zeros((1, 2)), np.array([2.0]))
    array([[0.5],
           [0. ]])
    """
    centres = _checked("centres", centres, (None, None))
    lesions = _checked("lesions", lesions, (None, centres.shape[1]))
    radii = _checked("radii", radii, (len(lesions),))
    if not (radii > 0).all():
        raise ValueError("radii must be > 0")
    steps = pixel_size(spacing, centres.shape[1])
    far = np.linalg.norm((centres[:, None] - lesions) * steps, axis=-1)
    return np.maximum(1 - far / radii, 0)


def in_box(centres: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Overlap [k, L] of centres [k, axes] with boxes [L, 2, axes] (first corner, last): 1 at a
    box's centre, falling evenly to 0 at its sides, which is no hit.

    Both in pixels as `Candidates` has them: a centre of 0 is the middle of the first pixel, whose
    box is from 0 to 1.

    >>> in_box(np.array([[0.0, 1.0], [0.0, 1.5]]), np.array([[[0, 0], [1, 3]], [[0, 2], [1, 4]]]))
    array([[1.        , 0.        ],
           [0.66666667, 0.        ]])
    """
    boxes = _checked("boxes", boxes, (None, 2, None))
    centres = _checked("centres", centres, (None, boxes.shape[2]))
    half = (boxes[:, 1] - boxes[:, 0]) / 2
    if not (half > 0).all():
        raise ValueError("boxes must have their first corner below their last")
    off = np.abs(centres[:, None] + 0.5 - boxes.mean(1)) / half
    return np.maximum(1 - off.max(-1), 0)


def match(
    scores: np.ndarray, overlap: np.ndarray, least: float = 0.0, *, again: str = "ignored"
) -> Matched:
    """Which lesion of its scan each candidate finds, the highest score first.

    Args:
      scores: [k], finite.
      overlap: [k, L], of `in_mask`, `in_radius`, `in_box` or `box_iou`; 0 is never a hit.
      least: the overlap of a hit; for boxes, 0.5 is usual.
      again: what becomes of a candidate whose lesion is found. "ignored" (LUNA16): it finds the
        one that it overlaps most of those not yet found, and counts for nothing where it hits
        found ones only (LUNA16 lets a candidate in two lesions find both; here it is one).
        "false" (VOC): it is of the lesion that it overlaps most, and false where that is found.

    >>> match(np.array([0.2, 0.9, 0.5]), np.array([[1.0], [1.0], [0.0]])).found
    array([-2,  0, -1])
    """
    scores = _checked("scores", scores, (None,))
    overlap = _checked("overlap", overlap, (len(scores), None))
    if again not in ("ignored", "false"):
        raise ValueError(f"again must be ignored or false, got {again!r}")
    reached = np.where(overlap >= least, overlap, 0.0)
    found, left = np.full(len(scores), FALSE), np.ones(overlap.shape[1], bool)
    order = np.argsort(-scores, kind="stable")
    for place in order[(reached[order] > 0).any(1)]:
        open_to_it = np.where(left, reached[place], 0.0) if again == "ignored" else reached[place]
        lesion = np.argmax(open_to_it)
        if left[lesion] and open_to_it[lesion] > 0:
            found[place], left[lesion] = lesion, False
        elif again == "ignored":
            found[place] = AGAIN
    return Matched(scores, found, overlap.shape[1])
