"""The contract of a meta-learner, for every file of `algorithms/`."""

from __future__ import annotations

from typing import Any

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from medmeta_jax import registry
from medmeta_jax.backbones.conv4 import conv4
from medmeta_jax.types import Episode, Examples, MetaLearner

from ..conftest import OF_MASKS, WAYS, make_episode, padded, tiny_backbone

# Those that mark structures alone meet the contract in test_contract_masks.py.
NAMES = tuple(name for name in registry.names("algorithms") if name not in OF_MASKS)
KEY, STEP = jax.random.key(1), jnp.zeros((), jnp.int32)


# Learners whose scalar to differentiate is another than the query loss that they report.
SURROGATES = ("reptile", "maml_plus_plus")
# Learners that classify by the support's means before their first step, and the side on which
# their steps are seen to help: they have nothing to gain on tasks that the means solve.
FROM_MEANS = {"protomaml": "support", "baseline_plus_plus": "support", "pmf": "query"}


class Case:
    """A learner with its parameters and compiled functions, shared by its tests."""

    def __init__(self, name: str, norm: str) -> None:
        self.steps = registry.defaults("algorithms", name).get("steps")
        arguments: dict[str, Any] = {"outputs": WAYS}
        if self.steps:
            arguments["steps"] = 3
        # Learners that pre-train lose on the pool's classes, and adapt only when judged.
        self.pretrains = "pool_classes" in registry.defaults("algorithms", name)
        if self.pretrains:
            arguments["pool_classes"] = WAYS
        self.surrogate, self.from_means = name in SURROGATES, FROM_MEANS.get(name)
        self.learner: MetaLearner = registry.factory("algorithms", name)(
            conv4(widths=(4,), norm=norm, form="patches"), **arguments
        )
        self.episode = make_episode()
        self.params = jax.jit(self.learner.init)(jax.random.key(0), self.episode.support.x)
        self.adapt = jax.jit(self.learner.adapt)
        self.predict = jax.jit(self.learner.predict)
        self.grad = jax.jit(jax.value_and_grad(self.learner.loss, has_aux=True))


@pytest.fixture(scope="session", params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param, "support")


def close(a: Any, b: Any, rtol: float = 1e-4) -> None:
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=1e-5)


def test_jit_and_plain_agree(case: Case) -> None:
    plain = case.learner.adapt(case.params, case.episode.support, KEY)
    close(case.adapt(case.params, case.episode.support, KEY), plain)
    query = case.episode.query
    logits = case.learner.predict(plain, query.x, query.mask)
    close(case.predict(plain, query.x, query.mask), logits)
    assert logits.shape == (query.y.shape[0], WAYS)


def test_vmap_agrees_with_one_at_a_time(case: Case) -> None:
    episodes = [make_episode(k) for k in range(3)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *episodes)
    keys = jax.random.split(KEY, 3)
    each = [case.grad(case.params, e, k, STEP)[0][0] for e, k in zip(episodes, keys, strict=True)]
    together = jax.jit(jax.vmap(case.learner.loss, (None, 0, 0, None)))
    close(together(case.params, batch, keys, STEP)[0], jnp.stack(each))


def test_same_key_same_result(case: Case) -> None:
    first = case.grad(case.params, case.episode, KEY, STEP)
    second = case.grad(case.params, case.episode, KEY, STEP)
    chex.assert_trees_all_equal(first, second)


def test_gradients_are_finite_and_reach_the_body(case: Case) -> None:
    (value, info), grads = case.grad(case.params, case.episode, KEY, STEP)
    chex.assert_tree_all_finite((value, info, grads))
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["body"])) > 0
    assert info.logits.shape == (case.episode.query.y.shape[0], WAYS)


def test_the_loss_judges_on_the_query_what_the_support_alone_has_taught(case: Case) -> None:
    if case.pretrains:
        pytest.skip("its loss is that of pre-training")
    query = case.episode.query
    adapted = case.adapt(case.params, case.episode.support, KEY)
    logits = case.predict(adapted, query.x, query.mask)
    (value, info), _ = case.grad(case.params, case.episode, KEY, STEP)
    close(info.logits, logits)
    by_hand = -jax.nn.log_softmax(logits)[jnp.arange(len(query.y)), query.y].mean()
    close(info.loss, by_hand)
    assert case.surrogate or value == info.loss


@pytest.mark.parametrize("name", NAMES)
def test_volumes_are_learnt_from_too(name: str) -> None:
    """Traced and not run: with kernels of three dimensions every shape fits."""
    learner = registry.factory("algorithms", name)(conv4(widths=(4,)), outputs=WAYS)

    def volumes(examples: Examples) -> Examples:
        return examples._replace(x=jnp.zeros((len(examples.y), 4, 5, 6, 1)))

    flat = make_episode()
    episode = flat._replace(support=volumes(flat.support), query=volumes(flat.query))
    params = jax.eval_shape(learner.init, KEY, episode.support.x)
    grads, info = jax.eval_shape(jax.grad(learner.loss, has_aux=True), params, episode, KEY, STEP)
    chex.assert_trees_all_equal_shapes(grads, params)
    adapted = jax.eval_shape(learner.adapt, params, episode.support, KEY)
    logits = jax.eval_shape(learner.predict, adapted, episode.query.x, episode.query.mask)
    assert logits.shape == (len(episode.query.y), WAYS)
    assert info.loss.shape == ()


def test_adapted_is_arrays_only(case: Case) -> None:
    adapted = case.adapt(case.params, case.episode.support, KEY)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(adapted))


def test_adapting_beats_not_adapting(case: Case) -> None:
    """Where there are steps, they lower the error on fresh examples of the task.

    Those that begin with the means are judged on noisy tasks, on average over them.
    """
    if not case.steps:
        pytest.skip("has no inner steps")
    gains = []
    for k in range(5):
        hard = {"shots": 8, "noise": 4.0} if case.from_means else {}
        episode = make_episode(k, **hard)
        side = getattr(episode, case.from_means or "query")

        def loss(steps: int, episode=episode, side=side):
            adapted = case.adapt(case.params, episode.support, KEY, jnp.asarray(steps))
            logits = case.predict(adapted, side.x, side.mask)
            return -jax.nn.log_softmax(logits)[jnp.arange(len(side.y)), side.y].mean()

        gains.append(float(loss(0) - loss(3)))
    assert np.mean(gains) > 0 if case.from_means else min(gains) > 0


def test_one_executable_for_every_number_of_steps(case: Case) -> None:
    if not case.steps:
        pytest.skip("has no inner steps")
    run = jax.jit(lambda p, s, n: case.learner.adapt(p, s, KEY, n))
    results = [run(case.params, case.episode.support, jnp.asarray(n)) for n in (0, 1, 3)]
    assert run._cache_size() == 1
    exact = case.learner.adapt(case.params, case.episode.support, KEY, 3)
    close(results[-1], exact)


@pytest.mark.parametrize("fill", [jnp.nan, 7.0])
def test_padding_changes_nothing(case: Case, fill: float) -> None:
    episode = case.episode
    long = episode._replace(
        support=padded(episode.support, 3, fill), query=padded(episode.query, 2, fill)
    )
    (value, info), grads = case.grad(case.params, episode, KEY, STEP)
    (long_value, long_info), long_grads = case.grad(case.params, long, KEY, STEP)
    close(long_value, value)
    close(long_info.logits[: len(episode.query.y)], info.logits)
    close(long_grads, grads, rtol=1e-3)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    support=st.lists(st.booleans(), min_size=6, max_size=6),
    query=st.lists(st.booleans(), min_size=12, max_size=12),
    x=st.sampled_from([float("nan"), float("inf"), -1e38, 3.0]),
    y=st.integers(-9, 99),
)
def test_masked_examples_change_nothing(case: Case, support, query, x: float, y: int) -> None:
    """Any mask, none and all included; anything in the masked images and labels."""

    def masked(side: Examples, mask, x: float, y: int) -> Examples:
        mask = jnp.asarray(mask)
        images = jnp.where(mask[:, None, None, None], side.x, jnp.full_like(side.x, x))
        return Examples(images, jnp.where(mask, side.y, y), mask)

    def result(x: float, y: int):
        both = masked(case.episode.support, support, x, y), masked(case.episode.query, query, x, y)
        (value, info), grads = case.grad(
            case.params, Episode(*both, case.episode.classes), KEY, STEP
        )
        return value, info.loss, info.logits[jnp.asarray(query)], grads

    plain = result(0.0, 0)
    chex.assert_tree_all_finite(plain)
    close(result(x, y), plain)


def test_an_absent_way_is_never_predicted(case: Case) -> None:
    support = case.episode.support
    without = support._replace(mask=support.y != 1)
    adapted = case.adapt(case.params, without, KEY)
    logits = case.predict(adapted, case.episode.query.x, case.episode.query.mask)
    assert not (logits.argmax(-1) == 1).any()
    assert jnp.isfinite(logits).all()
    assert (jax.nn.softmax(logits)[:, 1] < 1e-6).all()


def test_order_of_the_support_does_not_matter(case: Case) -> None:
    support, query = case.episode.support, case.episode.query
    order = jax.random.permutation(KEY, len(support.y))
    moved = Examples(*(leaf[order] for leaf in support))
    logits = [
        case.predict(case.adapt(case.params, s, KEY), query.x, query.mask) for s in (support, moved)
    ]
    close(logits[0], logits[1], rtol=1e-3)


def test_predict_does_not_depend_on_the_company_of_a_query(case: Case) -> None:
    """Under the inductive norm a query's logits are its own, alone or among others."""
    adapted = case.adapt(case.params, case.episode.support, KEY)
    query = case.episode.query
    together = case.predict(adapted, query.x, query.mask)
    alone = jnp.concatenate(
        [case.predict(adapted, query.x[i : i + 1], query.mask[:1]) for i in range(3)]
    )
    close(together[:3], alone)


@pytest.mark.parametrize("name", NAMES)
def test_factory_refuses_nonsense(name: str) -> None:
    make = registry.factory("algorithms", name)
    with pytest.raises(ValueError, match="outputs must be >= 1, got 0"):
        make(tiny_backbone(), outputs=0)
    allowed = registry.defaults("algorithms", name)
    if "steps" in allowed:
        with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
            make(tiny_backbone(), outputs=2, steps=-1)
    if "inner_lr" in allowed:
        with pytest.raises(ValueError, match="inner_lr must be > 0"):
            make(tiny_backbone(), outputs=2, inner_lr=0.0)
    if "pool_classes" in allowed:
        with pytest.raises(ValueError, match="pool_classes must be >= 1"):
            make(tiny_backbone(), outputs=2, pool_classes=0)


@pytest.mark.parametrize("name", [*NAMES, *OF_MASKS])
def test_head_of_file_names_paper_and_equation(name: str) -> None:
    doc = registry.module("algorithms", name).__doc__ or ""
    assert "arXiv" in doc
    assert "Deviations" in doc
    np.testing.assert_equal(registry.factory("algorithms", name).__doc__ is None, False)
