"""ALPNet: prototypes of parts of the support's images. Ouyang et al., 2020, arXiv 2007.09886.

    p_k = mean of F(x) over a window;   it is of what is marked where the mean of m over the window
    is at least T, and of the rest where it is at most 1 - T
    s_k(x) = s cos(F(x), p_k);   logits_c(x) = Σ_k s_k(x) softmax_k(s_k(x)) over the k of class c

Each class has its prototype over all support pixels among its own too (PANet's), so that a
structure smaller than a window has one.

Deviations: as PANet's here, but without its alignment loss; what is not marked has its prototype
over all pixels too; the self-supervision by superpixels is not part of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.algorithms.panet import prototypes_of, require_masks, unit
from medmeta_jax.inner import require_positive
from medmeta_jax.losses import ABSENT, dice_and_cross_entropy, query_loss
from medmeta_jax.types import (
    Array,
    Backbone,
    Examples,
    Loss,
    MetaLearner,
    Params,
    PyTree,
    checked,
)


class Adapted(NamedTuple):
    """The body, prototypes [K, F], which class each is of [outputs, K] bool, norm statistics."""

    body: Params
    prototypes: Array
    members: Array
    stats: PyTree


def window_means(values: Array, windows: int) -> Array:
    """Means over windows: [n, *spatial, F] -> [n, K, F], `windows` along each axis or as many as
    there are pixels; what is left at the end of an axis is in none.

    >>> window_means(jnp.arange(5.0).reshape(1, 5, 1, 1), 2)[0, :, 0]
    Array([0.5, 2.5], dtype=float32)
    """
    for axis in range(1, values.ndim - 1):
        size = max(1, values.shape[axis] // windows)
        count = values.shape[axis] // size
        kept = jax.lax.slice_in_dim(values, 0, count * size, axis=axis)
        shape = (*kept.shape[:axis], count, size, *kept.shape[axis + 1 :])
        values = kept.reshape(shape).mean(axis + 1)
    return values.reshape(values.shape[0], -1, values.shape[-1])


def alpnet(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = dice_and_cross_entropy,
    scale: float = 20.0,
    windows: int = 4,
    threshold: float = 0.95,
) -> MetaLearner:
    """ALPNet over a backbone with a feature a pixel.

    Args:
      outputs: 2, or for lesions one more than there are types.
      scale: s.
      windows: along each axis of an image.
      threshold: T, above a half.

    `adapt` has no steps: its `steps` argument is ignored. meta_params: {"body"}. Raises ValueError,
    when adapting, where labels are no masks.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.unet import unet
    >>> learner = alpnet(unet(width=4, depth=2), outputs=2)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body']
    """
    if outputs < 2:
        raise ValueError(f"outputs must be >= 2 (not marked, marked), got {outputs}")
    require_positive("scale", scale)
    if windows < 1:
        raise ValueError(f"windows must be >= 1, got {windows}")
    if not 0.5 < threshold <= 1:
        raise ValueError(f"threshold must be > 0.5 and <= 1, got {threshold}")

    def init(key: Array, x: PyTree) -> Params:
        return {"body": backbone.init(key, x)}

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key, steps
        features, stats = backbone.apply(theta["body"], support.x, support.mask)
        require_masks(features, support)
        whole = prototypes_of(features, support.y, support.mask, outputs)
        clean = jnp.where(support.mask.reshape(-1, *(1,) * (features.ndim - 1)), features, 0)
        parts = window_means(clean, windows)
        kinds = jnp.arange(1, outputs, dtype=support.y.dtype)
        share = window_means((support.y[..., None] == kinds).astype(features.dtype), windows)
        of_rest = share.sum(-1, keepdims=True) <= 1 - threshold
        of_class = jnp.concatenate([of_rest, share >= threshold], -1) & support.mask[:, None, None]
        of_class = jnp.moveaxis(of_class, -1, 0).reshape(outputs, -1)
        members = jnp.concatenate([of_class, jnp.eye(outputs, dtype=jnp.bool_)], 1)
        prototypes = jnp.concatenate([parts.reshape(-1, parts.shape[-1]), whole])
        return Adapted(theta["body"], prototypes, members, stats)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        near = scale * unit(features) @ unit(adapted.prototypes).T  # [n, *spatial, K]

        def of_class(members: Array) -> Array:
            weights = jax.nn.softmax(jnp.where(members, near, jnp.full_like(near, ABSENT)))
            return (weights * near).sum(-1)

        return jnp.stack([of_class(members) for members in adapted.members], -1)

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
