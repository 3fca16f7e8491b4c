"""Which lesion an image shows, if any, and where: images told by maps, or told whole.

Labels are maps: 0 where there is nothing, k where the lesion of the episode's k-th type is. An
image's answer is 0 for none and else its type. Logits are of (nothing, first type, ...), of each
pixel [E, n, *spatial, 1 + types] or of each image [E, n, 1 + types]. An episode's ways are the
types and, last, none.

By a map an image is taken for the type of which most pixels are marked, and for none where fewer
than `LEAST` are marked. One with a logit that is not finite counts as told wrong.
"""

from __future__ import annotations

import numpy as np

from medmeta_jax.metrics.classification import confusion, episode_scores
from medmeta_jax.metrics.segmentation import overlap_scores

LEAST = 4  # pixels, as few as an image must show to be one of a lesion (`data/structures.LEAST`)


def answers(logits: np.ndarray, axes: int) -> np.ndarray:
    """What each image is taken for: [E, n]; `axes` is how many its map has.

    >>> answers(np.array([[[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]]), 2)
    array([[1, 0]])
    """
    told = logits.argmax(-1)
    if logits.ndim == 3:  # of whole images
        return told
    spatial = tuple(range(2, 2 + axes))
    counts = np.stack([(told == k).sum(spatial) for k in range(1, logits.shape[-1])], -1)
    return np.where(counts.sum(-1) >= LEAST, counts.argmax(-1) + 1, 0)


def read_lesions(
    logits: np.ndarray, y: np.ndarray, mask: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """told [E, n, 2], truth [E, n], mask, classes: what each image is taken for, and the Dice of
    what is marked in it as whatever type, NaN where whole images are told; what it shows."""
    within = tuple(range(2, logits.ndim))
    truth = y.max(tuple(range(2, y.ndim)))
    finite = np.isfinite(logits).all(within)
    guess = np.where(finite, answers(logits, y.ndim - 2), (truth + 1) % logits.shape[-1])
    dice = np.full(guess.shape, np.nan)
    if logits.ndim > 3:
        marked = logits[..., 1:].max(-1) > logits[..., 0]
        marked &= np.expand_dims(finite, within[:-1])
        dice = overlap_scores(marked, y > 0, mask)["dice"]
    return np.stack([guess, dice], -1), truth, mask, classes


def each_lesion(*read: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each query [N] is told right, and the class that it is of in the pool."""
    told, truth, mask, classes = read
    own = np.take_along_axis(classes, (truth - 1) % classes.shape[1], axis=1)
    return (told[..., 0] == truth)[mask], own[mask]


def image_scores(told: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """The scores [E] of episodes whose images are read.

    "accuracy", "recall" and "f1" are of which lesion, if any, recall and F1 being means over the
    types and none; "presence_accuracy", "presence_recall" (of images with a lesion) and
    "presence_f1" of whether there is one, of whatever type; "dice", where maps were made, the mean
    over the images with a lesion.
    """
    guess = told[..., 0].astype(np.int64)
    found = episode_scores(confusion(guess, truth, mask, int(max(guess.max(), truth.max())) + 1))
    claimed, there = (guess > 0) & mask, (truth > 0) & mask
    hits, count = (claimed & there).sum(1), np.maximum(there.sum(1), 1)
    found |= {
        "presence_accuracy": ((claimed == there) & mask).sum(1) / mask.sum(1),
        "presence_recall": hits / count,
        "presence_f1": 2 * hits / np.maximum(claimed.sum(1) + there.sum(1), 1),
    }
    dice = told[..., 1]
    if not np.isnan(dice[there]).any():
        found["dice"] = np.where(there, dice, 0).sum(1) / count
    return found


def pooled_presence(*read: np.ndarray) -> dict[str, float]:
    """Of all images together: the share of those with a lesion that are taken for one, and of those
    without that are not; NaN where there are none."""
    told, truth, mask, _ = read
    right = (told[..., 0] > 0) == (truth > 0)

    def share(of: np.ndarray) -> float:
        return float(right[of].mean()) if of.any() else float("nan")

    return {
        "presence_sensitivity": share((truth > 0) & mask),
        "presence_specificity": share((truth == 0) & mask),
    }
