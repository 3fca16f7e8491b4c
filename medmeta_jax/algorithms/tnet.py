"""T-Net: learned layers that shape the inner gradient. Lee, Choi, 2018, arXiv 1801.05558.

    each kernel is W T;  W'_{t+1} = W'_t - α ∇_W L_S(W'_t T);   minimise  L_Q over W_0 and T

T [O, O] after each layer is not moved by the inner loop. The product W T then moves along
∇_{WT} L (Tᵀ T): T is a preconditioner, as the warp layers of WarpGrad (arXiv 1909.00025)
are.

Deviations: T starts as the identity; the masks of MT-Net, the paper's other half, are left
out; otherwise as `maml`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from medmeta_jax.algorithms._adaptation import adaptation
from medmeta_jax.heads import with_head
from medmeta_jax.inner import Order, require_positive, unrolled
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import Array, Backbone, Loss, MetaLearner, Params, PyTree, checked


def transformed(params: Params, theta: Params, t: Any) -> Params:
    """The network's parameters: each kernel times its T, all else as it is."""
    del t
    leaves, tree = jax.tree.flatten(params)
    pairs = zip(leaves, theta["transforms"], strict=True)
    return jax.tree.unflatten(tree, [leaf if m is None else leaf @ m for leaf, m in pairs])


def tnet(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.1,
    order: Order = "mixed",
) -> MetaLearner:
    """T-Net over `backbone` and a linear head.

    meta_params: {"body", "head", "transforms": [a matrix a kernel, None for the rest]}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = tnet(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body', 'head', 'transforms']
    """
    require_positive("inner_lr", inner_lr)
    model = with_head(backbone, outputs)

    def init(key: Array, x: PyTree) -> Params:
        params = model.init(key, x)
        transforms = [
            jnp.eye(leaf.shape[-1], dtype=leaf.dtype) if leaf.ndim > 1 else None
            for leaf in jax.tree.leaves(params)
        ]
        return {**params, "transforms": transforms}

    solve = unrolled(optax.sgd(inner_lr), steps=steps, order=order)
    adapt, predict, _ = adaptation(
        model,
        outputs=outputs,
        loss=loss,
        steps=steps,
        solve=lambda theta: solve,
        effective=transformed,
    )
    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
