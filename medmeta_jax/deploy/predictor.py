"""Adapt to a few labelled images, then tell others: compiled for padded sizes, so that the second
task of a process compiles nothing.

    predictor = Predictor(model)
    task = predictor.adapt(images, labels, class_names)
    told = predictor.predict(task, others)

Images are uint8, of the model's size. A task holds arrays and plain values alone, and is saved and
read by `task_file.py`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.deploy.model import Model
from medmeta_jax.metrics.calibration import Calibration, prediction_sets
from medmeta_jax.metrics.pooled import softmax
from medmeta_jax.types import Array, Examples, Params, PyTree

BATCH = 16  # images that are told at once
LEAST_SLOTS = 8  # of a support set; more double


class Task(NamedTuple):
    """An adapted model: all that predicting takes beside the learner.

    adapted: what the learner's `adapt` gave. features: [n, F] of the support's images, and usual,
    the distance of one of them from its nearest other, at the median.
    """

    adapted: PyTree
    class_names: tuple[str, ...]
    features: np.ndarray
    usual: float
    stats: PyTree


class Told(NamedTuple):
    """Of each of N images: probabilities [N, classes], which classes are in its set [N, classes],
    and its distance from the support, 1 being usual there."""

    probabilities: np.ndarray
    sets: np.ndarray
    distance: np.ndarray


def slots(count: int) -> int:
    """The size that a support set of so many images is padded to.

    >>> [slots(count) for count in (1, 8, 9, 40)]
    [8, 8, 16, 64]
    """
    size = LEAST_SLOTS
    while size < count:
        size *= 2
    return size


def padded(x: np.ndarray, size: int) -> tuple[Array, Array]:
    """[n, ...] with zeros up to `size`, and which of them are there."""
    more = np.zeros((size - len(x), *x.shape[1:]), x.dtype)
    return jnp.asarray(np.concatenate([x, more])), jnp.arange(size) < len(x)


class Predictor:
    """A model put to use; see the module."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._adapt = jax.jit(functools.partial(adapted_and_features, model))
        self._predict = jax.jit(functools.partial(logits_and_features, model))

    def scaled(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, *spatial, C] as the network takes them."""
        shift, scale = self.model.scaling
        found: np.ndarray = (images.astype(np.float32) / 255.0 - shift) * scale
        return found

    def adapt(self, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Task:
        """Adapt to labelled images [n, *spatial, C] uint8; labels [n] are places in `names`."""
        size = slots(len(images))
        x, mask = padded(self.scaled(images), size)
        y = padded(labels.astype(np.int32), size)[0]
        adapted, features, stats = self._adapt(self.model.params, Examples(x, y, mask))
        kept = np.asarray(features)[: len(images)]
        return Task(adapted, names, kept, usual_distance(kept), stats)

    def predict(self, task: Task, images: np.ndarray) -> Told:
        """Tell images [n, *spatial, C] uint8."""
        logits: list[np.ndarray] = []
        features: list[np.ndarray] = []
        for first in range(0, len(images), BATCH):
            some = self.scaled(images[first : first + BATCH])
            x, mask = padded(some, BATCH)
            found = self._predict(self.model.params, task.adapted, task.stats, x, mask)
            for kept, part in zip((logits, features), found, strict=True):
                kept.append(np.asarray(part)[: len(some)])
        count = len(task.class_names)
        told = np.concatenate(logits)[:, :count]
        calibration = self.model.calibration or Calibration(1.0, float("inf"), 1.0, (0, 0))
        every = np.arange(count)[None]
        away = nearest(np.concatenate(features), task.features) / task.usual
        return Told(
            softmax(told, calibration.temperature),
            prediction_sets(calibration, told[None], every)[0],
            away,
        )


def body_of(params: Params) -> Params:
    """The backbone's parameters among a learner's, which a learned augmentation wraps."""
    inside = params.get("learner", params)
    return inside["body"]


def flat_features(model: Model, params: Params, x: Array, mask: Array, stats: PyTree) -> Any:
    """([n, F] features of whole images, norm statistics)."""
    features, stats = model.backbone.apply(body_of(params), x, mask, stats)
    return features.reshape(len(features), -1, features.shape[-1]).mean(1), stats


def adapted_and_features(model: Model, params: Params, support: Examples) -> Any:
    """What the learner adapts to, and the support's features with their norm statistics."""
    adapted = model.learner.adapt(params, support, jax.random.key(0))
    features, stats = flat_features(model, params, support.x, support.mask, None)
    return adapted, features, stats


def logits_and_features(
    model: Model, params: Params, adapted: PyTree, stats: PyTree, x: Array, mask: Array
) -> tuple[Array, Array]:
    """The logits and the features of a batch."""
    return (
        model.learner.predict(adapted, x, mask),
        flat_features(model, params, x, mask, stats)[0],
    )


def nearest(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance [n] of each of [n, F] from the nearest of [m, F].

    >>> nearest(np.array([[0.0], [5.0]]), np.array([[1.0], [3.0]]))
    array([1., 2.])
    """
    squares = (features**2).sum(1)[:, None] - 2 * features @ others.T + (others**2).sum(1)
    found: np.ndarray = np.sqrt(np.maximum(squares.min(1), 0))
    return found


def usual_distance(features: np.ndarray) -> float:
    """The median over [n, F] of the distance from the nearest other; 1 where there is none."""
    if len(features) < 2:
        return 1.0
    away = [
        nearest(features[i : i + 1], np.delete(features, i, 0))[0] for i in range(len(features))
    ]
    return float(max(np.median(away), 1e-12))
