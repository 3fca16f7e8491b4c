"""Meta-Curvature: a learned preconditioner. Park, Oliva, 2019, arXiv 1902.03356.

    θ'_{t+1} = θ'_t - α MC(∇L_S(θ'_t));   minimise  L_Q(θ'_K) over θ and the matrices of MC

For a kernel's gradient G [taps, I, O],  MC(G) = G ×_taps M_f ×_I M_i ×_O M_o,  with square
matrices M_f, M_i and M_o that start as the identity; for a vector [O], M_o alone.

Deviations: α is fixed; otherwise as `maml`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from medmeta_jax.algorithms._adaptation import adaptation
from medmeta_jax.heads import with_head
from medmeta_jax.inner import Order, Solve, descent, require_loop, require_positive, unrolled
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import Array, Backbone, Loss, MetaLearner, Params, PyTree, checked


def as_tensor(leaf: Array) -> Array:
    """A parameter as [taps, I, O], with axes of 1 where it has none."""
    inputs = leaf.shape[-2] if leaf.ndim > 1 else 1
    return leaf.reshape(math.prod(leaf.shape[:-2]), inputs, leaf.shape[-1])


def identities(leaf: Array) -> dict[str, Array]:
    """The matrices of a parameter, one an axis that is longer than 1."""
    sizes = zip(("taps", "inputs", "outputs"), as_tensor(leaf).shape, strict=True)
    return {name: jnp.eye(size, dtype=leaf.dtype) for name, size in sizes if size > 1}


def precondition(matrices: dict[str, Array], grad: Array) -> Array:
    """MC(grad).

    >>> grad = jnp.array([[1.0, 2.0]])
    >>> precondition({"outputs": jnp.array([[0.0, 1.0], [1.0, 0.0]])}, grad)
    Array([[2., 1.]], dtype=float32)
    """
    out = as_tensor(grad)
    for axis, name in enumerate(("taps", "inputs", "outputs")):
        if name in matrices:
            out = jnp.moveaxis(jnp.tensordot(matrices[name], out, (1, axis)), 0, axis)
    return out.reshape(grad.shape)


def metacurvature(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.1,
    order: Order = "mixed",
) -> MetaLearner:
    """Meta-Curvature over `backbone` and a linear head; `inner_lr` is α.

    meta_params: {"body", "head", "curvature": [a dict of matrices a parameter]}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = metacurvature(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body', 'curvature', 'head']
    """
    require_positive("inner_lr", inner_lr)
    require_loop(steps, order)
    model = with_head(backbone, outputs)

    def init(key: Array, x: PyTree) -> Params:
        params = model.init(key, x)
        return {**params, "curvature": [identities(p) for p in jax.tree.leaves(params)]}

    def solve(theta: Params) -> Solve:
        def direction(grads: Params, t: Array) -> Params:
            del t
            leaves, tree = jax.tree.flatten(grads)
            pairs = zip(theta["curvature"], leaves, strict=True)
            return jax.tree.unflatten(tree, [inner_lr * precondition(m, g) for m, g in pairs])

        return unrolled(descent(direction), steps=steps, order=order)

    adapt, predict, _ = adaptation(model, outputs=outputs, loss=loss, steps=steps, solve=solve)
    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
