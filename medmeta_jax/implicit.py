"""Implicit differentiation: the gradient of a solution without the way to it.

Rajeswaran, Finn, Kakade, Levine, 2019 (iMAML, arXiv 1909.04630). With

    φ* = argmin_φ  L(φ) + λ/2 ‖φ - θ‖²,     so that   ∇L(φ*) + λ (φ* - θ) = 0,

the derivative of φ* follows from that equation alone:  dφ*/dθ = (I + ∇²L(φ*) / λ)⁻¹. A
cotangent v is multiplied with it by conjugate gradient, one Hessian-vector product a step, to
u; of all else that L depends on (a frozen body, an augmentation) the cotangent is
-u·∂²L/∂λ'∂φ / λ, which comes with the last such product (`mixed.py`).

Memory is that of one gradient, however many inner steps there are. The price is that the
result is as exact as the two solvers: φ* by gradient descent, the product by a few steps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from medmeta_jax.inner import InnerLoss, Solve, require_positive
from medmeta_jax.mixed import opened
from medmeta_jax.types import Params


def proximal(*, steps: int, inner_lr: float, strength: float, cg_steps: int) -> Solve:
    """Solve the proximal inner problem by gradient descent; differentiate it implicitly.

    Args:
      steps: of gradient descent, >= 0.
      inner_lr: its rate.
      strength: λ.
      cg_steps: of conjugate gradient, >= 1.

    The inner loss is taken at t = 0: a loss that changes from step to step has no solution.

    >>> solve = proximal(steps=100, inner_lr=0.2, strength=1.0, cg_steps=5)
    >>> jax.grad(lambda w: solve(lambda v, t: 1.5 * (v - 1.0) ** 2, w))(jnp.asarray(0.0))
    Array(0.25, dtype=float32)
    """
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if cg_steps < 1:
        raise ValueError(f"cg_steps must be >= 1, got {cg_steps}")
    require_positive("inner_lr", inner_lr)
    require_positive("strength", strength)

    def solve(inner_loss: InnerLoss, params: Params, count: Any = None) -> Params:
        zero = jnp.zeros((), jnp.int32)
        value, outer, other = opened(inner_loss, params, zero)

        def solution(theta: Params, outer: Any, other: Any, count: Any) -> Params:
            def step(t: Any, phi: Params) -> Params:
                del t
                grads = jax.grad(value)(phi, outer, other, zero)
                return jax.tree.map(
                    lambda p, g, at: p - inner_lr * (g + strength * (p - at)), phi, grads, theta
                )

            return jax.lax.fori_loop(0, count, step, theta)

        def forward(*inputs: Any) -> tuple[Params, Any]:
            phi = solution(*inputs)
            return phi, (phi, *inputs[1:])

        def backward(kept: Any, cotangent: Params) -> tuple[Any, ...]:
            phi, outer, other, _ = kept

            def slopes(phi: Params) -> tuple[Params, Any]:
                return jax.grad(value, (0, 1))(phi, outer, other, zero)

            def products(along: Params) -> tuple[Params, Any]:
                """∂²L/∂φ∂φ along, and ∂²L/∂λ'∂φ along."""
                return jax.jvp(slopes, (phi,), (along,))[1]

            def operator(along: Params) -> Params:
                return jax.tree.map(lambda a, h: a + h / strength, along, products(along)[0])

            u = cg(operator, cotangent, maxiter=cg_steps)[0]
            of_outer = jax.tree.map(lambda leaf: -leaf / strength, products(u)[1])
            return u, of_outer, None, None

        solved = jax.custom_vjp(solution)
        solved.defvjp(forward, backward)
        return solved(params, outer, other, jnp.asarray(steps if count is None else count))

    return solve
