"""What a label is, as a value: the loss, the scores and the columns of a table follow from it.

Told by the labels alone: y [n] int is a class, [n, ways] int are several labels, [n] float is
something that was measured, [n, *spatial] int marks a structure, or lesions of several types, and
[n, M, 2, axes] float are the corners of objects, which are learned as marks and told apart when
they are judged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.losses import (
    accuracy,
    balanced_binary_cross_entropy,
    cross_entropy,
    dice,
    dice_and_cross_entropy,
    explained,
    gentle_squared_error,
    label_accuracy,
    lesion_accuracy,
    ranked_probability,
)
from medmeta_jax.metrics.classification import confusion, episode_scores
from medmeta_jax.metrics.intervals import episode_means
from medmeta_jax.metrics.lesions import (
    LEAST,
    each_lesion,
    image_scores,
    pooled_presence,
    read_lesions,
)
from medmeta_jax.metrics.multi_label import label_scores, pooled_label_scores, sigmoid
from medmeta_jax.metrics.objects import match_images, object_scores, pooled_object_scores
from medmeta_jax.metrics.pooled import pooled_scores, softmax
from medmeta_jax.metrics.segmentation import (
    each_image,
    lesion_scores,
    overlap_scores,
    surface_scores,
)
from medmeta_jax.metrics.values import errors, pooled_value_scores, value_scores
from medmeta_jax.types import Array, Loss, MetaLearner
from medmeta_jax.whole_images import of_whole_images


def as_they_are(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """What is scored is what was predicted."""
    return arrays


def nothing_more(*arrays: np.ndarray) -> dict[str, np.ndarray]:
    """All scores are quick."""
    del arrays
    return {}


def as_it_is(learner: MetaLearner, outputs: int) -> MetaLearner:
    """A learner is told of labels as they are."""
    del outputs
    return learner


class Kind(NamedTuple):
    """What follows from what a label is.

    name: in words. loss: of every learner. score: (logits, y, mask) -> scalar of an episode in
    training, higher is better.
    columns: the scores of a table, of which the first is what rows are compared by.
    chosen_by: the score that settings and checkpoints are chosen by.
    each: logits, y, mask, classes of episodes on the host -> that first score of every query
        [N], and the class that it is of [N].
    by_episode: (logits, y, mask) -> scores [E] by name.
    pooled: (logits, y, mask, classes) -> scores of all predictions together, by name.
    read: logits, y, mask, classes -> what the three above are of in their place; the same four, or
        with what was found in place of logits, and of y.
    score_is: what `score` is called, where that is not the first of the columns.
    more: (logits, y, mask) -> further scores [E] of a table, by name, by which nothing is chosen
        and which take longer than those of `by_episode`.
    told: (learner, its number of outputs) -> the learner as it is told of such labels.
    """

    name: str
    loss: Loss
    score: Callable[[Array, Array, Array], Array]
    columns: tuple[str, ...]
    chosen_by: str
    each: Callable[..., tuple[np.ndarray, np.ndarray]]
    by_episode: Callable[..., dict[str, np.ndarray]]
    pooled: Callable[..., dict[str, float]]
    read: Callable[..., tuple[Any, ...]] = as_they_are
    score_is: str = ""
    more: Callable[..., dict[str, np.ndarray]] = nothing_more
    told: Callable[[MetaLearner, int], MetaLearner] = as_it_is

    @property
    def in_training(self) -> str:
        """The name of the score of a training step."""
        return self.score_is or self.columns[0]


def guesses(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The way [E, n] each query image is taken for; a wrong one where a logit is not finite."""
    finite = np.isfinite(logits).all(-1)
    wrong = (y + 1) % logits.shape[-1]
    return np.where(finite, logits.argmax(-1), wrong)


def each_class(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each query is taken for its class, and the class."""
    logits, y, mask, classes = arrays
    return (guesses(logits, y) == y)[mask], np.take_along_axis(classes, y, axis=1)[mask]


def class_scores(logits: np.ndarray, y: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, macro recall and macro F1 of each episode."""
    return episode_scores(confusion(guesses(logits, y), y, mask, logits.shape[-1]))


def each_label(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each label of each query is told at a probability of a half, and the label."""
    logits, y, mask, classes = arrays
    correct = (sigmoid(logits) >= 0.5) == (y > 0)
    return correct[mask].ravel(), np.broadcast_to(classes[:, None], y.shape)[mask].ravel()


def each_value(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 - the squared error of each query, and what it is a value of."""
    logits, y, mask, classes = arrays
    return (1 - errors(logits, y) ** 2)[mask], np.broadcast_to(classes, y.shape)[mask]


def marked(logits: np.ndarray) -> np.ndarray:
    """What is marked [E, n, *spatial] by logits [..., 1 + kinds], as whatever kind; nothing where
    they are not finite."""
    return np.asarray(logits[..., 1:].max(-1) > logits[..., 0])


def each_mask(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Dice of each query, and its structure."""
    logits, y, mask, classes = arrays
    found = overlap_scores(marked(logits), y > 0, mask)["dice"]
    return found[mask], np.broadcast_to(classes[:, :1], mask.shape)[mask]


def mask_scores(logits: np.ndarray, y: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Means over an episode's images of how far masks overlap."""
    scores = overlap_scores(marked(logits), y > 0, mask)
    return {name: episode_means(values, mask) for name, values in scores.items()}


def shape_scores(logits: np.ndarray, y: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Means over an episode's images of surfaces and of lesions; "hd95" as a share of the image's
    diagonal."""
    told, true = marked(logits), y > 0
    diagonal = float(np.linalg.norm(y.shape[2:]))
    far = each_image(surface_scores, mask, told, true)["hd95"] / diagonal
    lesions = each_image(functools.partial(lesion_scores, distances=False), mask, told, true)
    scores = {"hd95": far, **lesions}
    return {name: episode_means(values, mask) for name, values in scores.items()}


def pooled_mask_scores(logits: np.ndarray, y: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Of the pixels of all images together."""
    told, true = marked(logits)[mask], y[mask] > 0
    both = int((told & true).sum())
    return {
        "pixel_dice": 2 * both / max(int(told.sum() + true.sum()), 1),
        "pixel_sensitivity": both / max(int(true.sum()), 1),
        "pixel_precision": both / max(int(told.sum()), 1),
    }


CLASSES = Kind(
    "classes", cross_entropy, accuracy, ("accuracy", "recall", "f1"), "accuracy",
    each_class, class_scores,
    lambda logits, *rest: pooled_scores(softmax(logits), *rest),
)  # fmt: skip
GRADES = CLASSES._replace(name="grades", loss=ranked_probability)
SEVERAL = Kind(
    "several labels", balanced_binary_cross_entropy, label_accuracy, ("accuracy", "recall", "f1"),
    "auroc", each_label,
    lambda logits, *rest: label_scores(sigmoid(logits), *rest),
    lambda logits, *rest: pooled_label_scores(sigmoid(logits), *rest),
)  # fmt: skip
VALUES = Kind(
    "values", gentle_squared_error, explained, ("r2", "error", "correlation"), "r2",
    each_value, value_scores,
    lambda logits, y, mask, classes: pooled_value_scores(logits, y, mask),
)  # fmt: skip


MASKS = Kind(
    "masks", dice_and_cross_entropy, dice,
    ("dice", "iou", "hd95", "lesion_dice", "lesion_recall"), "dice",
    each_mask, mask_scores,
    lambda logits, y, mask, classes: pooled_mask_scores(logits, y, mask),
    more=shape_scores,
)  # fmt: skip


def matched_objects(*arrays: np.ndarray) -> tuple[Any, ...]:
    """Predictions with what each image's candidates find in place of logits."""
    logits, boxes, mask, classes = arrays
    return match_images(logits, boxes, mask), boxes, mask, classes


def each_episode(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The CPM of each episode, since a curve is of several images, and its kind of object."""
    matched, boxes, mask, classes = arrays
    return object_scores(matched, boxes, mask)["cpm"], classes[:, 0]


OBJECTS = Kind(
    "objects", dice_and_cross_entropy, dice, ("cpm", "ap", "object_recall", "object_precision"),
    "cpm", each_episode, object_scores, pooled_object_scores, matched_objects, "dice",
)  # fmt: skip

LESIONS = Kind(
    "lesions", dice_and_cross_entropy, functools.partial(lesion_accuracy, least=LEAST),
    ("accuracy", "recall", "f1", "dice"), "accuracy",
    each_lesion, image_scores, pooled_presence, read_lesions,
)  # fmt: skip
# The same, for a learner that has one prediction an image.
LESIONS_OF_IMAGES = LESIONS._replace(loss=cross_entropy, told=of_whole_images)

OF_PIXELS = (MASKS, OBJECTS)  # a learner predicts two logits a pixel
OF_LESIONS = (LESIONS, LESIONS_OF_IMAGES)
OF_ONE_WAY = (VALUES, *OF_PIXELS)  # an episode is of one value, structure or kind of object


def kind_of(y: np.ndarray, classes: np.ndarray) -> Kind:
    """What the labels of episodes [E, n, ...] of some classes [E, ways] are.

    >>> one, five = np.zeros((2, 1), np.int32), np.zeros((2, 5), np.int32)
    >>> kind_of(five, five).name, kind_of(five.astype(np.float32), one).name
    ('classes', 'values')
    """
    if y.dtype.kind == "f":
        return VALUES if y.ndim == 2 else OBJECTS
    if y.ndim > 3:
        return MASKS if classes.shape[1] == 1 else LESIONS
    return SEVERAL if y.ndim == 3 else CLASSES


def kind_of_pool(pool: Any, *, ordered: bool = False) -> Kind:
    """What the labels of a pool's images are; `ordered` says that classes are grades."""
    if pool.boxes is not None:
        return OBJECTS
    if pool.masks is not None:
        return LESIONS if pool.marks is None else MASKS
    if pool.values is not None:
        return VALUES
    if pool.shown is not None:
        return SEVERAL
    return GRADES if ordered else CLASSES
