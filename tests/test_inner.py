"""The inner loop against closed forms, exact published values, and itself in other forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax.inner import merge, partition, unrolled

W = jnp.array([2.0, 3.0, 5.0])


def half_square(x):
    return lambda w, t: 0.5 * jnp.dot(w, x) ** 2


@pytest.mark.parametrize("order", ["second", "mixed"])
def test_exact_second_order(order: str) -> None:
    """One step on a linear model; values of torchmeta's test suite."""
    support, query = jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 5.0, 6.0])
    solve = unrolled(optax.sgd(0.5), steps=1, order=order)

    def outer(w):
        adapted = solve(half_square(support), w)
        return half_square(query)(adapted, 0), adapted

    (loss, adapted), grad = jax.value_and_grad(outer, has_aux=True)(W)
    np.testing.assert_array_equal(adapted, [-9.5, -20.0, -29.5])
    assert loss == 49612.5
    np.testing.assert_array_equal(grad, [3780.0, 8505.0, 13230.0])


def test_exact_first_order() -> None:
    support, query = jnp.array([4.0, 5.0, 6.0]), jnp.array([1.0, 2.0, 3.0])
    solve = unrolled(optax.sgd(0.5), steps=1, order="first")
    grad = jax.grad(lambda w: half_square(query)(solve(half_square(support), w), 0))(W)
    np.testing.assert_array_equal(grad, [-825.0, -1650.0, -2475.0])


@pytest.mark.parametrize("loop", ["unroll", "scan"])
@pytest.mark.parametrize("order", ["second", "mixed"])
def test_exact_three_steps(loop: str, order: str) -> None:
    support, query = jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 5.0, 6.0])
    solve = unrolled(optax.sgd(1.0), steps=3, loop=loop, order=order)
    adapted = solve(half_square(support), W)
    np.testing.assert_array_equal(adapted, [-3609.0, -7219.0, -10828.0])
    grad = jax.grad(lambda w: jnp.dot(solve(half_square(support), w), query))(W)
    np.testing.assert_array_equal(grad, [-5020.0, -10043.0, -15066.0])


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_quadratics(x64: None, steps: int) -> None:
    """meta-gradient = (I - αA)^K ∇L_Q(θ'_K); first order lacks the factor."""
    rng = np.random.default_rng(steps)
    root = rng.normal(size=(4, 4))
    hessian, centre, target = root @ root.T / 4, rng.normal(size=4), rng.normal(size=4)
    theta, rate = jnp.asarray(rng.normal(size=4)), 0.1

    def inner(w, t):
        return 0.5 * (w - centre) @ hessian @ (w - centre)

    def outer(w, order):
        adapted = unrolled(optax.sgd(rate), steps=steps, order=order)(inner, w)
        return 0.5 * ((adapted - target) ** 2).sum()

    power = np.linalg.matrix_power(np.eye(4) - rate * hessian, steps)
    adapted = centre + power @ (np.asarray(theta) - centre)
    np.testing.assert_allclose(jax.grad(outer)(theta, "first"), adapted - target, rtol=1e-10)
    np.testing.assert_allclose(
        jax.grad(outer)(theta, "second"), power @ (adapted - target), rtol=1e-10
    )


OPTIMISERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1, eps_root=1e-8),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("order", ["second", "first", "mixed"])
def test_every_form_of_the_loop_is_the_same(x64: None, name: str, order: str) -> None:
    """Unrolled, scanned and rematerialised: equal values and equal meta-gradients."""
    target = jnp.asarray(np.random.default_rng(0).normal(size=5))

    def inner(w, t):
        return jnp.sum(jnp.sin(w * target) ** 2) * (1.0 + 0.1 * t.astype(w.dtype))

    def outer(w, **form):
        adapted = unrolled(OPTIMISERS[name], steps=7, order=order, **form)(inner, w)
        return jnp.sum((adapted - target) ** 2)

    theta = jnp.linspace(-1.0, 1.0, 5)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int
        value, grad = jax.value_and_grad(lambda w: outer(w, loop="unroll"))(theta)
        assert jnp.isfinite(grad).all()
        forms = [{"loop": "scan"}, {"loop": "unroll", "remat": "step"}]
        forms += [{"remat": remat} for remat in ("none", "products", "gradient", "step")]
        for form in forms:
            other, other_grad = jax.value_and_grad(lambda w, form=form: outer(w, **form))(theta)
            np.testing.assert_allclose(other, value, rtol=1e-12)
            np.testing.assert_allclose(other_grad, grad, rtol=1e-10)


def test_number_of_steps_as_an_argument() -> None:
    """A traced count runs that many steps, in one executable."""
    solve = unrolled(optax.sgd(0.1), steps=3)
    inner = half_square(jnp.array([0.1, 0.2, 0.3]))
    traced = jax.jit(lambda n: solve(inner, W, n))
    for count in range(5):
        expected = unrolled(optax.sgd(0.1), steps=count)(inner, W)
        np.testing.assert_allclose(traced(jnp.asarray(count)), expected, rtol=1e-6)
        np.testing.assert_allclose(solve(inner, W, count), expected, rtol=1e-6)
    assert traced._cache_size() == 1
    np.testing.assert_array_equal(unrolled(optax.sgd(0.1), steps=0)(inner, W), W)


def test_the_step_number_reaches_the_loss() -> None:
    """t counts 0, 1, 2: the gradient of sum_t t * w is what was subtracted."""
    solve = unrolled(optax.sgd(1.0), steps=3)
    moved = solve(lambda w, t: t.astype(jnp.float32) * w, jnp.asarray(10.0))
    assert moved == 10.0 - (0 + 1 + 2)


def test_remat_stores_less() -> None:
    """With each policy the program holds fewer temporaries, which is its point."""

    def outer(w, remat):
        def inner(v, t):
            hidden = jnp.tanh(jnp.outer(v, jnp.arange(4096.0)))
            return ((hidden @ jnp.ones((4096, 2))) ** 2).mean()

        return unrolled(optax.sgd(0.1), steps=8, remat=remat, order="second")(inner, w).sum()

    def temporaries(remat):
        lowered = jax.jit(jax.grad(lambda w: outer(w, remat))).lower(jnp.ones(64))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    whole = temporaries("none")
    for remat in ("products", "gradient", "step"):
        assert temporaries(remat) < 0.5 * whole, remat


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        unrolled(optax.sgd(0.1), steps=-1)
    with pytest.raises(ValueError, match=r"order must be one of .*'third'"):
        unrolled(optax.sgd(0.1), steps=1, order="third")
    with pytest.raises(ValueError, match=r"remat must be one of .*True"):
        unrolled(optax.sgd(0.1), steps=1, remat=True)
    with pytest.raises(ValueError, match=r"loop must be one of .*'while'"):
        unrolled(optax.sgd(0.1), steps=1, loop="while")


def test_partition_moves_only_what_it_names() -> None:
    params = {"body": {"kernel": jnp.ones(2)}, "head": [jnp.ones(3), jnp.ones(1)]}
    moving, rest = partition(lambda path: path[0] == "head" and path[1] == "0", params)
    assert len(jax.tree.leaves(moving)) == 1
    assert len(jax.tree.leaves(rest)) == 2
    assert jax.tree.structure(merge(moving, rest)) == jax.tree.structure(params)
    solve = unrolled(optax.sgd(0.5), steps=2)
    moved = solve(lambda m, t: sum(map(jnp.sum, jax.tree.leaves(m))), moving)
    found = merge(moved, rest)
    np.testing.assert_array_equal(found["body"]["kernel"], 1.0)
    np.testing.assert_array_equal(found["head"][1], 1.0)
    np.testing.assert_array_equal(found["head"][0], 0.0)
