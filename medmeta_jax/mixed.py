"""Mixed-mode meta-gradients: one inner step's activations, however many steps there are.

Kemaev et al., 2025 (MixFlow-MG, arXiv 2505.00793). Reverse mode through an inner step
θ' = θ + u(∇_θ L(θ, λ)) needs, for a cotangent v of ∇_θ L, the products v·∂²L/∂θ∂θ and
v·∂²L/∂λ∂θ. Second derivatives commute, so both are one Jacobian-vector product of the
whole gradient, forward over reverse:

    d/dε ∇_(θ,λ) L(θ + εv, λ) = (∂²L/∂θ∂θ v, ∂²L/∂λ∂θ v)

which keeps one step's activations, where reverse over reverse keeps every step's. What
grows with the steps is a copy of the parameters each.

λ is everything else that the loss depends on (a frozen body, an augmentation policy, the
images): all that it closes over is found by tracing it, so no cotangent is dropped.
Deviation: the paper gives the Hessian's part; the rest of the product comes with it here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend as jex
import jax.numpy as jnp

from medmeta_jax.types import Array, Params


class Opened(NamedTuple):
    """An inner loss with what it closes over made arguments.

    value: (params, outer, other, t) -> scalar. outer: its real arrays, which may have
    cotangents; other: the rest.
    """

    value: Callable[..., Array]
    outer: list[Any]
    other: list[Any]


def opened(inner_loss: Callable[[Params, Array], Array], params: Params, t: Array) -> Opened:
    """Find all that an inner loss depends on by tracing it at examples of its arguments."""
    traced = jax.make_jaxpr(inner_loss)(params, t)
    real = [jnp.issubdtype(jnp.result_type(c), jnp.inexact) for c in traced.consts]

    def value(moving: Params, outer: list[Any], other: list[Any], t: Array) -> Array:
        reals, others = iter(outer), iter(other)
        consts = [next(reals) if is_real else next(others) for is_real in real]
        program = jex.core.jaxpr_as_fun(jex.core.ClosedJaxpr(traced.jaxpr, consts))
        return program(*jax.tree.leaves(moving), t)[0]

    outer = [c for c, is_real in zip(traced.consts, real, strict=True) if is_real]
    other = [c for c, is_real in zip(traced.consts, real, strict=True) if not is_real]
    return Opened(value, outer, other)


def mixed_gradient(
    inner_loss: Callable[[Params, Array], Array], params: Params, t: Array
) -> Callable[[Params, Array], Params]:
    """∇_θ of an inner loss, (params, t) -> gradient, whose derivative is taken forward.

    `params` and `t` are examples; the loss is traced once, for all steps.

    >>> gradient = mixed_gradient(lambda w, t: w**3, jnp.asarray(2.0), jnp.asarray(0))
    >>> jax.grad(gradient)(jnp.asarray(2.0), jnp.asarray(0))
    Array(12., dtype=float32, weak_type=True)
    """
    value, outer, other = opened(inner_loss, params, t)
    # Under jit, so that it is traced once for its value and as the rule's forward pass, which calls
    # it and not the rule again: within another gradient a loop would mix up what it keeps.
    plain = jax.jit(jax.grad(value))
    gradient = jax.custom_vjp(plain)

    def forward(*inputs: Any) -> tuple[Params, Any]:
        return plain(*inputs), inputs

    def backward(inputs: Any, cotangent: Params) -> tuple[Any, ...]:
        moving, outer, other, t = inputs

        def everything(moving: Params) -> tuple[Params, list[Any]]:
            return jax.grad(value, (0, 1))(moving, outer, other, t)

        _, (along_moving, along_outer) = jax.jvp(everything, (moving,), (cotangent,))
        return along_moving, along_outer, None, None

    gradient.defvjp(forward, backward)
    return lambda moving, t: gradient(moving, outer, other, t)
