"""Each pixel by a ridge regression on its features, in closed form: the head of R2D2, for masks.
Bertinetto et al., 2019, arXiv 1805.08136.

    W = (Xᵀ D X + λ I)⁻¹ Xᵀ D Y;    logits(x) = s [f(x), 1] W - b [nothing]

X [pixels, F + 1] are the features of the support's pixels and a constant, Y their one-hot labels, D
weights by which every label has the same share of all: a lesion of twenty pixels counts as much as
the rest of the image. What that overrates where most pixels are nothing, the bias b takes back. λ,
s and b are learned with the body.

Deviations: the inverse is of the features' size, of which there are fewer than pixels; the weights
and the constant; λ and s are learned as logarithms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.algorithms.panet import require_masks
from medmeta_jax.algorithms.r2d2 import init_ridge
from medmeta_jax.losses import dice_and_cross_entropy, query_loss
from medmeta_jax.types import (
    Array,
    Backbone,
    Examples,
    Loss,
    MetaLearner,
    Params,
    PyTree,
    checked,
    select,
)


class Adapted(NamedTuple):
    """The body, the head [F + 1, outputs], its bias [outputs], norm statistics."""

    body: Params
    weights: Array
    bias: Array
    stats: PyTree


def with_constant(features: Array) -> Array:
    """[..., F] -> [..., F + 1], the last 1."""
    return jnp.concatenate([features, jnp.ones_like(features[..., :1])], -1)


def rows_of(features: Array, mask: Array) -> tuple[Array, Array]:
    """The pixels of examples: `with_constant` of [n, *spatial, F] as [pixels, F + 1], zeros for
    padding, and which are there [pixels]."""
    wide = select(with_constant(features), mask)
    there = jnp.broadcast_to(mask.reshape(-1, *(1,) * (features.ndim - 2)), features.shape[:-1])
    return wide.reshape(-1, wide.shape[-1]), there.reshape(-1)


def balanced_ridge(features: Array, targets: Array, strength: Array) -> Array:
    """argmin_W Σ_i d_i ‖x_i W - y_i‖² + strength ‖W‖², with d such that each target's rows weigh 1
    together: [n, F], one-hot [n, T] -> [F, T].

    Rows whose target is all zeros have no weight, and a target without rows none either.

    >>> x = jnp.asarray([[1.0], [1.0], [1.0], [-1.0]])
    >>> y = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> balanced_ridge(x, y, jnp.asarray(0.0)).round(2)
    Array([[ 0.5, -0.5]], dtype=float32)
    """
    weight = targets @ (1 / jnp.maximum(targets.sum(0), 1))
    weighted = features * weight[:, None]
    gram = weighted.T @ features + strength * jnp.eye(features.shape[1], dtype=features.dtype)
    solved: Array = jax.scipy.linalg.solve(gram, weighted.T @ targets, assume_a="pos")
    return solved


def pixel_ridge(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = dice_and_cross_entropy,
    strength: float = 0.1,
    scale: float = 10.0,
) -> MetaLearner:
    """A ridge regression over a backbone with a feature a pixel.

    Args:
      outputs: 2, or for lesions one more than there are types.
      strength, scale: λ and s at the start.

    `adapt` has no steps: its `steps` argument is ignored. meta_params: {"body", "ridge":
    {"log_strength", "log_scale", "bias"}}. Raises ValueError, when adapting, where labels are no
    masks.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.unet import unet
    >>> learner = pixel_ridge(unet(width=4, depth=2), outputs=2)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta["ridge"])
    ['bias', 'log_scale', 'log_strength']
    """
    if outputs < 2:
        raise ValueError(f"outputs must be >= 2 (not marked, marked), got {outputs}")
    init = init_ridge(backbone, strength=strength, scale=scale)

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key, steps
        features, stats = backbone.apply(theta["body"], support.x, support.mask)
        require_masks(features, support)
        rows, there = rows_of(features, support.mask)
        labels = jax.nn.one_hot(support.y.reshape(-1), outputs, dtype=features.dtype)
        targets = select(labels, there)
        learned = {name: leaf.astype(features.dtype) for name, leaf in theta["ridge"].items()}
        scale = jnp.exp(learned["log_scale"])
        weights = scale * balanced_ridge(rows, targets, jnp.exp(learned["log_strength"]))
        bias = jnp.zeros(outputs, features.dtype).at[0].set(-learned["bias"])
        return Adapted(theta["body"], weights, bias, stats)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        return with_constant(features) @ adapted.weights + adapted.bias

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
