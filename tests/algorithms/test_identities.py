"""Closed forms and identities, method by method, in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from medmeta_jax import registry
from medmeta_jax.algorithms import maml_plus_plus as plus_plus
from medmeta_jax.algorithms.baseline_plus_plus import baseline_plus_plus
from medmeta_jax.algorithms.cavia import cavia
from medmeta_jax.algorithms.imaml import imaml
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.algorithms.maml_plus_plus import maml_plus_plus, outside_norms
from medmeta_jax.algorithms.metacurvature import metacurvature, precondition
from medmeta_jax.algorithms.metasgd import metasgd
from medmeta_jax.algorithms.protomaml import protomaml
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.algorithms.r2d2 import r2d2, ridge
from medmeta_jax.algorithms.reptile import reptile, together
from medmeta_jax.algorithms.tnet import tnet
from medmeta_jax.implicit import proximal
from medmeta_jax.inner import unrolled
from medmeta_jax.types import Examples

from ..conftest import WAYS, double, make_episode, padded, tiny_backbone

KEY, STEP = jax.random.key(1), jnp.zeros((), jnp.int32)


@pytest.fixture
def episode(x64: None):
    return double(make_episode())


def start(learner, episode):
    return double(learner.init(jax.random.key(0), episode.support.x))


def logits(learner, params, episode, steps=None):
    run = jax.jit(lambda p: learner.adapt(p, episode.support, KEY, steps))
    return learner.predict(run(params), episode.query.x, episode.query.mask)


def gradient(learner, params, episode, step=STEP):
    return jax.jit(jax.grad(lambda p: learner.loss(p, episode, KEY, step)[0]))(params)


def close(found, expected, rtol=1e-9) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-10),
                 found, expected)  # fmt: skip


# iMAML ------------------------------------------------------------------------------------


def quadratic():
    """L(φ) = ½ (φ - c)ᵀ A (φ - c), its A, c, and a start θ."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    return (
        jnp.asarray(root @ root.T),
        jnp.asarray(rng.normal(size=4)),
        jnp.asarray(rng.normal(size=4)),
    )


def test_implicit_gradient_of_a_quadratic(x64: None) -> None:
    """φ* = (A + λ)⁻¹ (A c + λ θ): the solution and its derivative in θ and in c, exactly."""
    hessian, centre, theta = quadratic()
    strength = 2.0
    solve = proximal(steps=500, inner_lr=0.05, strength=strength, cg_steps=20)

    def solution(theta, centre):
        return solve(lambda phi, t: 0.5 * (phi - centre) @ hessian @ (phi - centre), theta)

    inverse = jnp.linalg.inv(hessian + strength * jnp.eye(4))
    close(solution(theta, centre), inverse @ (hessian @ centre + strength * theta))
    along_theta, along_centre = jax.jacrev(solution, (0, 1))(theta, centre)
    close(along_theta, strength * inverse, rtol=1e-5)
    close(along_centre, inverse @ hessian, rtol=1e-5)


def test_implicit_gradient_equals_that_of_many_unrolled_steps(x64: None) -> None:
    """Logistic regression, on inputs that a learned scale reaches as well."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(12, 3))), jnp.asarray(rng.integers(0, 2, 12))
    theta, scale, strength = jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray([1.0, 0.5, 2.0]), 0.3

    def loss(phi, scale):
        return optax.softmax_cross_entropy_with_integer_labels(x * scale @ phi, y).mean()

    def through_unrolled(theta, scale):
        def proximal(phi, t):
            return loss(phi, scale) + 0.5 * strength * ((phi - theta) ** 2).sum()

        return unrolled(optax.sgd(0.5), steps=300, order="second")(proximal, theta)

    def through_implicit(theta, scale):
        solve = proximal(steps=300, inner_lr=0.5, strength=strength, cg_steps=20)
        return solve(lambda phi, t: loss(phi, scale), theta)

    def outer(solve):
        return jax.grad(lambda *given: jnp.sin(solve(*given)).sum(), (0, 1))(theta, scale)

    close(
        jax.jit(lambda: outer(through_implicit))(), jax.jit(lambda: outer(through_unrolled))(), 1e-4
    )


@pytest.mark.slow
def test_implicit_gradient_of_a_network(episode) -> None:
    """(I + H/λ)⁻¹ ∇L_Q with the whole Hessian, at the parameters that the steps reached."""
    strength = 30.0
    learner = imaml(tiny_backbone(), outputs=WAYS, steps=50, inner_lr=0.03, strength=strength,
                    cg_steps=60)  # fmt: skip
    params = start(learner, episode)
    model = maml(tiny_backbone(), outputs=WAYS, steps=0, order="second")

    def loss_of(side):
        def loss(vector):
            adapted = model.adapt(unravel(vector), episode.support, KEY)
            out = model.predict(adapted, side.x, side.mask)
            return optax.softmax_cross_entropy_with_integer_labels(out, side.y).mean()

        return loss

    phi, unravel = ravel_pytree(jax.jit(learner.adapt)(params, episode.support, KEY).params)
    hessian = jax.jit(jax.hessian(loss_of(episode.support)))(phi)
    slope = jax.jit(jax.grad(loss_of(episode.query)))(phi)
    expected = jnp.linalg.solve(jnp.eye(len(phi)) + hessian / strength, slope)
    found = ravel_pytree(gradient(learner, params, episode))[0]
    assert jnp.abs(slope - expected).max() > 1e-2  # the correction is there to be seen
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_implicit_gradient_under_vmap(x64: None) -> None:
    """As a chunk of episodes runs it: reverse mode over a vmap, and a vmap over reverse mode."""
    hessian, _, theta = quadratic()
    solve = proximal(steps=400, inner_lr=0.05, strength=2.0, cg_steps=20)
    centres = jnp.stack([theta, 2 * theta, -theta])

    def one(theta, centre):
        return (
            solve(lambda phi, t: 0.5 * (phi - centre) @ hessian @ (phi - centre), theta) ** 2
        ).sum()

    total = jax.grad(lambda theta: jax.vmap(one, (None, 0))(theta, centres).sum())(theta)
    each = jax.vmap(jax.grad(one), (None, 0))(theta, centres)
    close(total, sum(jax.grad(one)(theta, c) for c in centres), rtol=1e-6)
    close(each.sum(0), total, rtol=1e-6)


# Heads that are built from the support -----------------------------------------------------


def test_protomaml_before_its_first_step_is_protonet(episode) -> None:
    """The same softmax, and the same meta-gradient, with two images a class and one left out."""
    few = episode._replace(support=double(padded(episode.support, 2)))
    pair = [make(tiny_backbone(), outputs=WAYS) for make in (protomaml, protonet)]
    params = start(pair[0], few)
    found, expected = (jax.nn.log_softmax(logits(one, params, few, 0)) for one in pair)
    close(found, expected, rtol=1e-8)
    none = protomaml(tiny_backbone(), outputs=WAYS, steps=0)
    close(gradient(none, params, few), gradient(pair[1], params, few), rtol=1e-6)


def test_ridge_is_the_ridge_solution(x64: None) -> None:
    """Woodbury's form, of the examples' size, equals the one of the features' size."""
    rng = np.random.default_rng(0)
    for shape in ((4, 7), (9, 3)):
        x, y = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=(shape[0], 2)))
        direct = jnp.linalg.solve(x.T @ x + 0.3 * jnp.eye(shape[1]), x.T @ y)
        close(ridge(x, y, jnp.asarray(0.3)), direct)


def test_r2d2_is_a_ridge_of_the_features(episode) -> None:
    backbone = tiny_backbone()
    learner = r2d2(backbone, outputs=WAYS, strength=0.5, scale=3.0)
    params = start(learner, episode)
    seen, stats = backbone.apply(params["body"], episode.support.x, episode.support.mask)
    asked, _ = backbone.apply(params["body"], episode.query.x, episode.query.mask, stats)
    weights = ridge(seen, jax.nn.one_hot(episode.support.y, WAYS), jnp.asarray(0.5))
    close(logits(learner, params, episode), 3.0 * asked @ weights)


def test_baseline_plus_plus_starts_at_the_nearest_mean_by_angle(episode) -> None:
    backbone = tiny_backbone()
    learner = baseline_plus_plus(backbone, outputs=WAYS, scale=7.0)
    params = start(learner, episode)
    seen, stats = (np.asarray(a) if i == 0 else a for i, a in enumerate(
        backbone.apply(params["body"], episode.support.x, episode.support.mask)))  # fmt: skip
    asked = np.asarray(
        backbone.apply(params["body"], episode.query.x, episode.query.mask, stats)[0]
    )
    means = np.stack([seen[np.asarray(episode.support.y) == k].mean(0) for k in range(WAYS)])
    lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(means, axis=1)
    close(logits(learner, params, episode, 0), jnp.asarray(7.0 * (asked @ means.T) / lengths))


FROM_SUPPORT = ("protonet", "protomaml", "r2d2", "nearest_centroid", "baseline_plus_plus",
                "linear_probe", "finetune", "pmf")  # fmt: skip


@pytest.mark.parametrize("name", FROM_SUPPORT)
def test_naming_the_classes_otherwise_permutes_the_logits(episode, name: str) -> None:
    """Where the head is built from the support: no way is special."""
    extra = (
        {"pool_classes": WAYS} if "pool_classes" in registry.defaults("algorithms", name) else {}
    )
    if "steps" in registry.defaults("algorithms", name):
        extra["steps"] = 2
    learner = registry.factory("algorithms", name)(tiny_backbone(), outputs=WAYS, **extra)
    params = start(learner, episode)
    order = jnp.array([2, 0, 1])
    support = episode.support._replace(y=order[episode.support.y])
    renamed = episode._replace(support=support)
    close(logits(learner, params, renamed)[:, order], logits(learner, params, episode), rtol=1e-7)


# Reptile, Meta-SGD, MAML++, preconditioners -------------------------------------------------


def test_reptile_moves_towards_the_adapted_parameters(episode) -> None:
    """Its gradient is θ - φ, φ reached on support and query together."""
    learner = reptile(tiny_backbone(), outputs=WAYS, steps=4, inner_lr=0.3)
    params = start(learner, episode)
    both = together(episode.support, episode.query)
    descent = maml(tiny_backbone(), outputs=WAYS, steps=4, inner_lr=0.3)
    phi = jax.jit(descent.adapt)(params, both, KEY).params
    close(gradient(learner, params, episode), jax.tree.map(jnp.subtract, params, phi))
    info = jax.jit(learner.loss)(params, episode, KEY, STEP)[1]
    close(info.logits, logits(descent, params, episode))


def test_metasgd_with_equal_rates_is_maml(episode) -> None:
    learner = metasgd(tiny_backbone(), outputs=WAYS, steps=3, inner_lr=0.2)
    params = start(learner, episode)
    plain = maml(tiny_backbone(), outputs=WAYS, steps=3, inner_lr=0.2)
    theta = {name: params[name] for name in ("body", "head")}
    found = gradient(learner, params, episode)
    expected = gradient(plain, theta, episode)
    close({name: found[name] for name in expected}, expected, rtol=1e-7)


RATES = {"metasgd": "rates", "maml_plus_plus": "rates", "metacurvature": "curvature",
         "tnet": "transforms", "cavia": "film"}  # fmt: skip


@pytest.mark.parametrize("name", RATES)
def test_gradient_of_what_shapes_the_inner_loop_equals_differences(episode, name: str) -> None:
    """Of learned rates, preconditioners and modulation, along random directions."""
    learner = registry.factory("algorithms", name)(tiny_backbone(), outputs=WAYS, steps=3)
    params = start(learner, episode)
    flat, unravel = ravel_pytree(params[RATES[name]])
    loss = jax.jit(
        lambda v: learner.loss({**params, RATES[name]: unravel(v)}, episode, KEY, STEP)[0]
    )
    slope = jax.jit(jax.grad(loss))(flat)
    for seed in range(2):
        direction = jax.random.normal(jax.random.key(seed), flat.shape, jnp.float64)
        direction, h = direction / jnp.linalg.norm(direction), 1e-6
        difference = (loss(flat + h * direction) - loss(flat - h * direction)) / (2 * h)
        np.testing.assert_allclose(slope @ direction, difference, rtol=1e-4, atol=1e-9)


def test_maml_plus_plus_before_anything_is_learned_is_maml(episode) -> None:
    """Equal rates and no offsets: MAML's adaptation, with the norms' own parameters at rest."""
    learner = maml_plus_plus(tiny_backbone(), outputs=WAYS, steps=3, inner_lr=0.2)
    plain = maml(tiny_backbone(), outputs=WAYS, steps=3, inner_lr=0.2, moves=outside_norms)
    params = start(learner, episode)
    theta = {name: params[name] for name in ("body", "head")}
    close(logits(learner, params, episode), logits(plain, theta, episode))


@pytest.mark.slow
def test_maml_plus_plus_weighs_the_loss_after_each_step(episode) -> None:
    """At the start all alike; first order holds the inner gradient, and nothing else."""
    learner = maml_plus_plus(tiny_backbone(), outputs=WAYS, steps=3, inner_lr=0.2, first_order=5)
    params = start(learner, episode)
    labels = episode.query.y
    after = [
        optax.softmax_cross_entropy_with_integer_labels(logits(learner, params, episode, k), labels)
        for k in (1, 2, 3)
    ]
    value, info = jax.jit(learner.loss)(params, episode, KEY, STEP)
    close(value, jnp.stack(after).mean())
    close(info.loss, after[-1].mean())
    late = jnp.asarray(1000)
    close(plus_plus.step_weights(late, 3, 200), jnp.array([0.01, 0.01, 0.98]))
    held = maml_plus_plus(tiny_backbone(), outputs=WAYS, steps=3, inner_lr=0.2, order="first")
    close(gradient(learner, params, episode), gradient(held, params, episode))
    gap = ravel_pytree(gradient(learner, params, episode, late))[0]
    assert jnp.abs(gap - ravel_pytree(gradient(held, params, episode, late))[0]).max() > 1e-4


@pytest.mark.parametrize("make", [metacurvature, tnet])
def test_preconditioners_start_as_maml(episode, make) -> None:
    learner = make(tiny_backbone(), outputs=WAYS, steps=3, inner_lr=0.2)
    params = start(learner, episode)
    plain = maml(tiny_backbone(), outputs=WAYS, steps=3, inner_lr=0.2)
    theta = {name: params[name] for name in ("body", "head")}
    close(logits(learner, params, episode), logits(plain, theta, episode))


def test_meta_curvature_is_a_product_of_modes(x64: None) -> None:
    """Against the Kronecker product of its matrices on the flattened gradient."""
    rng = np.random.default_rng(0)
    grad = jnp.asarray(rng.normal(size=(2, 2, 3, 5)))
    m = {name: jnp.asarray(rng.normal(size=(size, size)))
         for name, size in (("taps", 4), ("inputs", 3), ("outputs", 5))}  # fmt: skip
    whole = jnp.kron(jnp.kron(m["taps"], m["inputs"]), m["outputs"])
    close(precondition(m, grad).reshape(-1), whole @ grad.reshape(-1))


def test_tnet_moves_along_the_gradient_times_its_gram_matrix(episode) -> None:
    """One step of the head: W T moves by -α G TᵀT, G the gradient at W T."""
    learner = tnet(tiny_backbone(), outputs=WAYS, steps=1, inner_lr=0.1)
    params = start(learner, episode)
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(WAYS, WAYS)))
    leaves = jax.tree.leaves({name: params[name] for name in ("body", "head")})
    head = next(i for i, leaf in enumerate(leaves) if leaf is params["head"]["kernel"])
    params["transforms"][head] = matrix
    still = {**params, "head": {**params["head"], "kernel": params["head"]["kernel"] @ matrix}}
    plain = maml(tiny_backbone(), outputs=WAYS, steps=1, inner_lr=0.1)
    theta = {name: still[name] for name in ("body", "head")}
    moved = plain.adapt(theta, episode.support, KEY).params["head"]["kernel"]
    step = (moved - theta["head"]["kernel"]) @ matrix.T @ matrix
    found = learner.adapt(params, episode.support, KEY).params["head"]["kernel"]
    close(found, theta["head"]["kernel"] + step)


def test_cavia_with_an_empty_context_is_the_head(episode) -> None:
    backbone = tiny_backbone()
    learner = cavia(backbone, outputs=WAYS, size=5)
    params = start(learner, episode)
    plain = maml(backbone, outputs=WAYS, steps=0)
    theta = {name: params[name] for name in ("body", "head")}
    close(logits(learner, params, episode, 0), logits(plain, theta, episode))


def test_boil_moves_the_body_alone(episode) -> None:
    learner = registry.factory("algorithms", "boil")(tiny_backbone(), outputs=WAYS)
    params = start(learner, episode)
    adapted = learner.adapt(params, episode.support, KEY).params
    close(adapted["head"], params["head"], rtol=0)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), adapted["body"], params["body"])
    assert all(gap > 0 for gap in jax.tree.leaves(moved))


def test_fomaml_is_maml_of_first_order(episode) -> None:
    pair = [
        registry.factory("algorithms", "fomaml")(tiny_backbone(), outputs=WAYS),
        maml(tiny_backbone(), outputs=WAYS, order="first"),
    ]
    params = start(pair[0], episode)
    found, expected = (gradient(one, params, episode) for one in pair)
    close(found, expected, rtol=0)


def test_reptile_joins_sets() -> None:
    one = make_episode().support
    joined = together(one, one)
    assert isinstance(joined, Examples)
    assert joined.mask.shape == (2 * len(one.y),)
