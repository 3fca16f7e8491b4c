"""P>M>F: pre-train, meta-train by ProtoNet, fine-tune. Hu et al., 2022, arXiv 2204.07305.

    P: cross-entropy over the pool's classes;   M: ProtoNet's loss;
    F: at meta-test  θ_{t+1} = θ_t - α ∇L(ProtoNet of S, on A_t(S)),  A_t an augmentation

The fine-tuning's prototypes are those of the support itself, and its queries the same images
shifted, by another shift each step.

Deviations: P and M are two phases of one training run, told apart by the meta-step; P learns
from the run's own pool, where the paper's is another, large one; A is a shift alone.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from medmeta_jax.algorithms._pretraining import (
    init_pretraining,
    pretraining_loss,
    require_sizes,
)
from medmeta_jax.algorithms.protonet import Adapted, protonet
from medmeta_jax.inner import require_positive, unrolled
from medmeta_jax.losses import cross_entropy
from medmeta_jax.types import (
    Array,
    Backbone,
    Episode,
    Examples,
    Info,
    Loss,
    MetaLearner,
    Params,
    PyTree,
    checked,
)

SHIFT = 8  # images move by up to an eighth of their size


def shifted(x: PyTree, key: Array) -> PyTree:
    """Images [n, *spatial, C] moved along each axis, around the edge, all by the same."""

    def one(leaf: Array) -> Array:
        axes = tuple(range(1, leaf.ndim - 1))
        most = jnp.asarray([max(1, leaf.shape[axis] // SHIFT) for axis in axes])
        by = jax.random.randint(key, most.shape, -most, most + 1)
        return jnp.roll(leaf, tuple(by), axes) if axes else leaf

    return jax.tree.map(one, x)


def pmf(
    backbone: Backbone,
    *,
    outputs: int,
    pool_classes: int = 1,
    loss: Loss = cross_entropy,
    steps: int = 10,
    inner_lr: float = 0.01,
    pretrain_steps: int = 200,
) -> MetaLearner:
    """Pre-training, then ProtoNet, then fine-tuning of the body on the support set.

    Args:
      outputs: ways of the new task.
      pool_classes: classes of the pool that pre-training learns.
      steps, inner_lr: gradient descent at meta-test.
      pretrain_steps: meta-steps of pre-training, before those of ProtoNet.

    meta_params: {"body", "head", "classifier"}, of which "head" is not used.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = pmf(conv4(width=4, depth=2), outputs=3, pool_classes=10)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> theta["classifier"]["kernel"].shape
    (16, 10)
    """
    require_sizes(outputs, pool_classes)
    require_positive("inner_lr", inner_lr)
    if pretrain_steps < 0:
        raise ValueError(f"pretrain_steps must be >= 0, got {pretrain_steps}")
    proto = protonet(backbone, outputs=outputs, loss=loss)
    pretrain = pretraining_loss(backbone)
    solve = unrolled(optax.sgd(inner_lr), steps=steps, order="first")

    def adapt(params: Params, support: Examples, key: Array, count: Any = None) -> Adapted:
        def prototypes(body: Params) -> Adapted:
            adapted: Adapted = proto.adapt({"body": body}, support, key)
            return adapted

        def inner_loss(body: Params, t: Array) -> Array:
            queries = shifted(support.x, jax.random.fold_in(key, t))
            logits = proto.predict(prototypes(body), queries, support.mask)
            return loss(logits, support.y, support.mask)

        return prototypes(solve(inner_loss, params["body"], count))

    def meta_loss(params: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        return jax.lax.cond(
            step < pretrain_steps,
            lambda: pretrain(params, episode, key, step),
            lambda: proto.loss({"body": params["body"]}, episode, key, step),
        )

    init = init_pretraining(backbone, outputs, pool_classes)
    return checked(MetaLearner(init, adapt, proto.predict, meta_loss, backbone.norm))
