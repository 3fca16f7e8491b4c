"""BOIL: body only update in inner loop. Oh, Yoo, Kim, Yun, 2021, arXiv 2008.08882.

    θ = (b, w);  b'_{t+1} = b'_t - α ∇_b L_S(b'_t, w);   minimise  L_Q(b'_K, w) over b, w

The head stays as it was meta-learned: the representation, not the classifier, comes to the
task.

Deviations: as `maml`.
"""

from __future__ import annotations

from medmeta_jax.algorithms.maml import maml
from medmeta_jax.inner import Order, Path
from medmeta_jax.losses import cross_entropy
from medmeta_jax.types import Backbone, Loss, MetaLearner


def in_body(path: Path) -> bool:
    """Whether a parameter is the body's."""
    return path[0] == "body"


def boil(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.3,
    order: Order = "mixed",
) -> MetaLearner:
    """`maml` whose inner loop moves the body alone. meta_params: {"body", "head"}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = boil(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body', 'head']
    """
    return maml(
        backbone,
        outputs=outputs,
        loss=loss,
        steps=steps,
        inner_lr=inner_lr,
        order=order,
        moves=in_body,
    )
