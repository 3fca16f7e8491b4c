"""Nearest centroid of a pre-trained classifier's features (SimpleShot's plain form).

Wang et al., 2019, arXiv 1911.04623: pre-train as usual, then classify by the nearest
class mean in feature space, `argmin_k ‖f(x) - c_k‖²`. Deviations: none of its feature
transformations (centring, L2) is applied.
"""

from __future__ import annotations

from medmeta_jax.algorithms._pretraining import (
    init_pretraining,
    pretraining_loss,
    require_sizes,
)
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.types import Backbone, MetaLearner, checked


def nearest_centroid(backbone: Backbone, *, outputs: int, pool_classes: int = 1) -> MetaLearner:
    """Pre-training, then ProtoNet's `adapt` and `predict` without its meta-training.

    meta_params: {"body", "head", "classifier"}, of which "head" is not used.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = nearest_centroid(conv4(width=4, depth=2), outputs=3, pool_classes=10)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> theta["classifier"]["kernel"].shape
    (16, 10)
    """
    require_sizes(outputs, pool_classes)
    return checked(
        protonet(backbone, outputs=outputs)._replace(
            init=init_pretraining(backbone, outputs, pool_classes), loss=pretraining_loss(backbone)
        )
    )
