"""Masked losses, `(logits, y, mask) -> scalar`: the mean over examples that are there.

Every loss selects before it computes and reduces with `masked_mean`, so that padding has
weight zero and a NaN in padding stays out of values and gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from medmeta_jax.types import Array, Episode, Examples, Info, Loss, Params, PyTree, select

# Finite, so that a masked logit's gradient is 0 and not NaN; exp(ABSENT) is 0 in float32.
ABSENT = -1e9


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of `values` [n, ...] over the examples where `mask` [n] is True.

    An empty set has mean 0.

    >>> masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False]))
    Array(2., dtype=float32)
    """
    total = select(values, mask).sum()
    per_example = values.size // max(values.shape[0], 1)
    count = jnp.maximum(mask.sum(), 1).astype(values.dtype) * per_example
    return total / count


def cross_entropy(logits: Array, y: Array, mask: Array) -> Array:
    """Softmax cross-entropy. logits: [n, *spatial, ways], y: [n, *spatial] int.

    >>> logits, mask = jnp.zeros((2, 4)), jnp.ones(2, bool)
    >>> float(cross_entropy(logits, jnp.array([0, 3]), mask)) == float(jnp.log(4.0))
    True
    """
    logits, y = select(logits, mask), select(y, mask)
    return masked_mean(optax.softmax_cross_entropy_with_integer_labels(logits, y), mask)


def binary_cross_entropy(logits: Array, y: Array, mask: Array) -> Array:
    """Sigmoid cross-entropy for multi-label tasks. logits and y: [n, L].

    >>> logits, y = jnp.zeros((2, 3)), jnp.ones((2, 3))
    >>> round(float(binary_cross_entropy(logits, y, jnp.ones(2, bool))), 4)
    0.6931
    """
    logits, y = select(logits, mask), select(y.astype(logits.dtype), mask)
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, y), mask)


def balanced_binary_cross_entropy(logits: Array, y: Array, mask: Array) -> Array:
    """Sigmoid cross-entropy in which each label's positives weigh as much as its negatives.

    logits and y: [n, L]. The weights are those of the set at hand: in an inner loop, of the
    support set. A label that is shown by all or by none weighs its examples alike.
    """
    logits, y = select(logits, mask), select(y.astype(logits.dtype), mask)
    there = mask[:, None].astype(logits.dtype)
    shown, count = (y * there).sum(0), there.sum()
    both = (shown > 0) & (shown < count)
    half = count / 2
    weights = jnp.where(y > 0, half / jnp.maximum(shown, 1), half / jnp.maximum(count - shown, 1))
    weights = jnp.where(both, weights, 1.0)
    return masked_mean(weights * optax.sigmoid_binary_cross_entropy(logits, y), mask)


def ranked_probability(logits: Array, y: Array, mask: Array) -> Array:
    """Ranked probability score, for classes that have an order (grades). logits: [n, ways].

    Σ_k (P(grade <= k) - [y <= k])²: a proper score in which a near miss costs less than a far
    one (Epstein, 1969). y: [n] int; ways stand in their order, absent ones anywhere.

    >>> sure = jnp.array([[9.0, 0.0, 0.0]])
    >>> [round(float(ranked_probability(sure, jnp.array([k]), jnp.ones(1, bool)))) for k in (1, 2)]
    [1, 2]
    """
    logits, y = select(logits, mask), select(y, mask)
    below = jnp.cumsum(jax.nn.softmax(logits), -1)
    truth = (y[:, None] <= jnp.arange(logits.shape[-1])).astype(logits.dtype)
    return masked_mean(((below - truth) ** 2).sum(-1), mask)


def squared_error(logits: Array, y: Array, mask: Array) -> Array:
    """Squared error. logits: [n, D]; y: [n, D], or [n] where D is 1.

    >>> logits, y = jnp.array([[1.0], [5.0]]), jnp.array([3.0, 0.0])
    >>> float(squared_error(logits, y, jnp.array([True, False])))
    4.0
    """
    target = y.reshape(logits.shape).astype(logits.dtype)
    return masked_mean(select(logits - target, mask) ** 2, mask)


def gentle_squared_error(logits: Array, y: Array, mask: Array) -> Array:
    """An eighth of the squared error, with which rates that suit classes suit values too: its
    curvature is then 1/4, the largest that the logistic loss has, and not 2."""
    return squared_error(logits, y, mask) / 8


def overlap(p: Array, truth: Array, mask: Array, smooth: float) -> Array:
    """The mean of 2 Σ p t / (Σ p + Σ t) over images, of maps [n, *spatial]; `smooth` is added above
    and below, so that an image that shows nothing has an overlap too."""
    axes = tuple(range(1, p.ndim))
    both, either = (p * truth).sum(axes), p.sum(axes) + truth.sum(axes)
    return masked_mean((2 * both + smooth) / (either + smooth), mask)


def soft_dice(logits: Array, y: Array, mask: Array) -> Array:
    """1 - the overlap of the probabilities with what is to be marked (Milletari et al., arXiv
    1606.04797, with sums for sums of squares), of several kinds the mean of theirs.

    logits: [n, *spatial, 1 + kinds], y: [n, *spatial] int, 0 where nothing is marked.
    """
    logits, y = select(logits, mask), select(y, mask)
    p, kinds = jax.nn.softmax(logits), range(1, logits.shape[-1])
    each = [overlap(p[..., k], (y == k).astype(p.dtype), mask, 1.0) for k in kinds]
    return 1 - sum(each[1:], each[0]) / len(each)


def dice_and_cross_entropy(logits: Array, y: Array, mask: Array) -> Array:
    """`soft_dice`, which counts what is small as much as what is large, and `cross_entropy`, whose
    gradient does not vanish where nothing is found yet."""
    return soft_dice(logits, y, mask) + cross_entropy(logits, y, mask)


def dice(logits: Array, y: Array, mask: Array) -> Array:
    """The mean Dice of images, 1 where nothing is there and nothing is marked. A score, no loss.

    >>> found = jnp.asarray([[[0.0, 1.0], [0.0, 1.0]]])
    >>> round(float(dice(found, jnp.asarray([[1, 0]]), jnp.ones(1, bool))), 3)
    0.667
    """
    marked = (logits[..., 1] > logits[..., 0]).astype(jnp.float32)
    return overlap(marked, y.astype(jnp.float32), mask, 1e-6)


def lesion_accuracy(logits: Array, y: Array, mask: Array, *, least: int) -> Array:
    """Share of images taken for the lesion that they show, or for none. A score, no loss.

    y: [n, *spatial], 0 where there is nothing and k where the k-th type is. logits: [n, *spatial,
    1 + types], by which an image is taken for the type that most of its pixels are, and for none
    where fewer than `least` are any; or [n, 1 + types], of whole images.
    """
    axes = tuple(range(1, y.ndim))
    told = logits.argmax(-1)
    if logits.ndim > 2:
        counts = jax.nn.one_hot(told, logits.shape[-1]).sum(axes)[:, 1:]
        told = jnp.where(counts.sum(-1) >= least, counts.argmax(-1) + 1, 0)
    return masked_mean((told == y.max(axes)).astype(jnp.float32), mask)


def accuracy(logits: Array, y: Array, mask: Array) -> Array:
    """Share of examples whose largest logit is the label. A score, not a loss.

    >>> accuracy(jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0]), jnp.ones(2, bool))
    Array(0.5, dtype=float32)
    """
    return masked_mean((logits.argmax(-1) == y).astype(jnp.float32), mask)


def label_accuracy(logits: Array, y: Array, mask: Array) -> Array:
    """Share of labels that are told right, where examples have several. A score, not a loss.

    >>> label_accuracy(jnp.array([[2.0, -1.0]]), jnp.array([[1, 1]]), jnp.ones(1, bool))
    Array(0.5, dtype=float32)
    """
    return masked_mean(((logits > 0) == (y > 0)).astype(jnp.float32), mask)


def explained(logits: Array, y: Array, mask: Array) -> Array:
    """1 - the squared error: the share of the variance that is explained, where y is in standard
    deviations. A score, not a loss. logits: [n, 1], y: [n].

    >>> explained(jnp.array([[0.5], [1.0]]), jnp.array([1.5, 1.0]), jnp.ones(2, bool))
    Array(0.5, dtype=float32)
    """
    return 1 - squared_error(logits, y, mask)


def ways_present(support: Examples, outputs: int) -> Array:
    """Which outputs a support set can speak of: [outputs] bool.

    With class labels ([n] int) these are the classes that have an example; any other
    kind of label (multi-label, maps, real values) speaks of all outputs.
    """
    y = support.y
    if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
        return jnp.ones((outputs,), jnp.bool_)
    hits = jax.nn.one_hot(y, outputs, dtype=jnp.bool_) & support.mask[:, None]
    return hits.any(0)


def mask_absent(logits: Array, present: Array) -> Array:
    """Logits with the absent ways set to `ABSENT`, so that softmax passes them by."""
    return jnp.where(present, logits, jnp.full_like(logits, ABSENT))


def query_loss(
    adapt: Callable[..., PyTree], predict: Callable[..., Array], loss: Loss
) -> Callable[[Params, Episode, Array, Array], tuple[Array, Info]]:
    """The meta-objective most methods share: adapt on the support, lose on the query."""

    def meta_loss(
        meta_params: Params, episode: Episode, key: Array, step: Array
    ) -> tuple[Array, Info]:
        del step
        adapted = adapt(meta_params, episode.support, key)
        logits = predict(adapted, episode.query.x, episode.query.mask)
        value = loss(logits, episode.query.y, episode.query.mask)
        return value, Info(value, logits)

    return meta_loss
