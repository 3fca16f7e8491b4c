"""The inner loop: how an inner problem is solved, and how that is differentiated.

Both are one value, `solve(inner_loss, params, steps=None) -> params`, made here by
`unrolled`. `inner_loss(params, t)` closes over everything else it needs (support set,
frozen parameters, keys), so that derivatives reach all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from medmeta_jax.mixed import mixed_gradient
from medmeta_jax.types import Array, Params, PyTree, path_names

InnerLoss = Callable[[Params, Array], Array]
Solve = Callable[..., Params]
Order = Literal["second", "first", "mixed"]
Loop = Literal["scan", "unroll"]
Remat = Literal["auto", "none", "products", "gradient", "step"]
Path = tuple[str, ...]

INNER_GRADIENT = "inner_gradient"  # its name to a rematerialisation policy
# What of a step is kept for the backward pass; the rest is computed again.
KEPT: dict[str, Callable[..., Any]] = {
    "products": jax.checkpoint_policies.dots_saveable,
    "gradient": jax.checkpoint_policies.save_only_these_names(INNER_GRADIENT),
    "step": jax.checkpoint_policies.nothing_saveable,
}


def unrolled(
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    order: Order = "mixed",
    remat: Remat = "auto",
    loop: Loop = "scan",
) -> Solve:
    """Take `steps` optimiser steps on the inner loss and differentiate through them.

    MAML's inner loop (Finn et al., 2017, arXiv 1703.03400): θ_{t+1} = θ_t + u_t, where
    u_t is the optimiser's update from ∇L(θ_t, t).

    Args:
      optimiser: any optax transformation; its state starts afresh at each call. Inner
        Adam needs `eps_root > 0`, else its meta-gradient is NaN.
      steps: number of inner steps, >= 0.
      order: "mixed" and "second" are the same second-order derivative. "mixed" takes it
        forward over reverse, and keeps the activations of one step however many there are
        (`mixed.py`); it needs a loss that can be differentiated forward (no
        `jax.custom_vjp`), and cannot be itself. "second" takes it in reverse twice.
        "first" holds ∇L constant.
      remat: what of each step the backward pass computes again instead of holding it:
        "none" of it; all but its matrix "products"; all but its "gradient", which is the
        size of the parameters; or the whole "step". "auto" is "gradient" under "mixed",
        which computes nothing twice there, else "none".
      loop: "scan" compiles one step, "unroll" all of them, which takes longer. The same
        result.

    Returns:
      solve(inner_loss, params, steps=None) -> params after the steps. A traced `steps`
      runs a loop of that many steps that cannot be reverse-differentiated: it serves
      evaluation and deployment, where one executable is wanted for every count. With
      `trajectory=True`, which wants a number of steps that is known, the params after each
      step, [steps, ...].

    >>> solve = unrolled(optax.sgd(0.5), steps=1)
    >>> solve(lambda w, t: 0.5 * w**2, jnp.asarray(2.0))
    Array(1., dtype=float32)
    """
    require_loop(steps, order, remat, loop)
    if remat == "auto":
        # Optimisers whose update is not linear in the gradient need the gradient.
        remat = "gradient" if order == "mixed" else "none"

    def solve(
        inner_loss: InnerLoss, params: Params, count: Any = None, *, trajectory: bool = False
    ) -> Params:
        gradient = jax.grad(inner_loss)
        if order == "mixed":
            gradient = mixed_gradient(inner_loss, params, jnp.zeros((), jnp.int32))

        def step(carry: tuple[Params, PyTree], t: Array) -> tuple[Params, PyTree]:
            current, opt_state = carry
            grads = checkpoint_name(gradient(current, t), INNER_GRADIENT)
            if order == "first":
                grads = jax.lax.stop_gradient(grads)
            updates, opt_state = optimiser.update(grads, opt_state, current)
            return optax.apply_updates(current, updates), opt_state

        start = (params, optimiser.init(params))
        if isinstance(count, jax.Array):
            return jax.lax.fori_loop(0, count, lambda t, carry: step(carry, t), start)[0]
        total = steps if count is None else int(count)
        body = step
        if remat != "none":
            # A scan keeps recomputation apart from the first pass by itself; barriers against
            # merging the two would also hold in the loop what all its steps share.
            body = jax.checkpoint(step, policy=KEPT[remat], prevent_cse=loop == "unroll")
        carry, after = start, []
        if loop == "unroll":
            for t in range(total):
                carry = body(carry, jnp.asarray(t, jnp.int32))
                after.append(carry[0])
            return jax.tree.map(lambda *all_: jnp.stack(all_), *after) if trajectory else carry[0]

        def scanned(carry: tuple[Params, PyTree], t: Array) -> tuple[Any, Params]:
            carry = body(carry, t)
            return carry, carry[0] if trajectory else None

        last, path = jax.lax.scan(scanned, start, jnp.arange(total, dtype=jnp.int32))
        return path if trajectory else last[0]

    return solve


def descent(direction: Callable[[Params, Array], Params]) -> optax.GradientTransformation:
    """θ_{t+1} = θ_t - direction(∇L, t): an inner optimiser whose rates may be learned.

    >>> solve = unrolled(descent(lambda grads, t: 0.5 * grads), steps=1)
    >>> solve(lambda w, t: 0.5 * w**2, jnp.asarray(2.0))
    Array(1., dtype=float32)
    """

    def init(params: Params) -> Array:
        del params
        return jnp.zeros((), jnp.int32)

    def update(grads: Params, t: Array, params: Params = None) -> tuple[Params, Array]:
        del params
        return jax.tree.map(jnp.negative, direction(grads, t)), t + 1

    return optax.GradientTransformation(init, update)


def require_loop(steps: int, order: Order, remat: Remat = "auto", loop: Loop = "scan") -> None:
    """Refuse arguments that `unrolled` cannot take (ValueError)."""
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {get_args(Order)}, got {order!r}")
    if remat not in get_args(Remat):
        raise ValueError(f"remat must be one of {get_args(Remat)}, got {remat!r}")
    if loop not in get_args(Loop):
        raise ValueError(f"loop must be one of {get_args(Loop)}, got {loop!r}")


def require_positive(name: str, value: Any) -> None:
    """Refuse a number that is not above zero (ValueError).

    A traced value passes: a rate may be an argument of a compiled program, so that one
    executable serves every rate, or a meta-parameter that is learned.
    """
    if not isinstance(value, jax.core.Tracer) and not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def partition(moves: Callable[[Path], bool], params: Params) -> tuple[Params, Params]:
    """Split a tree in two by path: what the inner loop moves, and the rest.

    Each half has the whole tree's shape with None in place of the other's leaves (an
    empty subtree to JAX), so that an optimiser sees only the leaves it may move.
    `moves` gets the path as names, e.g. ("head", "kernel").

    >>> moving, rest = partition(lambda path: path[0] == "head", {"body": 1, "head": 2})
    >>> moving, rest, merge(moving, rest)
    ({'body': None, 'head': 2}, {'body': 1, 'head': None}, {'body': 1, 'head': 2})
    """

    def side(wanted: bool) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if moves(path_names(path)) == wanted else None, params
        )

    return side(True), side(False)


def merge(moving: Params, rest: Params) -> Params:
    """Undo `partition`.

    >>> moving, rest = partition(lambda path: path[0] == "head", {"body": 1, "head": 2})
    >>> merge(moving, rest)
    {'body': 1, 'head': 2}
    """
    return jax.tree.map(
        lambda m, r: r if m is None else m, moving, rest, is_leaf=lambda leaf: leaf is None
    )
