"""Baseline++: pre-train with a cosine classifier, fit a new one on the support.

Chen, Liu, Kira, Wang, Huang, 2019, arXiv 1904.04232.

    logits_k(x) = s cos(w_k, f(x));    w_{t+1} = w_t - α ∇_w L_S(body, w_t)

The angle to a class's vector, and not the features' length, decides, which draws the features
of a class together in pre-training.

Deviations: the new vectors start at the class means, where the paper's are random; full-batch
gradient descent.
"""

from __future__ import annotations

import jax
import optax

from medmeta_jax.algorithms._on_features import on_features
from medmeta_jax.algorithms._pretraining import (
    init_pretraining,
    pretraining_loss,
    require_sizes,
)
from medmeta_jax.algorithms.protonet import class_means
from medmeta_jax.inner import require_positive, unrolled
from medmeta_jax.losses import cross_entropy
from medmeta_jax.types import Array, Backbone, Loss, MetaLearner, Params, checked


def unit(values: Array, axis: int) -> Array:
    """Vectors of length 1, and zeros where there is no direction."""
    return values * jax.lax.rsqrt((values**2).sum(axis, keepdims=True) + 1e-12)


def cosines(vectors: Array, features: Array) -> Array:
    """[F, K], [n, F] -> [n, K] cosines.

    >>> import jax.numpy as jnp
    >>> found = cosines(jnp.array([[2.0], [0.0]]), jnp.array([[3.0, 4.0]]))
    >>> found.shape, f"{found.item():.4f}"
    ((1, 1), '0.6000')
    """
    return unit(features, -1) @ unit(vectors, 0)


def baseline_plus_plus(
    backbone: Backbone,
    *,
    outputs: int,
    pool_classes: int = 1,
    loss: Loss = cross_entropy,
    steps: int = 50,
    inner_lr: float = 0.1,
    scale: float = 10.0,
) -> MetaLearner:
    """A cosine head on a frozen body that was pre-trained with one.

    Args:
      outputs: ways of the new task.
      pool_classes: classes of the pool that pre-training learns.
      steps, inner_lr: gradient descent for the new vectors.
      scale: s.

    meta_params: {"body", "head", "classifier"}, of which "head" is not used.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = baseline_plus_plus(conv4(width=4, depth=2), outputs=3, pool_classes=10)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body', 'classifier', 'head']
    """
    require_sizes(outputs, pool_classes)
    require_positive("inner_lr", inner_lr)
    require_positive("scale", scale)
    solve = unrolled(optax.sgd(inner_lr), steps=steps, order="first")

    def classify(classifier: Params, features: Array) -> Array:
        return scale * cosines(classifier["kernel"], features)

    adapt, predict = on_features(
        backbone,
        outputs=outputs,
        loss=loss,
        solve=solve,
        start=lambda params, features, support: {
            "kernel": class_means(features, support, outputs).T
        },
        classify=lambda params, classifier, features: classify(classifier, features),
    )
    init = init_pretraining(backbone, outputs, pool_classes)
    pretrain = pretraining_loss(backbone, classify)
    return checked(MetaLearner(init, adapt, predict, pretrain, backbone.norm))
