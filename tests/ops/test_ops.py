"""The fast ops against the plain ones of JAX: values, first and second derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax.ops.conv import conv
from medmeta_jax.ops.norm import group_normalise, masked_moments, normalise
from medmeta_jax.ops.pool import max_pool


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def close(found, expected) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected
    )


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(6, 7)])
def test_conv_equals_lax(x64: None, kernel: int, stride: int, padding: str, size) -> None:
    x, w = normal(0, 2, *size, 3), normal(1, kernel, kernel, 3, 4)
    dx, dw = normal(2, *x.shape), normal(3, *w.shape)

    def loss(form):
        return lambda x, w: jnp.sin(conv(x, w, stride=stride, padding=padding, form=form)).sum()

    def everything(form):
        grad = jax.grad(loss(form), (0, 1))
        second, product = jax.jvp(grad, (x, w), (dx, dw))
        return conv(x, w, stride=stride, padding=padding, form=form), second, product

    found, expected = (jax.jit(everything, static_argnums=0)(f) for f in ("patches", "lax"))
    close(found, expected)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (2, 4)])
def test_conv_under_vmap_at_every_order(x64: None, axes, channels: int) -> None:
    """A kernel an episode, shared kernels, shared images: value, gradient, Hessian products."""
    x, w = normal(0, 2, 6, 5, channels), normal(1, 3, 3, channels, 4)
    x, w = (
        a if axis is None else jnp.moveaxis(jnp.stack([a, 2 * a, a**2]), 0, axis)
        for a, axis in zip((x, w), axes, strict=True)
    )
    dx, dw = normal(2, *x.shape), normal(3, *w.shape)

    def everything(form):
        def loss(x, w):
            return jnp.sin(jax.vmap(lambda a, b: conv(a, b, form=form), axes)(x, w)).sum()

        grad = jax.grad(loss, (0, 1))

        def product(x, w):
            parts = jax.jvp(grad, (x, w), (dx, dw))[1]
            return (parts[0] ** 2).sum() + (parts[1] ** 2).sum()

        return loss(x, w), grad(x, w), jax.grad(product, (0, 1))(x, w)

    found, expected = (jax.jit(everything, static_argnums=0)(f) for f in ("patches", "lax"))
    close(found, expected)


def test_every_derivative_of_conv_is_a_matrix_product() -> None:
    """Vmapped and twice differentiated, the program holds no convolution."""

    def loss(w, x):
        inner = jax.grad(lambda v: jnp.sin(conv(x, v)).sum())(w)
        return (conv(x, w - inner) ** 2).sum()

    x, w = jnp.ones((3, 2, 6, 6, 2)), jnp.ones((3, 3, 3, 2, 4))
    text = jax.jit(jax.vmap(jax.grad(loss, (0, 1)))).lower(w, x).as_text()
    assert "dot_general" in text
    assert "stablehlo.convolution" not in text


def test_conv_in_scan_and_float32(x64: None) -> None:
    x, w = normal(0, 3, 2, 6, 6, 2).astype(jnp.float32), normal(1, 3, 3, 2, 4).astype(jnp.float32)

    def loss(w, form):
        def step(total, one):
            return total + jnp.sin(conv(one, w, form=form)).sum(), None

        return jax.lax.scan(step, jnp.zeros((), jnp.float32), x)[0]

    found, expected = (jax.jit(jax.grad(loss), static_argnums=1)(w, f) for f in ("patches", "lax"))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_conv_refuses_wrong_axes() -> None:
    with pytest.raises(ValueError, match=r"x must be \[n, H, W, C\] and kernel \[kh, kw, C, O\]"):
        conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 3, 2)))
    with pytest.raises(ValueError, match="form must be one of"):
        conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2)), form="fft")


@pytest.mark.parametrize("shape", [(2, 6, 6, 3), (1, 5, 7, 2)])
def test_max_pool_equals_reduce_window(x64: None, shape) -> None:
    x, d = normal(0, *shape), normal(1, *shape)

    def plain(x):
        window = (1, 2, 2, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")

    def everything(pool):
        grad = jax.grad(lambda x: jnp.sin(pool(x)).sum())
        return pool(x), *jax.jvp(grad, (x,), (d,))

    for a, b in zip(everything(max_pool), everything(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_max_pool_gives_a_tie_to_one() -> None:
    grad = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    assert grad.sum() == 1
    assert grad[0, 0, 0, 0] == 1


def test_moments_and_normalise() -> None:
    x = jax.random.normal(jax.random.key(0), (4, 5, 5, 3)) * 3 + 1
    mask = jnp.array([True, True, True, False])
    moments = masked_moments(x, mask)
    kept = np.asarray(x[:3]).reshape(-1, 3)
    np.testing.assert_allclose(moments.mean, kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.var, kept.var(0), rtol=1e-4)
    out = normalise(x, moments, jnp.ones(3), jnp.zeros(3))[:3].reshape(-1, 3)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(0), 1, rtol=1e-3)


def test_group_norm_equals_flax() -> None:
    import flax.linen as nn

    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 8))
    module = nn.GroupNorm(num_groups=4, epsilon=1e-5)
    expected = module.apply(module.init(jax.random.key(1), x), x)
    found = group_normalise(x, jnp.ones(8), jnp.zeros(8), 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
