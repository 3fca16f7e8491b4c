"""Linear probe: pre-train a classifier, freeze its body, fit a linear head on the support.

    w_{t+1} = w_t - α (∇_w L_S(body, w_t) + λ w_t),  w_0 = 0

The transfer baseline of Chen et al., 2019, arXiv 1904.04232 ("Baseline"). Deviations:
full-batch gradient descent with weight decay λ, on features scaled to unit length on
average over the support, so that one rate serves bodies of any scale.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from medmeta_jax.algorithms._on_features import Adapted
from medmeta_jax.algorithms._pretraining import (
    init_pretraining,
    pretraining_loss,
    require_sizes,
)
from medmeta_jax.algorithms.anil import anil
from medmeta_jax.heads import linear
from medmeta_jax.inner import require_positive, unrolled
from medmeta_jax.losses import cross_entropy, mask_absent, masked_mean, ways_present
from medmeta_jax.types import Array, Backbone, Examples, Loss, MetaLearner, Params, checked


def linear_probe(
    backbone: Backbone,
    *,
    outputs: int,
    pool_classes: int = 1,
    loss: Loss = cross_entropy,
    steps: int = 100,
    inner_lr: float = 1.0,
    decay: float = 1e-3,
) -> MetaLearner:
    """A linear head on a frozen pre-trained body.

    Args:
      outputs: ways of the new task.
      pool_classes: classes of the pool that pre-training learns.
      steps, inner_lr, decay: gradient descent for the head, with weight decay.

    meta_params: {"body", "head", "classifier"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = linear_probe(conv4(width=4, depth=2), outputs=3, pool_classes=10)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> theta["classifier"]["kernel"].shape
    (16, 10)
    """
    require_sizes(outputs, pool_classes)
    require_positive("inner_lr", inner_lr)
    if decay < 0:
        raise ValueError(f"decay must be >= 0, got {decay}")
    descent = optax.chain(optax.add_decayed_weights(decay), optax.sgd(inner_lr))
    solve = unrolled(descent, steps=steps)

    def adapt(params: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key
        present = ways_present(support, outputs)
        features, stats = backbone.apply(params["body"], support.x, support.mask)
        length = jnp.sqrt(masked_mean((features**2).sum(-1), support.mask) + 1e-12)

        def inner_loss(head: Params, t: Array) -> Array:
            del t
            logits = linear(head, features / length)
            return loss(mask_absent(logits, present), support.y, support.mask)

        head = solve(inner_loss, jax.tree.map(jnp.zeros_like, params["head"]), steps)
        unscaled = {"kernel": head["kernel"] / length, "bias": head["bias"]}
        return Adapted(params, unscaled, stats, present)

    return checked(
        anil(backbone, outputs=outputs)._replace(
            init=init_pretraining(backbone, outputs, pool_classes),
            adapt=adapt,
            loss=pretraining_loss(backbone, of_masks=loss),
        )
    )
