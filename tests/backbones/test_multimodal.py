"""Stems and their fusion: what is absent has no part, and what was never seen begins alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax.backbones.multimodal import moments, multimodal
from medmeta_jax.types import Params

KEY, MASK = jax.random.key(0), jnp.ones(3, bool)
X = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
PARTIAL = X.at[0, ..., 1].set(jnp.nan).at[1, ..., :2].set(jnp.nan)


def moved(params: Params) -> Params:
    """Away from the initialisation, where the modalities' own convolutions are zero."""
    return jax.tree.map(lambda p: p + 0.3 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)


def test_mean_and_variance_are_over_what_is_there() -> None:
    y = jnp.asarray([[[1.0], [5.0], [9.0]], [[2.0], [7.0], [0.0]]])
    there = jnp.asarray([[True, False, True], [False, True, False]])
    mean, var = moments(y, there)
    np.testing.assert_allclose(mean, [[5.0], [7.0]])
    np.testing.assert_allclose(var, [[16.0], [0.0]])
    np.testing.assert_array_equal(moments(y, there & False)[0], np.zeros((2, 1)))


@pytest.mark.parametrize("norm", ["support", "group", "none"])
@pytest.mark.parametrize("trunk", ["conv4", "unet"])
def test_what_is_absent_changes_nothing(norm: str, trunk: str) -> None:
    """Neither the images that lack a modality nor others; the same as of the others alone."""
    backbone = multimodal(width=4, depth=2, trunk=trunk, norm=norm)
    params, apply = moved(backbone.init(KEY, X)), jax.jit(backbone.apply)
    out, _ = apply(params, PARTIAL, MASK)
    assert jnp.isfinite(out).all()
    full, _ = apply(params, X, MASK)
    assert jnp.abs(out - full).max() > 1e-3
    lone = X.at[..., 1].set(jnp.nan)
    fewer = {**params, "stems": {k: v for k, v in params["stems"].items() if k != "own_1"}}
    fewer["stems"]["own_1"] = fewer["stems"].pop("own_2")
    two, _ = apply(fewer, X[..., jnp.asarray([0, 2])], MASK)
    np.testing.assert_allclose(apply(params, lone, MASK)[0], two, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_and_none_reaches_an_absent_stem() -> None:
    backbone = multimodal(width=4, depth=2, norm="support")
    params = moved(backbone.init(KEY, X))
    lone = X.at[..., 1].set(jnp.nan)

    def loss(params: Params, x: jax.Array) -> jax.Array:
        return (backbone.apply(params, x, MASK)[0] ** 2).sum()

    (of_params, of_x) = jax.jit(jax.grad(loss, (0, 1)))(params, lone)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves((of_params, of_x)))
    reached = {m: float(jnp.abs(of_params["stems"][f"own_{m}"]["kernel"]).max()) for m in range(3)}
    assert reached[1] == 0
    assert min(reached[0], reached[2]) > 0
    assert not of_x[..., 1].any()


def test_a_stem_that_was_never_trained_is_the_shared_one() -> None:
    own, shared = (multimodal(width=4, depth=2, stems=s) for s in ("own", "shared"))
    params = own.init(KEY, X)
    assert set(params["stems"]) == {"shared", "own_0", "own_1", "own_2", "Norm_0"}
    of_all = {**params, "stems": {k: v for k, v in params["stems"].items() if "own" not in k}}
    apply = jax.jit(shared.apply)
    expected, _ = apply(of_all, PARTIAL, MASK)
    found, _ = jax.jit(own.apply)(params, PARTIAL, MASK)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    turned, _ = apply(of_all, PARTIAL[..., ::-1], MASK)
    np.testing.assert_allclose(turned, expected, rtol=1e-4, atol=1e-5)


def test_a_modality_that_the_support_lacks_has_statistics() -> None:
    """Those of all that is there: else a query that has it would be divided by almost nothing."""
    backbone = multimodal(width=4, depth=2, norm="support")
    params = backbone.init(KEY, X)
    _, stats = backbone.apply(params, X.at[..., 1].set(jnp.nan), MASK)
    out, _ = backbone.apply(params, X.at[..., :1].set(jnp.nan), MASK, stats)
    assert float(jnp.abs(out).max()) < 30


def test_hypercolumns_are_the_trunk_s() -> None:
    """A pixel has the features of both levels, the finer one's as without them."""
    plain, wide = (
        multimodal(width=4, depth=2, trunk="unet", hypercolumns=h) for h in (False, True)
    )
    params = plain.init(KEY, X)
    one, two = (jax.jit(made.apply)(params, PARTIAL, MASK)[0] for made in (plain, wide))
    assert two.shape == (*one.shape[:-1], 8 + 4)
    np.testing.assert_allclose(two[..., 8:], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        {"trunk": "vit"}, {"stems": "none"}, {"width": 0}, {"depth": 0}, {"norm": "layer"},
        {"hypercolumns": True},
    ],
)  # fmt: skip
def test_nonsense_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        multimodal(**bad)
