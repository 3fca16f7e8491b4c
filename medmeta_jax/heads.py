"""The linear head that turns a backbone's features into a task's outputs.

One head for every kind of task, since it acts on the last axis: [n, F] -> [n, outputs]
for classes and values, [n, *spatial, F] -> [n, *spatial, outputs] for maps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.types import Array, Backbone, Params, PyTree


def init_linear(key: Array, features: int, outputs: int) -> Params:
    """A linear head: kernel [features, outputs] ~ N(0, 1/features), bias 0 [outputs]."""
    kernel = jax.random.normal(key, (features, outputs)) / jnp.sqrt(float(features))
    return {"kernel": kernel, "bias": jnp.zeros((outputs,), kernel.dtype)}


def linear(head: Params, features: Array) -> Array:
    """features [..., F] -> [..., outputs]."""
    return features @ head["kernel"] + head["bias"]


def feature_size(backbone: Backbone, body: Params, x: PyTree) -> int:
    """Length of the backbone's last axis for inputs like `x`; computes nothing."""
    mask = jnp.ones((jax.tree.leaves(x)[0].shape[0],), jnp.bool_)
    return jax.eval_shape(backbone.apply, body, x, mask)[0].shape[-1]


def with_head(backbone: Backbone, outputs: int) -> Backbone:
    """The backbone followed by a linear head; params are {"body": ..., "head": ...}.

    >>> from medmeta_jax.backbones.pixels import pixels
    >>> model, x = with_head(pixels(), 3), jnp.ones((2, 4, 4, 1))
    >>> logits, _ = model.apply(model.init(jax.random.key(0), x), x, jnp.ones(2, bool))
    >>> logits.shape
    (2, 3)
    """
    if outputs < 1:
        raise ValueError(f"outputs must be >= 1, got {outputs}")

    def init(key: Array, x: PyTree) -> Params:
        body_key, head_key = jax.random.split(key)
        body = backbone.init(body_key, x)
        head = init_linear(head_key, feature_size(backbone, body, x), outputs)
        return {"body": body, "head": head}

    def apply(params: Params, x: PyTree, mask: Array, stats: PyTree = None) -> tuple[Array, PyTree]:
        features, stats = backbone.apply(params["body"], x, mask, stats)
        return linear(params["head"], features), stats

    return Backbone(init, apply, backbone.norm)
