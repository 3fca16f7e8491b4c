"""Each pixel by a logistic regression on its features, by Newton's steps: the head of LR-D2, for
masks. Bertinetto et al., 2019, arXiv 1805.08136.

    w ← w - H⁻¹ g,   g = Xᵀ D (μ - y) + λ w,   H = Xᵀ D S X + λ I,   μ = σ(X w), S = μ (1 - μ)

for each thing that is marked against all the rest, from w = 0. X [pixels, F + 1] are the features
of the support's pixels and a constant, D = 1 / pixels. Unlike the ridge of `pixel_ridge`, the
answer is a probability that knows how rare a lesion is in the support, so that few pixels are
marked where few should be:

    logits(x) = (0, s [f(x), 1] w_1 + b, s [f(x), 1] w_2 + b, ...)

λ, s and b are learned with the body. Deviations: several things at once, each by itself; Newton's
steps in the features' space, of which there are fewer than pixels; λ and s as logarithms; of many
pixels some are drawn, half of them of what is marked, and D makes up for the others. And b is that
of things trained on, whose features the body has, so that of new ones too little is marked: a
`margin` is added to it when predicting, and not in training.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.algorithms.panet import require_masks
from medmeta_jax.algorithms.pixel_ridge import rows_of, with_constant
from medmeta_jax.inner import require_positive
from medmeta_jax.losses import dice_and_cross_entropy, query_loss
from medmeta_jax.types import Array, Backbone, Examples, Loss, MetaLearner, Params, PyTree, checked


class Adapted(NamedTuple):
    """The body, the head [F + 1, outputs - 1], its scale and bias, norm statistics."""

    body: Params
    weights: Array
    scale: Array
    bias: Array
    stats: PyTree


def drawn_rows(key: Array, marked: Array, there: Array, most: int) -> tuple[Array, Array]:
    """Which rows a regression sees, and what each weighs: places [most] and weights [most].

    Half of them are of those that are marked [n] bool, and half of the others that are there [n],
    drawn without replacement; where there are fewer, all are seen, and what is left over has no
    weight. Each half weighs as much as all of its kind, and all together 1.
    """
    chance = jax.random.uniform(key, marked.shape)

    def half(kind: Array, count: int) -> tuple[Array, Array]:
        order, places = jax.lax.top_k(jnp.where(kind, chance, -1.0), count)
        seen = (order >= 0).astype(chance.dtype)
        return places, seen * (kind.sum().astype(chance.dtype) / jnp.maximum(seen.sum(), 1))

    pairs = [half(marked & there, most // 2), half(~marked & there, most - most // 2)]
    places, weights = (jnp.concatenate(part) for part in zip(*pairs, strict=True))
    return places, weights / jnp.maximum(there.sum(), 1).astype(chance.dtype)


def logistic(x: Array, y: Array, weight: Array, strength: Array, *, steps: int) -> Array:
    """Newton's steps towards argmin_w Σ_i weight_i log(1 + exp(-±x_i w)) + strength / 2 ‖w‖².

    x: [n, F]; y: [n], 1 or 0; weight: [n]. Returns w [F].

    >>> x, y = jnp.asarray([[1.0], [1.0], [1.0], [1.0]]), jnp.asarray([1.0, 0.0, 0.0, 0.0])
    >>> w = logistic(x, y, jnp.full(4, 0.25), jnp.asarray(0.0), steps=8)
    >>> jax.nn.sigmoid(w).round(4)
    Array([0.25], dtype=float32)
    """
    eye = strength * jnp.eye(x.shape[1], dtype=x.dtype)

    def newton(w: Array, _: None) -> tuple[Array, None]:
        p = jax.nn.sigmoid(x @ w)
        slope = x.T @ (weight * (p - y)) + strength * w
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + eye
        return w - jax.scipy.linalg.solve(curvature, slope, assume_a="pos"), None

    return jax.lax.scan(newton, jnp.zeros(x.shape[1], x.dtype), None, length=steps)[0]


def pixel_logistic(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = dice_and_cross_entropy,
    strength: float = 1e-3,
    newton_steps: int = 5,
    pixels: int = 4096,
    margin: float = 0.0,
) -> MetaLearner:
    """A logistic regression over a backbone with a feature a pixel.

    Args:
      outputs: 2, or for lesions one more than there are types.
      strength: λ at the start.
      newton_steps: of each regression.
      pixels: of the support's, so many are drawn for it where there are more.
      margin: added to the logits of what is marked, by `predict` and not in the loss.

    `adapt` has no inner steps to choose: its `steps` argument is ignored. meta_params: {"body",
    "logistic": {"log_strength", "log_scale", "bias"}}. Raises ValueError, when adapting, where
    labels are no masks.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.unet import unet
    >>> learner = pixel_logistic(unet(width=4, depth=2), outputs=2)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta["logistic"])
    ['bias', 'log_scale', 'log_strength']
    """
    if outputs < 2:
        raise ValueError(f"outputs must be >= 2 (not marked, marked), got {outputs}")
    if newton_steps < 1:
        raise ValueError(f"newton_steps must be >= 1, got {newton_steps}")
    if pixels < 2:
        raise ValueError(f"pixels must be >= 2, got {pixels}")
    if not math.isfinite(margin):
        raise ValueError(f"margin must be finite, got {margin}")
    require_positive("strength", strength)

    def init(key: Array, x: PyTree) -> Params:
        start = {
            "log_strength": jnp.log(jnp.asarray(strength, float)),
            "log_scale": jnp.zeros(()),
            "bias": jnp.zeros(()),
        }
        return {"body": backbone.init(key, x), "logistic": start}

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del steps
        features, stats = backbone.apply(theta["body"], support.x, support.mask)
        require_masks(features, support)
        rows, there = rows_of(features, support.mask)
        labels = support.y.reshape(-1)
        weight = there.astype(rows.dtype) / jnp.maximum(there.sum(), 1).astype(rows.dtype)
        if len(labels) > pixels:
            places, drawn = drawn_rows(key, labels > 0, there, pixels)
            rows, labels, weight = rows[places], labels[places], drawn.astype(rows.dtype)
        learned = {n: leaf.astype(rows.dtype) for n, leaf in theta["logistic"].items()}
        kinds = jnp.arange(1, outputs, dtype=support.y.dtype)
        targets = (labels == kinds[:, None]).astype(rows.dtype)
        strength = jnp.exp(learned["log_strength"])
        each = jax.vmap(lambda y: logistic(rows, y, weight, strength, steps=newton_steps))(targets)
        scale = jnp.exp(learned["log_scale"])
        return Adapted(theta["body"], each.T, scale, learned["bias"], stats)

    def trained(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        marked = adapted.scale * (with_constant(features) @ adapted.weights) + adapted.bias
        return jnp.concatenate([jnp.zeros_like(marked[..., :1]), marked], -1)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        return trained(adapted, x, mask).at[..., 1:].add(margin)

    meta_loss = query_loss(adapt, trained, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
