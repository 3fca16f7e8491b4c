"""A learner that learns which channels it can do without.

Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0 Regularization" (arXiv
1712.01312). A channel's gate is drawn for each episode, hard concrete,

    s = σ((log u - log(1 - u) + log α) / β),   z = min(1, max(0, s (ζ - γ) + γ)),   u ~ U(0, 1),

with β = 2/3, γ = -0.1, ζ = 1.1, and the meta-loss has λ Σ_c σ(log α_c - β log(-γ/ζ)) w_c added, the
expected share of the network that is open; w_c is the share of its parameters that channel c makes.
Adapting takes z without the noise, s = σ(log α).

Deviations: a gate multiplies what makes a channel after its norm, and where it is closed what reads
the channel is zero as well, so that an inner loop does not open it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.compress.channels import Channels
from medmeta_jax.compress.slicing import scaled
from medmeta_jax.types import (
    Array,
    Episode,
    Examples,
    Info,
    MetaLearner,
    Params,
    PyTree,
)
from medmeta_jax.weights import name_of

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


def stretched(s: Array) -> Array:
    """From (0, 1) to [0, 1], with its ends reached."""
    return jnp.clip(s * (ZETA - GAMMA) + GAMMA, 0, 1)


def drawn(key: Array, log_alpha: Array) -> Array:
    """Gates of an episode."""
    u = jax.random.uniform(key, log_alpha.shape, minval=1e-6, maxval=1 - 1e-6)
    return stretched(jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + log_alpha) / BETA))


def settled(log_alpha: Array) -> Array:
    """Gates without the noise."""
    return stretched(jax.nn.sigmoid(log_alpha))


def chance_open(log_alpha: Array) -> Array:
    """The probability of a gate that is not 0.

    >>> [f"{p:.2f}" for p in chance_open(jnp.asarray([-9.0, 2.0]))]
    ['0.00', '0.97']
    """
    return jax.nn.sigmoid(log_alpha - BETA * np.log(-GAMMA / ZETA))


def weights(params: Params, channels: Sequence[Channels]) -> list[float]:
    """The share of all channels' parameters that one channel of each set makes."""
    sizes = {name_of(path): leaf.size for path, leaf in jax.tree.leaves_with_path(params)}
    each = [sum(sizes[f"body/{m.name}"] for m in of.made) / of.size for of in channels]
    total = sum(value * of.size for value, of in zip(each, channels, strict=True))
    return [value / total for value in each]


def with_gates(
    learner: MetaLearner, channels: Sequence[Channels], *, penalty: float, start: float = 2.0
) -> MetaLearner:
    """The learner with a gate on each channel of its backbone.

    Args:
      penalty: λ. At 1, a network that is all open costs 1 nat.
      start: log α.

    meta_params: {"learner", "gates": [log α [size] of each set of channels]}. Reported losses and
    logits are those of the drawn network.
    """
    if penalty < 0:
        raise ValueError(f"penalty must be >= 0, got {penalty}")

    def init(key: Array, x: PyTree) -> Params:
        gates = [jnp.full(of.size, start) for of in channels]
        return {"learner": learner.init(key, x), "gates": gates}

    def adapt(params: Params, support: Examples, key: Array, steps: Any = None) -> PyTree:
        gates = [settled(log_alpha) for log_alpha in params["gates"]]
        return learner.adapt(scaled(params["learner"], channels, gates), support, key, steps)

    def loss(params: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        gate_key, key = jax.random.split(key)
        keys = jax.random.split(gate_key, len(channels))
        gates = [drawn(k, log_alpha) for k, log_alpha in zip(keys, params["gates"], strict=True)]
        gated = scaled(params["learner"], channels, gates)
        value, info = learner.loss(gated, episode, key, step)
        each = weights(params["learner"], channels)
        open_ = [w * chance_open(a).sum() for w, a in zip(each, params["gates"], strict=True)]
        return value + penalty * jnp.stack(open_).sum().astype(value.dtype), info

    return MetaLearner(init, adapt, learner.predict, loss, learner.norm)
