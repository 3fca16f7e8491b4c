"""How much each channel is worth: what is worth least is taken out.

- `magnitude`: the mean absolute weight of the kernels that make it (Li et al., "Pruning Filters for
  Efficient ConvNets", arXiv 1608.08710, by the mean in place of the sum, as its kernels differ);
- `sensitivity`: the square of the meta-loss' derivative by a factor on the channel at 1, the mean
  over episodes (Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv
  1906.10771, equation 8 for a gate), of the loss after adaptation and not of a classifier;
- `random`: what the others have to be better than.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.compress.channels import Channels
from medmeta_jax.compress.slicing import scaled
from medmeta_jax.types import Array, Episode, MetaLearner, Params
from medmeta_jax.weights import named

Scores = list[np.ndarray]  # of each `Channels`, [size]


def magnitude(params: Params, channels: Sequence[Channels]) -> Scores:
    """By the kernels' weights."""
    arrays = named(params)

    def one(of: Channels) -> np.ndarray:
        kernels = [arrays[f"body/{m.name}"] for m in of.made if m.name.endswith("kernel")]
        return np.sum([np.abs(k).mean(tuple(range(k.ndim - 1))) for k in kernels], 0)

    return [one(of) for of in channels]


def random(key: Array, channels: Sequence[Channels]) -> Scores:
    """By chance."""
    keys = jax.random.split(key, len(channels))
    return [
        np.asarray(jax.random.uniform(k, (of.size,))) for k, of in zip(keys, channels, strict=True)
    ]


def sensitivity(
    learner: MetaLearner,
    params: Params,
    channels: Sequence[Channels],
    draw: Callable[[Array], Episode],
    key: Array,
    *,
    episodes: int = 50,
) -> Scores:
    """By the meta-loss over so many episodes, each `draw`n from a key."""
    if episodes < 1:
        raise ValueError(f"episodes must be >= 1, got {episodes}")

    def loss(factors: list[Array], key: Array) -> Array:
        draw_key, key = jax.random.split(key)
        gated = scaled(params, channels, factors, read=False)
        return learner.loss(gated, draw(draw_key), key, jnp.zeros((), jnp.int32))[0]

    ones = [jnp.ones(of.size) for of in channels]
    squares = jax.jit(lambda key: [g**2 for g in jax.grad(loss)(ones, key)])
    total = [np.zeros(of.size) for of in channels]
    for one in jax.random.split(key, episodes):
        total = [a + np.asarray(b) for a, b in zip(total, squares(one), strict=True)]
    return [value / episodes for value in total]
