"""Fine-tuning: pre-train a classifier, then train all of it on the new task's support.

The transfer baseline of Chen et al., 2019, arXiv 1904.04232, and the bar on medical
targets (BSCD-FSL, arXiv 1912.07200). From untrained parameters it is "from scratch".

    φ_0 = (body, new head);   φ_{t+1} = φ_t - α ∇L_S(φ_t)

Deviations: the new head starts at zero, so that step 0 is the uniform prediction and
fine-tuning does not begin by unlearning a random head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from medmeta_jax.algorithms._adaptation import Adapted
from medmeta_jax.algorithms._pretraining import (
    init_pretraining,
    pretraining_loss,
    require_sizes,
)
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.losses import cross_entropy
from medmeta_jax.types import (
    Array,
    Backbone,
    Examples,
    Loss,
    MetaLearner,
    Params,
    checked,
)


def finetune(
    backbone: Backbone,
    *,
    outputs: int,
    pool_classes: int = 1,
    loss: Loss = cross_entropy,
    steps: int = 50,
    inner_lr: float = 0.1,
) -> MetaLearner:
    """Fine-tuning of the whole network on the support set.

    Args:
      outputs: ways of the new task.
      pool_classes: classes of the pool that pre-training learns.
      loss: the new task's loss; pre-training uses cross-entropy, and for masks this too.
      steps, inner_lr: gradient descent on the support set.

    meta_params: {"body", "head", "classifier"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = finetune(conv4(width=4, depth=2), outputs=3, pool_classes=10)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> theta["classifier"]["kernel"].shape
    (16, 10)
    """
    require_sizes(outputs, pool_classes)
    inner = maml(backbone, outputs=outputs, loss=loss, steps=steps, inner_lr=inner_lr)

    def adapt(params: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        theta = {"body": params["body"], "head": jax.tree.map(jnp.zeros_like, params["head"])}
        return inner.adapt(theta, support, key, steps)

    return checked(
        inner._replace(
            init=init_pretraining(backbone, outputs, pool_classes),
            adapt=adapt,
            loss=pretraining_loss(backbone, of_masks=loss),
        )
    )
