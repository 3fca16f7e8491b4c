"""The fast ops against the plain ones of JAX: values, first and second derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from medmeta_jax.ops import cells
from medmeta_jax.ops.conv import choose, conv, conv_general_dilated
from medmeta_jax.ops.norm import group_normalise, masked_moments, normalise
from medmeta_jax.ops.pool import max_pool
from medmeta_jax.ops.winograd import conv_corners


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def close(found, expected) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected
    )


@pytest.mark.parametrize(
    ("size", "kernel"), [((6, 7), 1), ((6, 7), 3), ((6, 7), 5), ((4, 5, 3), 3)]
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_conv_equals_lax(x64: None, size, kernel: int, stride: int, padding: str) -> None:
    x, w = normal(0, 2, *size, 3), normal(1, *(kernel,) * len(size), 3, 4)
    dx, dw = normal(2, *x.shape), normal(3, *w.shape)

    def loss(form):
        return lambda x, w: jnp.sin(conv(x, w, stride=stride, padding=padding, form=form)).sum()

    def everything(form):
        grad = jax.grad(loss(form), (0, 1))
        second, product = jax.jvp(grad, (x, w), (dx, dw))
        return conv(x, w, stride=stride, padding=padding, form=form), second, product

    found, expected = (jax.jit(everything, static_argnums=0)(f) for f in ("patches", "lax"))
    close(found, expected)


@pytest.mark.parametrize(("size", "stride"), [((6, 7), 1), ((6, 7), 2), ((4, 5, 3), 1)])
def test_conv_in_integers_is_within_its_grids(size, stride: int, x64: None) -> None:
    """As the convolution of what stands on the grids; an image is not touched by the others'."""
    x = normal(0, 3, *size, 3) * jnp.asarray([1.0, 100.0, 0.0]).reshape(3, *(1,) * (len(size) + 1))
    w = normal(1, *(3,) * len(size), 3, 4) * jnp.asarray([1.0, 10.0, 0.1, 0.0])
    found = conv(x, w, stride=stride, form="int8")
    rounded = []
    for array, axes in ((x, range(1, x.ndim)), (w, range(w.ndim - 1))):
        largest = jnp.abs(array).max(tuple(axes), keepdims=True)
        step = jnp.where(largest > 0, largest, 1) / 127
        rounded.append(jnp.round(array / step) * step)
    close(found, conv(*rounded, stride=stride, form="lax"))
    exact = conv(x, w, stride=stride, form="lax")
    for image in range(2):
        for output in range(3):
            error = found[image, ..., output] - exact[image, ..., output]
            assert 0 < jnp.linalg.norm(error) < 0.02 * jnp.linalg.norm(exact[image, ..., output])
    assert (found[2] == 0).all()
    close(conv(x[1:2], w, stride=stride, form="int8"), found[1:2])
    with pytest.raises(ValueError, match="rounding is flat"):
        jax.grad(lambda w: conv(x, w, form="int8").sum())(w)


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (2, 4)])
@pytest.mark.parametrize("fast", ["patches", "winograd"])
def test_conv_under_vmap_at_every_order(x64: None, fast: str, axes, channels: int) -> None:
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

    found, expected = (jax.jit(everything, static_argnums=0)(f) for f in (fast, "lax"))
    close(found, expected)


@pytest.mark.parametrize("size", [(6, 7), (5, 5), (4, 2)])
@pytest.mark.parametrize("channels", [1, 6])
def test_winograd_equals_lax(x64: None, size, channels: int) -> None:
    """Of few and of many channels, where patches and where sixteen products are taken."""
    x, w = normal(0, 2, *size, channels), normal(1, 3, 3, channels, 4)
    dx, dw = normal(2, *x.shape), normal(3, *w.shape)

    def everything(form):
        grad = jax.grad(lambda x, w: jnp.sin(conv(x, w, form=form)).sum(), (0, 1))
        return conv(x, w, form=form), *jax.jvp(grad, (x, w), (dx, dw))

    found, expected = (jax.jit(everything, static_argnums=0)(f) for f in ("winograd", "lax"))
    close(found, expected)


def test_winograd_in_float32_is_as_good_as_lax() -> None:
    """Against float64: its rounding error is within 4 times that of the direct form."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 14, 14, 64)), rng.normal(size=(3, 3, 64, 64)) / 24
    x, w = x.astype(np.float32), w.astype(np.float32)
    with jax.enable_x64(True):
        exact = np.asarray(conv(jnp.asarray(x, float), jnp.asarray(w, float), form="lax"))
    error = {
        form: np.abs(np.asarray(conv(jnp.asarray(x), jnp.asarray(w), form=form)) - exact).max()
        for form in ("winograd", "lax")
    }
    assert error["winograd"] < 4 * error["lax"] < 1e-4


def test_the_form_is_chosen_by_shape() -> None:
    x, w = jnp.ones((1, 6, 6, 8)), jnp.ones((3, 3, 8, 2))
    for stride, padding in ((1, "SAME"), (2, "SAME"), (1, "VALID")):
        found = conv(x, w, stride=stride, padding=padding)
        form = choose(w.shape, stride, padding, (6, 6))
        assert form == ("winograd" if (stride, padding) == (1, "SAME") else "patches")
        np.testing.assert_array_equal(found, conv(x, w, stride=stride, padding=padding, form=form))
    # Rounding up to whole cells, a 3x3 map would save little by Winograd, a 1x1 map lose.
    assert [choose(w.shape, 1, "SAME", (s, s)) for s in (1, 3, 5)] == [*["patches"] * 2, "winograd"]
    with pytest.raises(ValueError, match="form 'winograd' is for 3x3 kernels, stride 1"):
        conv(x, w, stride=2, form="winograd")


@pytest.mark.parametrize(("form", "axes"), [("winograd", 2), ("patches", 2), ("patches", 3)])
def test_every_derivative_of_conv_is_a_matrix_product(form: str, axes: int) -> None:
    """Vmapped and twice differentiated, the program holds no convolution."""

    def loss(w, x):
        inner = jax.grad(lambda v: jnp.sin(conv(x, v, form=form)).sum())(w)
        return (conv(x, w - inner, form=form) ** 2).sum()

    x, w = jnp.ones((3, 2, *(6,) * axes, 8)), jnp.ones((3, *(3,) * axes, 8, 4))
    text = jax.jit(jax.vmap(jax.grad(loss, (0, 1)))).lower(w, x).as_text()
    assert "dot_general" in text
    assert "stablehlo.convolution" not in text


CONVS = {
    "3x3": {"kernel_size": (3, 3)},
    "stride 2, valid": {"kernel_size": (3, 3), "strides": 2, "padding": "VALID"},
    "1x1": {"kernel_size": (1, 1)},
    "dilated": {"kernel_size": (3, 3), "kernel_dilation": 2},
    "grouped": {"kernel_size": (3, 3), "feature_group_count": 2},
    "explicit padding": {"kernel_size": (3, 3), "padding": ((1, 1), (0, 2))},
    "uneven strides": {"kernel_size": (3, 3), "strides": (1, 2)},
    "3-D": {"kernel_size": (3, 3, 3)},
    "1-D": {"kernel_size": (3,)},
}


@pytest.mark.parametrize("name", CONVS)
def test_a_flax_module_takes_it_by_one_argument(name: str) -> None:
    """`nn.Conv` computes the same; where `conv` applies, its program holds no convolution."""
    import flax.linen as nn

    spatial = (8, 8, 4)[: len(CONVS[name]["kernel_size"])]
    x = jax.random.normal(jax.random.key(0), (2, *spatial, 6))
    ours = nn.Conv(4, conv_general_dilated=conv_general_dilated, **CONVS[name])
    params = ours.init(jax.random.key(1), x)
    plain = nn.Conv(4, **CONVS[name])
    np.testing.assert_allclose(ours.apply(params, x), plain.apply(params, x), rtol=1e-3, atol=1e-5)
    text = jax.jit(ours.apply).lower(params, x).as_text()
    fast = name in ("3x3", "stride 2, valid", "1x1", "3-D")
    assert ("stablehlo.convolution" in text) == (not fast)


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


@pytest.mark.parametrize("shape", [(2, 6, 6, 3), (1, 5, 7, 2), (2, 4, 5, 7, 2)])
def test_max_pool_equals_reduce_window(x64: None, shape) -> None:
    x, d = normal(0, *shape), normal(1, *shape)

    def plain(x):
        window = (1, *(2,) * (x.ndim - 2), 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")

    def everything(pool):
        grad = jax.grad(lambda x: jnp.sin(pool(x)).sum())
        return pool(x), *jax.jvp(grad, (x,), (d,))

    for a, b in zip(everything(max_pool), everything(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_max_pool_gives_a_tie_to_one() -> None:
    for shape in ((1, 2, 2, 1), (1, 2, 2, 2, 1)):
        grad = jax.grad(lambda x: max_pool(x).sum())(jnp.ones(shape))
        assert grad.sum() == 1
        assert grad.ravel()[0] == 1


@pytest.mark.parametrize("shape", [(4, 4, 1), (1, 4, 1, 1), (1, 2, 2, 1, 1), (1, 2, 2, 2, 2, 1)])
def test_max_pool_refuses_what_it_cannot_halve(shape) -> None:
    with pytest.raises(ValueError, match=r"x must be .* with D, H, W >= 2"):
        max_pool(jnp.ones(shape))


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


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (2, 3)])
@pytest.mark.parametrize(("channels", "groups"), [(6, None), (6, 2), (2, None), (2, 2)])
def test_cells_equal_norm_and_pool_of_the_image(x64: None, size, channels, groups) -> None:
    """Statistics, norm and pool on the corners: value and derivatives, odd sizes, padding."""
    x, w = normal(0, 3, *size, channels), normal(1, 3, 3, channels, 4)
    scale, bias, mask = normal(2, 4), normal(3, 4), jnp.array([True, True, False])
    assert (scale < 0).any()  # a negative factor turns the order of the candidates

    def image(x, w, scale):
        y = conv(x, w, form="lax")
        if groups:
            return max_pool(group_normalise(y, scale, bias, groups))
        return max_pool(normalise(y, masked_moments(y, mask), scale, bias))

    def corners(x, w, scale):
        y = conv_corners(x, w)
        if groups:
            moments = cells.group_moments(y, size, groups)
        elif channels == 2:
            moments = cells.moments_from_patches(x, w, mask)
        else:
            moments = cells.moments(y, size, mask)
        return cells.pool_normalised(y, size, moments, scale, bias)

    def everything(form):
        def loss(*arguments):
            out = jnp.sin(form(*arguments))
            return jnp.where(mask[:, None, None, None], out, 0.0).sum()

        grad = jax.grad(loss, (0, 1, 2))
        second = jax.jvp(grad, (x, w, scale), (x**2, w**2, scale**2))
        return form(x, w, scale)[:2], second

    close(jax.jit(lambda: everything(corners))(), jax.jit(lambda: everything(image))())


def test_variance_from_patches_of_smooth_images() -> None:
    """The hardest case for it: small differences of pixels that are all but equal."""
    noise = np.random.default_rng(0).normal(size=(5, 28, 28, 1))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 4, 4, 0))
    x = jnp.asarray(128 + 50 * smooth / smooth.std(), jnp.float32)
    kernel = jnp.array([[[1, -1], [0, 2], [-1, -1]]] * 3, jnp.float32)[:, :, None]  # sum to 0
    found = cells.moments_from_patches(x, kernel, jnp.ones(5, bool)).var
    exact = conv(x, kernel, form="lax").reshape(-1, 2)
    np.testing.assert_allclose(found, np.asarray(exact, np.float64).var(0), rtol=3e-5)
    flat = cells.moments_from_patches(jnp.full((1, 6, 6, 1), 3.0), kernel * 0, jnp.ones(1, bool))
    np.testing.assert_array_equal(flat.var, 0)


def test_group_norm_equals_flax() -> None:
    import flax.linen as nn

    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 8))
    module = nn.GroupNorm(num_groups=4, epsilon=1e-5)
    expected = module.apply(module.init(jax.random.key(1), x), x)
    found = group_normalise(x, jnp.ones(8), jnp.zeros(8), 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
