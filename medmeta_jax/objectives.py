"""What of a meta-step's losses is lowered: their mean, the worst of them, the worst domain.

An objective weighs the episodes of a meta-batch by their losses; the meta-gradient is the sum
of the episodes' gradients under these weights. The mean, which is the default, needs none of
this and is `None` where an objective is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from medmeta_jax.types import Array, PyTree


class Objective(NamedTuple):
    """An objective as two pure functions.

    init: (mixing [D], how often an episode comes from each domain) -> state.
    weigh: (state, losses [B], domains [B] int) -> (weights [B], state). The weights are the
        objective's derivative by the losses, and carry no gradient themselves.
    """

    init: Callable[[Array], PyTree]
    weigh: Callable[[PyTree, Array, Array], tuple[Array, PyTree]]


def cvar(*, share: float) -> Objective:
    """The mean loss of the worst episodes of a meta-batch (conditional value at risk).

    Rockafellar and Uryasev, "Optimization of conditional value-at-risk" (2000): over B
    episodes the worst `share` * B have weight 1 / (share * B), the last of them in part
    where that is no whole number. A share of 1 is the mean. An estimate from few episodes is
    of a smaller tail than it says: the worst of 4 is not the worst quarter of all tasks.

    Args:
      share: of the episodes, in (0, 1].

    >>> objective = cvar(share=0.5)
    >>> objective.weigh((), jnp.array([3.0, 1.0, 2.0, 4.0]), jnp.zeros(4, int))[0]
    Array([0.5, 0. , 0. , 0.5], dtype=float32)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be > 0 and <= 1, got {share}")

    def weigh(state: PyTree, losses: Array, domains: Array) -> tuple[Array, PyTree]:
        del domains
        tail = share * losses.shape[0]
        rank = jnp.argsort(jnp.argsort(-losses)).astype(losses.dtype)
        return jnp.clip(tail - rank, 0.0, 1.0) / tail, state

    return Objective(lambda mixing: (), weigh)


class DomainWeights(NamedTuple):
    """p [D], the adversary's weight of each domain, and how often each is drawn, q [D]."""

    p: Array
    q: Array


def tr_maml(*, rate: float) -> Objective:
    """The loss of the worst domain: task-robust MAML, arXiv 2002.04766.

    Solves min over θ, max over p in the simplex, of Σ_d p_d F_d(θ), F_d the meta-loss on
    domain d, by descent on θ and projected ascent on p at once:

        θ <- the outer optimiser's step along (1/B) Σ_b (p_d(b) / q_d(b)) ∇ loss_b
        p <- projection on the simplex of p + rate * g,  g_d = (1/B) Σ_{b of d} loss_b / q_d

    q_d is how often domain d is drawn, so that both are estimates without bias.

    Deviations: the tasks of the paper are the domains of a run here (a task of few classes is
    drawn once and never again), the outer optimiser is the run's own, and the last and best θ
    is taken in place of the average over steps.

    Args:
      rate: of the ascent, > 0.

    >>> tr_maml(rate=0.01).init(jnp.array([0.25, 0.75])).p
    Array([0.5, 0.5], dtype=float32)
    """
    if not rate > 0:
        raise ValueError(f"rate must be > 0, got {rate}")

    def init(mixing: Array) -> DomainWeights:
        count = mixing.shape[0]
        return DomainWeights(jnp.full((count,), 1 / count, mixing.dtype), mixing / mixing.sum())

    def weigh(state: DomainWeights, losses: Array, domains: Array) -> tuple[Array, DomainWeights]:
        each = 1 / (losses.shape[0] * state.q[domains].astype(losses.dtype))
        weights = state.p[domains].astype(losses.dtype) * each
        gain = jnp.zeros_like(state.p).at[domains].add((each * losses).astype(state.p.dtype))
        with jax.numpy_dtype_promotion("standard"):  # optax divides by a whole number there
            p = optax.projections.projection_simplex(state.p + rate * gain)
        return weights, state._replace(p=p)

    return Objective(init, weigh)
