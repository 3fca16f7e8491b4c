"""MAML++. Antoniou, Edwards, Storkey, 2019, arXiv 1810.09502.

    θ_{t+1} = θ_t - α_{l,t} ∇L_S(θ_t)  for each layer l;   minimise  Σ_t v_t L_Q(θ_t)

over θ, the rates α_{l,t}, and norm scales and biases of each step's own. v starts uniform
and moves to the last step over the first meta-steps; the meta-gradient is of first order for
some meta-steps, then of second. The paper's cosine outer rate is `--schedule cosine`.

Deviations: a layer is a parameter; norm statistics are those of the set at hand at every
step (`norm`), which makes them a step's own without running averages; the phase of first
order saves no time, since one program serves both; otherwise as `maml`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.algorithms._adaptation import adaptation
from medmeta_jax.heads import with_head
from medmeta_jax.inner import (
    Order,
    Path,
    Solve,
    descent,
    partition,
    require_loop,
    require_positive,
    unrolled,
)
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import (
    Array,
    Backbone,
    Episode,
    Info,
    Loss,
    MetaLearner,
    Params,
    PyTree,
    checked,
)

LEAST = 0.03  # of 1/K, below which the weight of an early step does not fall


def in_norm(path: Path) -> bool:
    """Whether a parameter is a norm layer's."""
    return len(path) > 1 and "norm" in path[-2].lower()


def outside_norms(path: Path) -> bool:
    """What the inner loop moves."""
    return not in_norm(path)


def step_weights(step: Array, steps: int, annealed: int) -> Array:
    """v [steps] at a meta-step: uniform at first, all but on the last after `annealed`.

    >>> step_weights(jnp.asarray(0), 4, 100)
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    least = LEAST / steps
    done = jnp.clip(step.astype(float) / max(annealed, 1), 0, 1) if annealed else jnp.ones(())
    early = jnp.maximum((1 - done) / steps, least)
    return jnp.full((steps,), early).at[-1].set(1 - (steps - 1) * early)


def maml_plus_plus(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 0.1,
    order: Order = "mixed",
    multi_step: int = 200,
    first_order: int = 0,
) -> MetaLearner:
    """MAML++ over `backbone` and a linear head.

    Args:
      inner_lr: where the rates start.
      multi_step: meta-steps over which the losses of early inner steps fade; 0: from the start.
      first_order: meta-steps of first order, before those of second.
      others: see `maml`.

    meta_params: {"body", "head", "rates": [steps] a parameter that moves, "offsets":
    [steps + 1, ...] a norm's parameter}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = maml_plus_plus(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> jax.tree.leaves(theta["rates"])[0].shape
    (5,)
    """
    require_positive("inner_lr", inner_lr)
    require_loop(steps, order)
    for name, value in (("multi_step", multi_step), ("first_order", first_order)):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    model = with_head(backbone, outputs)

    def init(key: Array, x: PyTree) -> Params:
        params = model.init(key, x)
        moving, norms = partition(outside_norms, params)
        rates = jax.tree.map(lambda p: jnp.full((steps,), inner_lr, p.dtype), moving)
        offsets = jax.tree.map(lambda p: jnp.zeros((steps + 1, *p.shape), p.dtype), norms)
        return {**params, "rates": rates, "offsets": offsets}

    def solve(theta: Params, second: Array) -> Solve:
        def direction(grads: Params, t: Array) -> Params:
            def one(rates: Array, grad: Array) -> Array:
                return rates[t] * jnp.where(second, grad, jax.lax.stop_gradient(grad))

            return jax.tree.map(one, theta["rates"], grads)

        return unrolled(descent(direction), steps=steps, order=order)

    def effective(params: Params, theta: Params, t: Array) -> Params:
        def one(leaf: Array, offset: Array | None) -> Array:
            return leaf if offset is None else leaf + offset[t]

        return jax.tree.map(one, params, theta["offsets"], is_leaf=lambda leaf: leaf is None)

    adapt, predict, problem = adaptation(
        model,
        outputs=outputs,
        loss=loss,
        steps=steps,
        solve=lambda theta: solve(theta, jnp.asarray(True)),
        moves=outside_norms,
        effective=effective,
    )

    def meta_loss(theta: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        inner_loss, moving, finish = problem(theta, episode.support, key)
        run = solve(theta, step >= first_order)
        after = run(inner_loss, moving, trajectory=True)

        @jax.checkpoint  # one step's query pass is held at a time
        def judged(moved_and_t: tuple[Params, Array]) -> tuple[Array, Array]:
            logits = predict(finish(*moved_and_t), episode.query.x, episode.query.mask)
            return loss(logits, episode.query.y, episode.query.mask), logits

        times = jnp.arange(1, steps + 1, dtype=jnp.int32)
        losses, logits = jax.lax.map(judged, (after, times))
        weights = step_weights(step, steps, multi_step).astype(losses.dtype)
        return weights @ losses, Info(losses[-1], logits[-1])

    chosen = meta_loss if steps else query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, chosen, backbone.norm))
