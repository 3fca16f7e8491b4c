"""Examples and tasks made of two.

- MixUp (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899) of the query set,
  and MetaMix (Yao et al., arXiv 2007.13040), whose other image is one of the support set:

    x̃ = λ x_a + (1 - λ) x_b,   L = λ ℓ(x̃, y_a) + (1 - λ) ℓ(x̃, y_b),   λ ~ Beta(α, α);

  of CutMix x̃ is x_a but for a box of x_b, of a share 1 - λ of the image.
- MLTI (Yao, Zhang, Finn, arXiv 2106.02695): a task between two others, way by way,

    x̃ = λ x_i + (1 - λ) x_j  for support and query, the way is the label.

Deviations: all of them mix images, where MetaMix and MLTI mix the features of a layer drawn by
chance, since a backbone is one function here. MetaMix leaves its channel exchange out. MLTI mixes a
share of the episodes, and leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from medmeta_jax.types import Array, Episode, Examples, Info, Loss, MetaLearner, Params, select

OfQueries = Literal["mixup", "cutmix", "metamix"]


def require_alpha(alpha: float) -> None:
    """ValueError where a Beta distribution cannot have it."""
    if alpha <= 0:
        raise ValueError(f"alpha must be > 0, got {alpha}")


def of_mask(key: Array, mask: Array, count: int) -> Array:
    """So many places [count] of those that are there, drawn with replacement; 0 where none is."""
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf), shape=(count,))


def box(key: Array, share: Array, height: int, width: int) -> Array:
    """A box [H, W] bool at a random place, of about that share of the image, cut at its edges."""
    places = jax.random.uniform(key, (2,))
    half = jnp.sqrt(share).astype(places.dtype) / 2
    rows, columns = (
        jnp.abs((jnp.arange(size, dtype=places.dtype) + 0.5) / size - place) < half
        for place, size in zip(places, (height, width), strict=True)
    )
    return rows[:, None] & columns[None, :]


def mixed_queries(
    how: OfQueries, alpha: float, key: Array, episode: Episode
) -> tuple[Examples, Array, Array]:
    """The mixed query set, with the labels of the first image, those of the other, and λ [n].

    Of label maps CutMix cuts the map too, and λ is 1: there is no other label.
    """
    query, other = episode.query, episode.support if how == "metamix" else episode.query
    n = query.mask.shape[0]
    draw_key, partner_key, box_key = jax.random.split(key, 3)
    drawn = jax.random.beta(draw_key, alpha, alpha, (n,)).astype(query.x.dtype)
    partner = of_mask(partner_key, other.mask, n)
    x, x_other = select(query.x, query.mask), select(other.x, other.mask)[partner]
    y_other = other.y[partner]
    if how != "cutmix":
        wide = drawn.reshape(-1, *(1,) * (x.ndim - 1))
        return query._replace(x=wide * x + (1 - wide) * x_other), y_other, drawn
    height, width = x.shape[-3:-1]
    keys = jax.random.split(box_key, n)
    cut = jax.vmap(lambda k, share: box(k, share, height, width))(keys, 1 - drawn)
    if x.ndim == 5:  # every slice of a volume alike
        cut = jnp.broadcast_to(cut[:, None], x.shape[:-1])
    mixed = jnp.where(cut[..., None], x_other, x)
    if query.y.ndim == x.ndim - 1:
        y = jnp.where(cut, y_other, query.y)
        return Examples(mixed, y, query.mask), y, jnp.ones_like(drawn)
    kept = 1 - cut.reshape(n, -1).mean(1)
    return query._replace(x=mixed), y_other, kept.astype(drawn.dtype)


def with_mixed_queries(
    learner: MetaLearner, loss: Loss, *, how: OfQueries, alpha: float = 1.0
) -> MetaLearner:
    """The learner, meta-trained on mixed queries; `adapt` and `predict` see images as they are.

    Args:
      learner: one whose scalar to differentiate is `loss` of the query set.
      loss: (logits, y, mask) -> scalar, a mean over examples.
      how: see the module. alpha: of Beta(α, α); 1 is uniform.

    The query loss that is reported is that of the first labels.
    """
    require_alpha(alpha)
    if how not in get_args(OfQueries):
        raise ValueError(f"how must be one of {get_args(OfQueries)}, got {how!r}")

    def mixed_loss(params: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        mix_key, key = jax.random.split(key)
        query, y_other, kept = mixed_queries(how, alpha, mix_key, episode)
        value, info = learner.loss(params, episode._replace(query=query), key, step)
        if how == "cutmix" and query.y.ndim == query.x.ndim - 1:
            return value, info  # the map is cut, and there is no other label

        def each(y: Array) -> Array:
            """The loss of every example by itself."""
            there = jnp.ones(1, bool)
            return jax.vmap(lambda one, label: loss(one[None], label[None], there))(info.logits, y)

        gap = select((1 - kept) * (each(y_other) - each(query.y)), query.mask)
        count = jnp.maximum(query.mask.sum(), 1).astype(value.dtype)
        return value + gap.sum().astype(value.dtype) / count, info

    return learner._replace(loss=mixed_loss)


def mixed_tasks(
    sampler: Callable[[Array, Any], Episode], *, alpha: float = 0.5, share: float = 0.5
) -> Callable[[Array, Any], Episode]:
    """A sampler that mixes a share of its episodes with another one each (MLTI).

    Labels are classes. An example is there where both of its parts are, of one way.
    """
    require_alpha(alpha)
    if not 0 <= share <= 1:
        raise ValueError(f"share must be >= 0 and <= 1, got {share}")

    def draw(key: Array, pool: Any) -> Episode:
        *keys, mix_key, chance_key = jax.random.split(key, 4)
        first, second = (sampler(k, pool) for k in keys)
        drawn = jax.random.beta(mix_key, alpha, alpha)
        factor = jnp.where(jax.random.uniform(chance_key) < share, drawn, 1.0)

        def both(a: Examples, b: Examples) -> Examples:
            part = factor.astype(a.x.dtype)
            x = part * select(a.x, a.mask) + (1 - part) * select(b.x, b.mask)
            paired = a.mask & b.mask & (a.y == b.y)
            return a._replace(x=x, mask=jnp.where(factor < 1, paired, a.mask))

        return first._replace(
            support=both(first.support, second.support), query=both(first.query, second.query)
        )

    return draw
