"""Adapt to a few labelled images, then tell others: compiled for padded sizes, so that the second
task of a process compiles nothing.

    predictor = Predictor(model)
    task = predictor.adapt(images, labels)
    told = predictor.predict(task, others, ways)

Images are uint8, of the model's size. Of a model of masks, `adapt` takes what is marked in place of
labels, and `mark` tells it of others. `adapted` and `tell` (or `marked`) are the two programs that
are exported (`export.py`); a task is arrays alone, and is saved and read by `task_file.py`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.deploy.artefact import Marked, Told, in_batches, padded, slots, told
from medmeta_jax.deploy.model import Model, image_shape
from medmeta_jax.labels import MASKS
from medmeta_jax.types import Array, Examples, Params, PyTree, clear_padding


class Task(NamedTuple):
    """An adapted model: all that telling takes beside the learner.

    adapted: what the learner's `adapt` gave. features [slots, F] and there [slots]: of the
    support's images, by the adapted body. usual: the distance of one of them from its nearest
    other, at the median.
    """

    adapted: PyTree
    features: Array
    there: Array
    usual: Array


class Predictor:
    """A model put to use; see the module."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._adapt = jax.jit(functools.partial(adapted, model))
        self._tell = jax.jit(functools.partial(program_of(model), model))

    def adapt(self, images: np.ndarray, labels: np.ndarray) -> Task:
        """Adapt to images [n, *spatial, C] uint8, labels [n] from 0, or masks [n, *spatial] that
        are 1 where something is marked."""
        size = slots(len(images))
        there = np.arange(size) < len(images)
        given = padded(images, size), padded(labels.astype(np.int32), size), there
        found: Task = self._adapt(self.model.params, *given)
        return found

    def predict(self, task: Task, images: np.ndarray, ways: int) -> Told:
        """Tell images [n, *spatial, C] uint8 of the first `ways` classes."""
        return told(self._told(task, images), ways)

    def mark(self, task: Task, images: np.ndarray) -> Marked:
        """Tell what is marked in images [n, *spatial, C] uint8, by a model of masks."""
        return Marked(*self._told(task, images))

    def _told(self, task: Task, images: np.ndarray) -> list[np.ndarray]:
        return in_batches(lambda x, there: self._tell(task, x, there), images)

    def programs(self) -> int:
        """How many programs it has compiled: one for each size that it has met."""
        return sum(program._cache_size() for program in (self._adapt, self._tell))  # type: ignore[attr-defined]


def program_of(model: Model) -> Any:
    """What tells images by a model: `tell` or `marked`."""
    return marked if model.kind is MASKS else tell


def body_of(adapted: Any) -> Params | None:
    """The adapted backbone's parameters, which learners keep under one of these names; None where
    there is no backbone, as in `crossblock`."""
    if hasattr(adapted, "body"):
        return adapted.body
    of_learner = adapted.params if hasattr(adapted, "params") else getattr(adapted, "theta", None)
    return None if of_learner is None else of_learner["body"]


def scaled(model: Model, images: Array) -> Array:
    """uint8 [n, *spatial, C] as the network takes them."""
    shift, scale = model.scaling
    return (images.astype(jnp.float32) / 255.0 - shift) * scale


def flat_features(model: Model, adapted: Any, x: Array, there: Array) -> Array:
    """[n, F] features of whole images; not numbers where the learner has no backbone."""
    body = body_of(adapted)
    if body is None:
        return jnp.full((x.shape[0], 1), jnp.nan)
    # Cleared as a learner does it: what both compute by the same arrays is then computed once.
    x = clear_padding(x, there)
    features, _ = model.backbone.apply(body, x, there, adapted.stats)
    return features.reshape(features.shape[0], -1, features.shape[-1]).mean(1)


def adapted(model: Model, params: Params, images: Array, labels: Array, there: Array) -> Task:
    """The task of a support set: images [slots, *spatial, C] uint8, labels [slots] or masks
    [slots, *spatial], there [slots]."""
    x = scaled(model, images)
    found = model.learner.adapt(params, Examples(x, labels, there), jax.random.key(0))
    features = flat_features(model, found, x, there)
    return Task(found, features, there, usual_distance(features, there))


def support_shapes(model: Model, count: int) -> tuple[Any, Any, Any]:
    """The images, labels or masks, and which are there of a support set padded to `count`."""
    of, shape = jax.ShapeDtypeStruct, image_shape(model)
    labels = (count, *shape[:-1]) if model.kind is MASKS else (count,)
    return of((count, *shape), jnp.uint8), of(labels, jnp.int32), of((count,), jnp.bool_)


def shape_of_task(model: Model, count: int) -> Task:
    """What `adapted` makes of a support set padded to `count`, in shapes."""
    given = support_shapes(model, count)
    found: Task = jax.eval_shape(functools.partial(adapted, model), model.params, *given)
    return found


def tell(model: Model, task: Task, images: Array, there: Array) -> tuple[Array, Array, Array]:
    """Images [n, *spatial, C] uint8, of which some are there: the parts of `Told`, with every way
    of the head."""
    x = scaled(model, images)
    logits = model.learner.predict(task.adapted, x, there)
    temperature, quantile = 1.0, np.inf
    if model.calibration is not None:
        temperature, quantile = model.calibration.temperature, model.calibration.quantile
    p = probabilities(logits / temperature)
    # As metrics.calibration.prediction_sets, with the slack of float32.
    return p, 1 - p <= quantile + 1e-6, away(model, task, x, there)


def marked(model: Model, task: Task, images: Array, there: Array) -> tuple[Array, Array]:
    """Images [n, *spatial, C] uint8, of which some are there: the parts of `Marked`."""
    x = scaled(model, images)
    p = probabilities(model.learner.predict(task.adapted, x, there))
    return p[..., 1], away(model, task, x, there)


def probabilities(logits: Array) -> Array:
    """Of logits [..., ways]; all alike where one is not finite."""
    return jax.nn.softmax(jnp.where(jnp.isfinite(logits).all(-1, keepdims=True), logits, 0.0))


def away(model: Model, task: Task, x: Array, there: Array) -> Array:
    """[n], how far images are from the nearest of the support, in its usual distances."""
    found = distances(flat_features(model, task.adapted, x, there), task.features)
    return jnp.where(task.there, found, jnp.inf).min(-1) / task.usual


def distances(features: Array, others: Array) -> Array:
    """Euclidean, of each of [n, F] from each of [m, F]: [n, m].

    >>> distances(jnp.array([[0.0], [5.0]]), jnp.array([[1.0], [3.0]]))
    Array([[1., 3.],
           [4., 2.]], dtype=float32)
    """
    squares = (features**2).sum(1)[:, None] - 2 * features @ others.T + (others**2).sum(1)
    return jnp.sqrt(jnp.maximum(squares, 0))


def usual_distance(features: Array, there: Array) -> Array:
    """The median over [n, F] that are there of the distance from the nearest other; 1 where there
    is none.

    >>> float(usual_distance(jnp.array([[0.0], [1.0], [3.0], [0.5]]), jnp.arange(4) < 3))
    1.0
    """
    other = there[:, None] & there & ~jnp.eye(len(there), dtype=bool)
    nearest = jnp.where(other, distances(features, features), jnp.inf).min(-1)
    median = jnp.nanmedian(jnp.where(there, nearest, jnp.nan))
    return jnp.where(there.sum() > 1, jnp.maximum(median, 1e-12), 1.0)
