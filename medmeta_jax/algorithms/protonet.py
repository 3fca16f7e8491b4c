"""Prototypical networks. Snell, Swersky, Zemel, 2017, arXiv 1703.05175.

    c_k = mean of f(x) over the support of class k;   logits_k(x) = -‖f(x) - c_k‖²

Where examples have several labels (y [n, ways], 1 or 0), each way has two prototypes, of
the support that shows it and of the support that does not, and

    logits_k(x) = ‖f(x) - c_k⁻‖² - ‖f(x) - c_k⁺‖²

Deviations: the ways that an episode lacks are masked out of the softmax.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.losses import cross_entropy, mask_absent, query_loss, ways_present
from medmeta_jax.types import (
    Array,
    Backbone,
    Examples,
    Loss,
    MetaLearner,
    Params,
    PyTree,
    checked,
)


class Adapted(NamedTuple):
    """The body, one prototype a way [ways, F] (of what shows it and of what does not:
    [2, ways, F]), norm statistics, the ways present."""

    body: Params
    prototypes: Array
    stats: PyTree
    present: Array


def class_means(features: Array, support: Examples, ways: int) -> Array:
    """Mean feature of each way's support: [n, F] -> [ways, F], 0 where a way is absent.

    Raises ValueError where labels are values.
    """
    if not jnp.issubdtype(support.y.dtype, jnp.integer):
        raise ValueError(
            "has a prototype for each class, and these labels are values; take one that has a "
            "linear head, such as anil, maml or r2d2"
        )
    return means_of(features, jax.nn.one_hot(support.y, ways, dtype=jnp.bool_), support.mask)


def means_of(features: Array, members: Array, mask: Array) -> Array:
    """Mean feature [ways, F] of the members [n, ways] bool of each way, 0 where it has none."""
    weights = (members & mask[:, None]).astype(features.dtype)
    # Padding is selected away and not multiplied by zero: it may hold anything.
    kept = jnp.where(mask[:, None], features, 0)
    return (weights.T @ kept) / jnp.maximum(weights.sum(0), 1)[:, None]


def prototypes_of(features: Array, support: Examples, ways: int) -> Array:
    """[ways, F] of classes; [2, ways, F] of what shows each label and of what does not."""
    if support.y.ndim == 1:
        return class_means(features, support, ways)
    shown = support.y > 0
    return jnp.stack([means_of(features, members, support.mask) for members in (shown, ~shown)])


def protonet(backbone: Backbone, *, outputs: int, loss: Loss = cross_entropy) -> MetaLearner:
    """Prototypical networks over `backbone`; `outputs` is the number of ways.

    `adapt` has no steps: its `steps` argument is ignored. meta_params: {"body"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = protonet(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body']
    """
    if outputs < 1:
        raise ValueError(f"outputs must be >= 1, got {outputs}")

    def init(key: Array, x: PyTree) -> Params:
        return {"body": backbone.init(key, x)}

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key, steps
        features, stats = backbone.apply(theta["body"], support.x, support.mask)
        prototypes = prototypes_of(features, support, outputs)
        return Adapted(theta["body"], prototypes, stats, ways_present(support, outputs))

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        gaps = features[:, None, :] - adapted.prototypes[..., None, :, :]
        far = (gaps**2).sum(-1)  # [n, ways], or [2, n, ways]
        logits = -far if adapted.prototypes.ndim == 2 else far[1] - far[0]
        return mask_absent(logits, adapted.present)

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
