"""Scores of masks: pixels, surfaces and lesions; a value for each image, and means of them.

Masks are bool, or 0 and 1: [E, n, *spatial] for a batch of episodes, [*spatial] for one image,
spatial being 2 or 3 axes. Spacing is in mm a pixel along each axis, 1 where it is not given.

Where both masks are empty, shares (Dice, IoU, sensitivity, precision, recall) are 1 and distances
0. Where one is, shares are 0, also the sensitivity to a truth that is not there, and distances
are the image's diagonal in mm, which no distance within it exceeds: no image drops out of a mean.
BraTS 2023 does so too, with 374 mm, the diagonal of its 240 x 240 x 155 images rounded up.

Surfaces are the pixels of a mask that share a face with a pixel outside it, and beyond the
image's border is outside; distances are between centres. HD95 is the larger of both directed
95th percentiles (interpolated linearly), and the average symmetric surface distance is the mean
over the pixels of both surfaces, as in Metrics Reloaded (Maier-Hein et al., arXiv 2206.01653) and,
for HD95, MONAI. MedPy pools both directions before the percentile, which gives another figure.

Lesions are after BraTS 2023 (Moawad et al., arXiv 2306.00838). Truth is dilated, and what is
connected then is one lesion, whose pixels stay those of the truth. A component of the prediction
belongs to every lesion whose dilation it touches, and a lesion is scored against all that belongs
to it. Lesions that nothing touches, and components that touch no lesion, have Dice 0 and the worst
distance; the mean is over lesions and such components together. Pixels that share a corner are
connected; dilation is by 18 neighbours in 3-D and 8 in 2-D. The surfaces are those above, not
weighted by area as BraTS has them, so that its HD95 is not the same to the digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

PERCENTILE = 95.0


def _binary(name: str, array: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """The array as bool; what is not kept [E, n] may hold anything."""
    array = np.asarray(array)
    if array.dtype == bool:
        return array
    values = array if kept is None else array[kept]
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(f"{name} must be bool, or 0 and 1; threshold it, or pick a class, first")
    return array == 1


def _share(part: Any, whole: Any, nothing: Any) -> np.ndarray:
    """part / whole; where there is no whole, 1 if there is nothing at all and else 0."""
    return np.where(np.greater(whole, 0), part / np.maximum(whole, 1), nothing)


def overlap_scores(
    prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """{"dice", "iou", "sensitivity", "precision"}, each [E, n], of masks [E, n, *spatial].

    mask: [E, n] bool; NaN is given for padding, which may hold anything.

    >>> truth = np.array([[[[1, 1], [0, 0]]]])
    >>> found = overlap_scores(np.array([[[[1, 0], [1, 0]]]]), truth, np.ones((1, 1), bool))
    >>> found["dice"], found["iou"].round(2)
    (array([[0.5]]), array([[0.33]]))
    """
    if np.shape(prediction) != np.shape(truth) or np.ndim(truth) not in (4, 5):
        raise ValueError(
            "prediction and truth must both be [E, n, *spatial] with 2 or 3 spatial axes, "
            f"got {np.shape(prediction)} and {np.shape(truth)}"
        )
    if np.shape(mask) != np.shape(truth)[:2]:
        raise ValueError(f"mask must be {np.shape(truth)[:2]}, got {np.shape(mask)}")
    p, t = _binary("prediction", prediction, mask), _binary("truth", truth, mask)
    axes = tuple(range(2, t.ndim))
    told, true, hits = (np.count_nonzero(one, axis=axes) for one in (p, t, p & t))
    nothing = told + true == 0
    found = {
        "dice": _share(2 * hits, told + true, nothing),
        "iou": _share(hits, told + true - hits, nothing),
        "sensitivity": _share(hits, true, nothing),
        "precision": _share(hits, told, nothing),
    }
    return {name: np.where(mask, values, np.nan) for name, values in found.items()}


def class_overlap_scores(
    prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray, classes: Sequence[int]
) -> dict[str, np.ndarray]:
    """As `overlap_scores`, each [E, n, classes], of label maps [E, n, *spatial].

    A class that neither map shows has Dice 1: name only those that an image may show, and the
    background only if it is meant to count.

    >>> maps = np.array([[[[0, 1], [2, 2]]]])
    >>> class_overlap_scores(maps, maps % 2, np.ones((1, 1), bool), [1, 2])["dice"]
    array([[[1., 0.]]])
    """
    if not len(classes):
        raise ValueError("classes must name one label or more")
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if not {prediction.dtype.kind, truth.dtype.kind} <= set("biu"):
        raise ValueError(f"labels must be whole, got {prediction.dtype} and {truth.dtype}")
    each = [overlap_scores(prediction == label, truth == label, mask) for label in classes]
    return {name: np.stack([one[name] for one in each], -1) for name in each[0]}


def pixel_size(spacing: Sequence[float] | None, axes: int) -> np.ndarray:
    """The spacing [axes] in float64: 1 along each axis where none is given."""
    steps = np.ones(axes) if spacing is None else np.asarray(spacing, np.float64)
    if steps.shape != (axes,) or not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(f"spacing must be {axes} numbers > 0, got {spacing}")
    return steps


def _image(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None, worst: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """One image's masks as bool, its spacing, and the distance for what is missed."""
    p, t = _binary("prediction", prediction), _binary("truth", truth)
    if p.shape != t.shape or t.ndim not in (2, 3):
        raise ValueError(
            f"prediction and truth must be of one 2-D or 3-D image, got {p.shape} and {t.shape}"
        )
    steps = pixel_size(spacing, t.ndim)
    if worst is not None and not worst >= 0:
        raise ValueError(f"worst must be >= 0, got {worst}")
    diagonal = float(np.linalg.norm(np.asarray(t.shape) * steps))
    return p, t, steps, diagonal if worst is None else worst


def _hull(boxes: Iterable[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box around boxes."""
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)


def surface_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    worst: float | None = None,
) -> dict[str, float]:
    """{"hd95", "assd"} in mm of one image's masks [*spatial] (see the module).

    worst: the distance where one mask is empty, in place of the image's diagonal.

    >>> line = np.eye(4, dtype=bool)
    >>> surface_scores(line[:1], line[2:3], (1.0, 0.5))
    {'hd95': 1.0, 'assd': 1.0}
    """
    from scipy.ndimage import binary_erosion, find_objects
    from scipy.spatial import KDTree

    p, t, steps, worst = _image(prediction, truth, spacing, worst)
    if not p.any() or not t.any():
        distance = worst if p.any() or t.any() else 0.0
        return {"hd95": distance, "assd": distance}
    box = find_objects((p | t).view(np.int8))[0]
    told, true = (np.argwhere(m & ~binary_erosion(m)) * steps for m in (p[box], t[box]))
    # Trees of the surfaces alone are mostly 3 to 20 times as fast as distance transforms, if they
    # split at the middle: pixels have too many equal coordinates for medians.
    trees = [KDTree(m, balanced_tree=False, compact_nodes=False) for m in (told, true)]
    there, back = trees[1].query(told)[0], trees[0].query(true)[0]
    return {
        "hd95": float(max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE))),
        "assd": float(np.concatenate([there, back]).mean()),
    }


def _touching(
    p: np.ndarray, t: np.ndarray, dilation: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lesions and components, as maps of 0 (none), 1, 2, ...; which lesion which one touches."""
    from scipy.ndimage import binary_dilation, generate_binary_structure, label

    reach, corners = t, generate_binary_structure(t.ndim, t.ndim)
    if dilation:  # SciPy takes 0 iterations to mean without end
        reach = binary_dilation(t, generate_binary_structure(t.ndim, 2), iterations=dilation)
    (lesions, count), (parts, told) = label(reach, corners), label(p, corners)
    touching = np.zeros((count + 1, told + 1), bool)
    touching[lesions[reach & p], parts[reach & p]] = True
    return lesions, parts, touching


def lesion_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    dilation: int = 1,
    larger_than: float = 0.0,
    worst: float | None = None,
    distances: bool = True,
) -> dict[str, float]:
    """{"lesion_dice", "lesion_hd95", "lesion_recall", "lesion_precision"} of one image's masks.

    Recall is the share of lesions that something belongs to; precision is their number beside
    that of the components that touch no lesion. BraTS 2023 has, on images of 1 mm: glioma,
    dilation 3 and larger_than 50; meningioma, 1 and 50; metastases, 1 and 2.

    Args:
      dilation: times that the truth is dilated, by a pixel each; 0 merges nothing.
      larger_than: mm³ (mm² in 2-D) that a lesion must exceed to count. What belongs to one that
        does not is no false positive; a component that touches no lesion is, at any size.
      worst: distance of what is missed or false, in place of the image's diagonal.
      distances: whether "lesion_hd95" is among the scores, which takes most of the time.

    >>> truth = np.array([[1, 0, 0, 0, 1]])
    >>> found = lesion_scores(np.array([[1, 0, 0, 0, 0]]), truth)
    >>> found["lesion_dice"], found["lesion_recall"], found["lesion_precision"]
    (0.5, 0.5, 1.0)
    """
    from scipy.ndimage import find_objects

    if dilation < 0:
        raise ValueError(f"dilation must be >= 0, got {dilation}")
    p, t, steps, worst = _image(prediction, truth, spacing, worst)
    if (p | t).any():  # lesions whose dilations join beyond this box join in it too
        box = find_objects((p | t).view(np.int8))[0]
        p, t = p[box], t[box]
    lesions, parts, touching = _touching(p, t, dilation)
    lesion_boxes, part_boxes = find_objects(lesions), find_objects(parts)
    dice, distance, counted, hits = 0.0, 0.0, 0, 0
    for lesion, touched in enumerate(touching[1:], 1):
        box = _hull([lesion_boxes[lesion - 1], *(part_boxes[i - 1] for i in touched.nonzero()[0])])
        own, taken = t[box] & (lesions[box] == lesion), touched[parts[box]]
        if own.sum() * steps.prod() <= larger_than:
            continue
        counted, hits = counted + 1, hits + bool(touched.any())
        dice += 2 * (own & taken).sum() / (own.sum() + taken.sum())
        if distances:
            distance += surface_scores(taken, own, tuple(steps), worst=worst)["hd95"]
    false = touching.shape[1] - 1 - int(touching.any(0).sum())
    total = counted + false
    far = {"lesion_hd95": float((distance + false * worst) / max(total, 1))} if distances else {}
    return {
        "lesion_dice": float(_share(dice, total, True)),
        **far,
        "lesion_recall": float(_share(hits, counted, total == 0)),
        "lesion_precision": float(_share(hits, hits + false, total == 0)),
    }


def each_image(
    scores: Callable[..., dict[str, float]], mask: np.ndarray, *arrays: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores of every image: {name: [E, n]}, NaN for padding.

    scores: of one image's part of each array [E, n, ...], such as `surface_scores` of
        predictions, truths and, if they differ, spacings [E, n, axes].

    >>> masks = np.ones((1, 2, 4, 3), bool)
    >>> each_image(surface_scores, np.array([[True, False]]), masks, ~masks)["hd95"]
    array([[ 5., nan]])
    """
    if not np.any(mask):
        raise ValueError("there is no image, only padding")
    if any(np.shape(array)[:2] != np.shape(mask) for array in arrays):
        raise ValueError(f"arrays must be [E, n, ...] of mask's {np.shape(mask)}")
    found: dict[str, np.ndarray] = {}
    for place in zip(*np.nonzero(mask), strict=True):
        for name, value in scores(*(array[place] for array in arrays)).items():
            found.setdefault(name, np.full(np.shape(mask), np.nan))[place] = value
    return found
