"""PANet: prototypes of what is marked and of what is not. Wang et al., 2019, arXiv 1908.06391.

    p_c = Σ F(x) m_c / Σ m_c over the support's pixels;   logits_c(x) = s cos(F(x), p_c)

F(x) [n, *spatial, F] is the backbone's feature of each pixel, m_c 1 where the support's label is c,
s = 20. The alignment loss turns the parts around: prototypes of the query under its own predicted
labels are to mark the support,

    loss = L(query | support) + w L(support | query, its prediction)

Deviations: masks are at the features' resolution, which is the image's; a structure has one
prototype of all support pixels, and not the mean of one for each image; w is 1 and s 20, as there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.inner import require_positive
from medmeta_jax.losses import dice_and_cross_entropy
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


class Adapted(NamedTuple):
    """The body, prototypes [outputs, F], norm statistics."""

    body: Params
    prototypes: Array
    stats: PyTree


def prototypes_of(features: Array, y: Array, mask: Array, outputs: int = 2) -> Array:
    """The mean feature of the pixels that are not marked and of those that are, by what they are
    marked as: [outputs, F].

    features: [n, *spatial, F]; y: [n, *spatial] int; mask: [n]. 0 where there is no such pixel.
    """
    there = mask.reshape(-1, *(1,) * (y.ndim - 1))
    members = jnp.stack([(y == c) & there for c in range(outputs)], -1)
    flat = members.reshape(-1, outputs).astype(features.dtype)
    kept = jnp.where(there[..., None], features, 0).reshape(-1, features.shape[-1])
    return (flat.T @ kept) / jnp.maximum(flat.sum(0), 1)[:, None]


def unit(v: Array) -> Array:
    """Vectors [..., F] of length 1; the gradient of one of zeros is finite."""
    return v * jax.lax.rsqrt((v**2).sum(-1, keepdims=True) + 1e-6)


def require_masks(features: Array, support: Examples) -> None:
    """ValueError where there is no label, or no feature, for each pixel."""
    if support.y.ndim < 2 or support.y.shape != features.shape[:-1]:
        raise ValueError(
            "has a prototype for the pixels of a mask; these labels are none, or the backbone has "
            "no feature a pixel, as unet has"
        )


def panet(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = dice_and_cross_entropy,
    scale: float = 20.0,
    alignment: float = 1.0,
) -> MetaLearner:
    """PANet over a backbone with a feature a pixel.

    Args:
      outputs: 2, or for lesions one more than there are types.
      scale: s.
      alignment: w; 0 leaves the alignment loss out.

    `adapt` has no steps: its `steps` argument is ignored. meta_params: {"body"}. Raises ValueError,
    when adapting, where labels are no masks.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.unet import unet
    >>> learner = panet(unet(width=4, depth=2), outputs=2)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta)
    ['body']
    """
    if outputs < 2:
        raise ValueError(f"outputs must be >= 2 (not marked, marked), got {outputs}")
    require_positive("scale", scale)
    if alignment < 0:
        raise ValueError(f"alignment must be >= 0, got {alignment}")

    def init(key: Array, x: PyTree) -> Params:
        return {"body": backbone.init(key, x)}

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key, steps
        features, stats = backbone.apply(theta["body"], support.x, support.mask)
        require_masks(features, support)
        prototypes = prototypes_of(features, support.y, support.mask, outputs)
        return Adapted(theta["body"], prototypes, stats)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        return scale * unit(features) @ unit(adapted.prototypes).T

    def meta_loss(theta: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        del step
        support, query = episode.support, episode.query
        adapted = adapt(theta, support, key)
        features, _ = backbone.apply(theta["body"], query.x, query.mask, adapted.stats)
        logits = scale * unit(features) @ unit(adapted.prototypes).T
        value = loss(logits, query.y, query.mask)
        if not alignment:
            return value, Info(value, logits)
        back = prototypes_of(features, logits.argmax(-1), query.mask, outputs)
        again, _ = backbone.apply(theta["body"], support.x, support.mask, adapted.stats)
        aligned = loss(scale * unit(again) @ unit(back).T, support.y, support.mask)
        return value + alignment * aligned, Info(value, logits)

    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
