"""iMAML: implicit gradients. Rajeswaran, Finn, Kakade, Levine, 2019, arXiv 1909.04630.

    φ* = argmin_φ L_S(φ) + λ/2 ‖φ - θ‖²;    meta-gradient  (I + ∇²L_S(φ*) / λ)⁻¹ ∇L_Q(φ*)

by conjugate gradient (`implicit.py`): memory and work of the meta-gradient do not grow with
the inner steps.

Deviations: plain conjugate gradient, without the paper's damping; otherwise as `maml`.
"""

from __future__ import annotations

from medmeta_jax.algorithms._adaptation import adaptation
from medmeta_jax.heads import with_head
from medmeta_jax.implicit import proximal
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import Backbone, Loss, MetaLearner, checked


def imaml(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 16,
    inner_lr: float = 0.1,
    strength: float = 2.0,
    cg_steps: int = 5,
) -> MetaLearner:
    """iMAML over `backbone` and a linear head.

    Args:
      steps, inner_lr: gradient descent on the proximal problem, which must be nearly solved for
        its derivative to be the solution's: (1 - inner_lr * λ)^steps of the way to it is left, or
        less. By default 3%.
      strength: λ, which holds the solution near θ.
      cg_steps: of conjugate gradient.

    meta_params: {"body", "head"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = imaml(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body', 'head']
    """
    model = with_head(backbone, outputs)
    solve = proximal(steps=steps, inner_lr=inner_lr, strength=strength, cg_steps=cg_steps)
    adapt, predict, _ = adaptation(
        model, outputs=outputs, loss=loss, steps=steps, solve=lambda theta: solve
    )
    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(model.init, adapt, predict, meta_loss, backbone.norm))
