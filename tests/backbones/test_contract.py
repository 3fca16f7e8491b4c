"""The contract of a backbone, for every file of `backbones/` and every norm it takes."""

from __future__ import annotations

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from jax.flatten_util import ravel_pytree

from medmeta_jax import registry
from medmeta_jax.adapters import from_linen, from_nnx
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.backbones.conv4 import conv4
from medmeta_jax.backbones.unet import unet
from medmeta_jax.types import Backbone

from ..conftest import SIZE, WAYS, double, make_episode

NORMS = ("batch", "support", "group", "none")


def cases() -> list[tuple[str, str]]:
    found = []
    for name in registry.names("backbones"):
        for norm in NORMS:
            try:
                registry.factory("backbones", name)(norm=norm)
            except ValueError:
                continue
            found.append((name, norm))
    return found


class Case:
    """A backbone with its compiled functions, shared by its tests."""

    def __init__(self, name: str, norm: str) -> None:
        make = registry.factory("backbones", name)
        small = {}
        if "widths" in inspect.signature(make).parameters:
            # A residual block is three layers or so, and stems are one more.
            small = {"widths": (4,) if name in ("resnet12", "resnet18", "multimodal") else (4, 4)}
        self.backbone: Backbone = make(norm=norm, **small)
        self.apply = jax.jit(self.backbone.apply)
        start = jax.jit(self.backbone.init)
        self.init = functools.cache(lambda size: start(jax.random.key(0), inputs(size=size)[0]))


@pytest.fixture(scope="session", params=cases(), ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


PICTURE, VOLUME = (SIZE, SIZE), (4, 5, 6)


@pytest.fixture(params=[PICTURE, VOLUME], ids=["2-D", "3-D"])
def size(request: pytest.FixtureRequest, case: Case) -> tuple[int, ...]:
    """Pictures, and under one norm volumes: a norm does not ask how many axes there are."""
    if request.param == VOLUME and case.backbone.norm != "support":
        pytest.skip("volumes have the norms of pictures")
    found: tuple[int, ...] = request.param
    return found


def inputs(n: int = 3, size: tuple[int, ...] = PICTURE) -> tuple[jax.Array, jax.Array]:
    return jax.random.normal(jax.random.key(2), (n, *size, 2)), jnp.ones(n, bool)


def test_pure_and_deterministic(case: Case, size: tuple[int, ...]) -> None:
    x, mask = inputs(size=size)
    params = case.init(size)
    before = jax.tree.map(np.array, params)
    first, second = case.apply(params, x, mask), case.apply(params, x, mask)
    np.testing.assert_array_equal(first[0], second[0])
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert first[0].shape[0] == 3
    assert first[0].ndim >= 2


def test_its_own_statistics_given_back_change_nothing(case: Case, size: tuple[int, ...]) -> None:
    x, mask = inputs(size=size)
    params = case.init(size)
    out, stats = case.apply(params, x, mask)
    np.testing.assert_allclose(case.apply(params, x, mask, stats)[0], out, rtol=1e-5, atol=1e-6)
    assert bool(jax.tree.leaves(stats)) == (case.backbone.norm == "support")


def test_padding_does_not_reach_the_others(case: Case, size: tuple[int, ...]) -> None:
    x, mask = inputs(size=size)
    params = case.init(size)
    alone, _ = case.apply(params, x[:2], mask[:2])
    mask = mask.at[2].set(False)
    for rubbish in (1e3, 0.0):
        out, _ = case.apply(params, x.at[2].set(rubbish), mask)
        np.testing.assert_allclose(out[:2], alone, rtol=1e-4, atol=1e-5)


def test_one_exported_program_takes_any_number_of_images(case: Case) -> None:
    """The batch is a symbol to `jax.export`, as deployment wants it."""
    params = case.init(PICTURE)
    (n,) = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, SIZE, SIZE, 2), jnp.float32)
    mask = jax.ShapeDtypeStruct((n,), jnp.bool_)
    program = export.export(jax.jit(lambda p, x, m: case.backbone.apply(p, x, m)[0]))(
        params, images, mask
    )
    for count in (2, 3):
        given = inputs(count)
        np.testing.assert_allclose(
            program.call(params, *given), case.apply(params, *given)[0], rtol=1e-4, atol=1e-5
        )


# Of all that is here this compiles longest: the other norms are for the slow suite.
DERIVED = [
    pytest.param(case, id="-".join(case), marks=() if case[1] == "support" else pytest.mark.slow)
    for case in cases()
]


@pytest.mark.parametrize("case", DERIVED, indirect=True, scope="session")
def test_second_derivative_equals_differences(x64: None, case: Case, size: tuple[int, ...]) -> None:
    """A Hessian-vector product against central differences of the gradient, float64."""
    x, mask = inputs(size=size)
    x = x.astype(jnp.float64)
    params = double(case.init(size))
    flat, unravel = ravel_pytree(params)
    if not flat.size:
        pytest.skip("has no parameters")

    # Away from the initialisation, whose zero biases sit on the kinks of ReLU.
    flat = flat + 0.1 * jax.random.normal(jax.random.key(3), flat.shape, jnp.float64)

    def loss(vector):
        return jnp.tanh(case.backbone.apply(unravel(vector), x, mask)[0]).sum()

    grad = jax.jit(jax.grad(loss))
    direction = jax.random.normal(jax.random.key(1), flat.shape, jnp.float64)
    direction = direction / jnp.linalg.norm(direction)  # a short step meets few kinks
    product = jax.jit(lambda f, d: jax.jvp(grad, (f,), (d,))[1])(flat, direction)
    h = 1e-6
    difference = (grad(flat + h * direction) - grad(flat - h * direction)) / (2 * h)
    scale = float(jnp.abs(product).max())
    np.testing.assert_allclose(product, difference, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["conv4", "resnet12", "resnet18"])
def test_every_form_is_the_same_network(x64: None, name: str, norm: str) -> None:
    """On 7 x 7 and 3 x 3 maps, with biases where no norm follows: JAX's own convolution."""
    if name != "conv4" and norm != "batch":
        pytest.skip("its forms differ in the convolution alone")
    make = registry.factory("backbones", name)
    x, mask = jax.random.normal(jax.random.key(2), (3, 7, 7, 2)), jnp.array([True, True, False])
    params = make(norm=norm, widths=(6, 5), form="lax").init(jax.random.key(0), x)
    flat, unravel = ravel_pytree(params)
    params = unravel(flat + 0.3 * jax.random.normal(jax.random.key(3), flat.shape, flat.dtype))

    def result(form: str):
        apply = jax.jit(make(norm=norm, widths=(6, 5), form=form).apply)
        return apply(params, x, mask)[0][:2]

    for form in ("auto", "winograd", "patches"):
        np.testing.assert_allclose(result(form), result("lax"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["conv4", "resnet12", "resnet18"])
def test_every_form_is_the_same_network_on_volumes(x64: None, name: str) -> None:
    """Winograd's has no volumes: "auto" stands in."""
    make = functools.partial(registry.factory("backbones", name), norm="batch", widths=(6, 5))
    x, mask = inputs(2, (5, 4, 6))
    params = make(form="lax").init(jax.random.key(0), x)
    expected, auto, winograd = (
        jax.jit(make(form=form).apply)(params, x, mask)[0] for form in ("lax", "auto", "winograd")
    )
    np.testing.assert_allclose(auto, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(winograd, auto)


def test_a_volume_is_seen_in_all_its_depth() -> None:
    """Conv4 on 16 x 16 x 16: kernels of 27 taps, and each pool halves all three axes."""
    backbone = conv4(width=8, norm="batch")
    x = jnp.zeros((1, 16, 16, 16, 1))
    params = jax.eval_shape(backbone.init, jax.random.key(0), x)
    out, _ = jax.eval_shape(backbone.apply, params, x, jnp.ones(1, bool))
    assert out.shape == (1, 8)
    kernels = 27 * 8 + 3 * 27 * 8 * 8
    assert sum(p.size for p in jax.tree.leaves(params)) == kernels + 4 * 2 * 8
    for name in ("resnet12", "resnet18"):
        backbone = registry.factory("backbones", name)(widths=(4, 8))
        params = jax.eval_shape(backbone.init, jax.random.key(0), x)
        out, _ = jax.eval_shape(backbone.apply, params, x, jnp.ones(1, bool))
        assert out.shape == (1, 8)


def test_conv4_is_the_standard_network() -> None:
    """Conv4-64 on 28 pixels: 64 features, and the parameters of the literature less biases."""
    backbone = conv4(width=64, norm="batch")
    x = jnp.zeros((1, 28, 28, 1))
    params = jax.eval_shape(backbone.init, jax.random.key(0), x)
    out, _ = jax.eval_shape(backbone.apply, params, x, jnp.ones(1, bool))
    assert out.shape == (1, 64)
    kernels = 9 * 64 + 3 * 9 * 64 * 64
    assert sum(p.size for p in jax.tree.leaves(params)) == kernels + 4 * 2 * 64


@pytest.mark.parametrize("bad", [{"widths": (4, 0)}, {"width": 0}, {"norm": "layer"}])
def test_conv4_refuses_nonsense(bad) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        conv4(**bad)


class Stateful(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x)


def test_linen_state_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"Stateful keeps state in the collections \['batch_stats'"
    ):
        from_linen(Stateful()).init(jax.random.key(0), jnp.ones((2, 3)))


class Net(nnx.Module):
    """A user's own NNX module."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 5, rngs=rngs)])

    def __call__(self, x):
        x = nnx.relu(self.conv(x)).mean((1, 2))
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


def test_an_nnx_module_is_meta_trained() -> None:
    learner = maml(from_nnx(lambda rngs: Net(rngs=rngs)), outputs=WAYS, steps=2)
    episode = make_episode()
    params = learner.init(jax.random.key(0), episode.support.x)
    key, step = jax.random.key(1), jnp.zeros((), jnp.int32)
    grads = jax.jit(jax.grad(lambda p: learner.loss(p, episode, key, step)[0]))(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert float(jnp.abs(grads["body"]["conv"]["kernel"]).max()) > 0


def test_nnx_initialises_from_the_key() -> None:
    backbone = from_nnx(lambda rngs: Net(rngs=rngs))
    x = jnp.ones((2, SIZE, SIZE, 1))
    a, b, c = (backbone.init(jax.random.key(k), x)["conv"]["kernel"] for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_nnx_state_is_refused() -> None:
    backbone = from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs))
    with pytest.raises(ValueError, match=r"BatchNorm keeps state beside its nnx\.Param"):
        backbone.init(jax.random.key(0), jnp.ones((2, 3)))


def test_hypercolumns_hold_every_level_at_its_place(x64: None) -> None:
    """The last channels are the plain feature; the first are the coarsest level's, repeated.

    In float64: processors round the sums of float32 otherwise by up to 1e-6.
    """
    plain, whole = (unet(widths=(4, 3, 2), hypercolumns=there) for there in (False, True))
    x, mask = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.ones(2, bool)
    params = plain.init(jax.random.key(1), x)
    narrow, wide = (jax.jit(net.apply)(params, x, mask)[0] for net in (plain, whole))
    assert wide.shape == (2, 8, 8, 9)
    np.testing.assert_allclose(wide[..., 5:], narrow, rtol=1e-9)
    coarse = np.asarray(wide[..., :2]).reshape(2, 2, 4, 2, 4, 2)
    np.testing.assert_array_equal(coarse, np.broadcast_to(coarse[:, :, :1, :, :1], coarse.shape))
