"""R2D2: a ridge-regression head in closed form. Bertinetto et al., 2019, arXiv 1805.08136.

    W = Xᵀ (X Xᵀ + λ I)⁻¹ Y;    logits(x) = s f(x) W + b

X [n, F] are the support's features, Y [n, ways] its one-hot labels, or [n, 1] its values, of which
s is 1 and b is 0. The inverse is of the
support's size, not of the features', and is differentiated as any other function. λ, s and
b are learned with the body.

Deviations: λ and s are learned as logarithms, so that they stay positive; the ways that an
episode lacks are masked out of the softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.inner import require_positive
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
    select,
)


class Adapted(NamedTuple):
    """The body, the head [F, ways] with the scale and bias of its logits, statistics, ways."""

    body: Params
    weights: Array
    scale: Array
    bias: Array
    stats: PyTree
    present: Array


def ridge(features: Array, targets: Array, strength: Array) -> Array:
    """argmin_W ‖features W - targets‖² + strength ‖W‖²: [n, F], [n, T] -> [F, T].

    Rows of zeros change nothing.

    >>> ridge(jnp.eye(2), jnp.eye(2), jnp.asarray(1.0)).round(4)
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    gram = features @ features.T + strength * jnp.eye(features.shape[0], dtype=features.dtype)
    solved: Array = jax.scipy.linalg.solve(gram, targets, assume_a="pos")
    return features.T @ solved


def init_ridge(
    backbone: Backbone, *, strength: float, scale: float
) -> Callable[[Array, PyTree], Params]:
    """init for {"body", "ridge": {"log_strength", "log_scale", "bias"}} (ValueError)."""
    require_positive("strength", strength)
    require_positive("scale", scale)

    def init(key: Array, x: PyTree) -> Params:
        start = {"log_strength": strength, "log_scale": scale}
        logs = {name: jnp.log(jnp.asarray(value, float)) for name, value in start.items()}
        return {"body": backbone.init(key, x), "ridge": {**logs, "bias": jnp.zeros(())}}

    return init


def r2d2(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    strength: float = 1.0,
    scale: float = 10.0,
) -> MetaLearner:
    """R2D2 over `backbone`; `outputs` is the number of ways, `strength` λ, `scale` s at the start.

    `adapt` has no steps: its `steps` argument is ignored.
    meta_params: {"body", "ridge": {"log_strength", "log_scale", "bias"}}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = r2d2(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta), sorted(theta["ridge"])
    (['body', 'ridge'], ['bias', 'log_scale', 'log_strength'])
    """
    if outputs < 1:
        raise ValueError(f"outputs must be >= 1, got {outputs}")
    init = init_ridge(backbone, strength=strength, scale=scale)

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key, steps
        features, stats = backbone.apply(theta["body"], support.x, support.mask)
        values = not jnp.issubdtype(support.y.dtype, jnp.integer)
        if values:
            targets = support.y.astype(features.dtype).reshape(-1, outputs)
        elif support.y.ndim == 1:
            targets = jax.nn.one_hot(support.y, outputs, dtype=features.dtype)
        else:  # several labels: 1 where one is shown, -1 where it is not
            targets = 2 * support.y.astype(features.dtype) - 1
        labels = select(targets, support.mask)
        learned = {name: leaf.astype(features.dtype) for name, leaf in theta["ridge"].items()}
        weights = ridge(select(features, support.mask), labels, jnp.exp(learned["log_strength"]))
        present = ways_present(support, outputs)
        scale, bias = jnp.exp(learned["log_scale"]), learned["bias"]
        if values:
            scale, bias = jnp.ones_like(scale), jnp.zeros_like(bias)
        return Adapted(theta["body"], weights, scale, bias, stats, present)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        logits = adapted.scale * (features @ adapted.weights) + adapted.bias
        return mask_absent(logits, adapted.present)

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
