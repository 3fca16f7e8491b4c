"""The contract of a meta-learner where labels are masks, for every file that takes them."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import registry
from medmeta_jax.backbones.conv4 import conv4
from medmeta_jax.backbones.unet import unet
from medmeta_jax.losses import dice, dice_and_cross_entropy
from medmeta_jax.types import Episode, Examples

from ..conftest import OF_MASKS, SIZE, double, make_episode, make_mask_episode, padded

KEY, STEP = jax.random.key(1), jnp.zeros((), jnp.int32)
# Their prototypes, or what they learn from the pool, are of classes.
OF_CLASSES = {"protonet", "protomaml", "pmf", "baseline_plus_plus", "nearest_centroid", "r2d2"}
NAMES = sorted(set(registry.names("algorithms")) - OF_CLASSES)
# They pre-train on all structures: what they learn from an episode is not its own task's loss.
PRETRAIN = {"linear_probe", "finetune"}
SURROGATES = ("reptile", "maml_plus_plus")
NET = unet(widths=(4, 4), form="patches")
# One of each way to learn; the others differ from these in what `test_contract.py` tells apart.
SOON = (*OF_MASKS, "maml", "anil", "reptile", "finetune")
CASES = [pytest.param(name, marks=() if name in SOON else pytest.mark.slow) for name in NAMES]


class Case:
    """A learner with its parameters and compiled functions, shared by its tests."""

    def __init__(self, name: str) -> None:
        self.steps = registry.defaults("algorithms", name).get("steps")
        arguments: dict[str, Any] = {"outputs": 2, "loss": dice_and_cross_entropy}
        if self.steps:
            arguments |= {"steps": 3}
        if name == "crossblock":  # which has a network of its own
            arguments |= {"width": 4, "depth": 2}
        self.name = name
        self.learner = registry.factory("algorithms", name)(NET, **arguments)
        self.episode = make_mask_episode()
        self.params = jax.jit(self.learner.init)(jax.random.key(0), self.episode.support.x)
        self.adapt = jax.jit(self.learner.adapt)
        self.predict = jax.jit(self.learner.predict)
        self.grad = jax.jit(jax.value_and_grad(self.learner.loss, has_aux=True))


@pytest.fixture(scope="session", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(scope="session")
def trained(case: Case) -> Case:
    """One that learns an episode's own task."""
    if case.name in PRETRAIN:
        pytest.skip("its loss is that of pre-training")
    return case


def close(a: Any, b: Any, rtol: float = 1e-4) -> None:
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=1e-5)


def test_a_logit_a_pixel_and_the_loss_is_of_them(trained: Case, x64: None) -> None:
    """In double precision: processors round a cosine otherwise, and logits are twenty of it."""
    params, episode = double(trained.params), double(trained.episode)
    query = episode.query
    logits = trained.predict(trained.adapt(params, episode.support, KEY), query.x, query.mask)
    assert logits.shape == (4, SIZE, SIZE, 2)
    (value, info), grads = trained.grad(params, episode, KEY, STEP)
    chex.assert_tree_all_finite((value, info, grads))
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["body"])) > 0
    close(info.logits, logits)
    close(info.loss, dice_and_cross_entropy(logits, query.y, query.mask))
    if trained.name not in (*SURROGATES, "panet"):
        assert value == info.loss


def test_vmap_agrees_with_one_at_a_time(trained: Case, x64: None) -> None:
    """In float64 as above, whose compiled gradient it shares."""
    params, episodes = double(trained.params), [double(make_mask_episode(k)) for k in range(3)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *episodes)
    keys = jax.random.split(KEY, 3)
    each = [trained.grad(params, e, k, STEP)[0][0] for e, k in zip(episodes, keys, strict=True)]
    together = jax.jit(jax.vmap(trained.learner.loss, (None, 0, 0, None)))
    close(together(params, batch, keys, STEP)[0], jnp.stack(each), rtol=1e-6)


@pytest.mark.parametrize("fill", [jnp.nan, 7.0])
def test_padding_changes_nothing(trained: Case, fill: float, x64: None) -> None:
    """In float64: logits of twenty times a cosine make much of float32's rounding."""
    if trained.name not in (*OF_MASKS, "maml", "reptile"):
        pytest.skip("what pads classes pads masks; one of each way to learn stands for the others")
    params, episode = double(trained.params), double(trained.episode)
    long = episode._replace(
        support=padded(episode.support, 3, fill), query=padded(episode.query, 2, fill)
    )
    (value, info), grads = trained.grad(params, episode, KEY, STEP)
    (long_value, long_info), long_grads = trained.grad(params, long, KEY, STEP)
    close((long_value, long_info.logits[:4]), (value, info.logits), rtol=1e-6)
    close(long_grads, grads, rtol=1e-6)


def test_steps_lower_the_loss(case: Case) -> None:
    if not case.steps:
        pytest.skip("has no inner steps")
    gains = []
    for k in range(4):
        episode = make_mask_episode(k)

        def loss(steps: int, episode: Episode = episode) -> float:
            adapted = case.adapt(case.params, episode.support, KEY, jnp.asarray(steps))
            support = episode.support
            logits = case.predict(adapted, support.x, support.mask)
            return float(dice_and_cross_entropy(logits, support.y, support.mask))

        gains.append(loss(0) - loss(3))
    assert min(gains) > 0


def test_order_of_the_support_does_not_matter(case: Case) -> None:
    support, query = case.episode.support, case.episode.query
    moved = Examples(*(leaf[::-1] for leaf in support))
    logits = [
        case.predict(case.adapt(case.params, s, KEY), query.x, query.mask) for s in (support, moved)
    ]
    close(logits[0], logits[1], rtol=1e-3)


def test_empty_masks_of_the_support_teach_nothing(case: Case) -> None:
    """With the truth the task's structure is marked better than with masks of nothing."""
    if case.name not in ("panet", "alpnet"):
        pytest.skip("from untrained parameters nothing is marked yet")
    scores = []
    for k in range(5):
        episode = make_mask_episode(k, shots=4)
        for support in (episode.support, episode.support._replace(y=0 * episode.support.y)):
            adapted = case.adapt(case.params, support, KEY)
            logits = case.predict(adapted, episode.query.x, episode.query.mask)
            scores.append(float(dice(logits, episode.query.y, episode.query.mask)))
    with_truth, without = np.reshape(scores, (5, 2)).mean(0)
    assert with_truth > without + 0.2


@pytest.mark.parametrize("name", OF_MASKS)
def test_what_is_of_masks_says_so(name: str) -> None:
    learner = registry.factory("algorithms", name)(conv4(widths=(4,)), outputs=2)
    support = make_episode().support
    theta = learner.init(KEY, support.x)
    with pytest.raises(ValueError, match="these labels are none, or the backbone has no feature"):
        learner.adapt(theta, support, KEY)


@pytest.mark.parametrize("name", OF_MASKS)
def test_volumes_are_marked_too(name: str) -> None:
    """Traced and not run."""
    learner = registry.factory("algorithms", name)(unet(widths=(4, 4)), outputs=2)
    episode = make_mask_episode(size=(4, 5, 6))
    params = jax.eval_shape(learner.init, KEY, episode.support.x)
    grads, info = jax.eval_shape(jax.grad(learner.loss, has_aux=True), params, episode, KEY, STEP)
    chex.assert_trees_all_equal_shapes(grads, params)
    assert info.logits.shape == (*episode.query.y.shape, 2)


@pytest.mark.parametrize("name", sorted(PRETRAIN))
def test_joint_pretraining_has_an_output_for_each_structure(name: str) -> None:
    """Of all images together; the other structures' outputs are left as they are."""
    backbone = NET
    learner = registry.factory("algorithms", name)(
        backbone, outputs=2, pool_classes=3, loss=dice_and_cross_entropy
    )
    episode = make_mask_episode()._replace(classes=jnp.asarray([1]))
    support, query = episode.support, episode.query
    params = learner.init(KEY, support.x)
    of_loss = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    (value, info), grads = of_loss(params, episode, KEY, STEP)
    apply = jax.jit(backbone.apply)
    seen, stats = apply(params["body"], support.x, support.mask)
    asked, _ = apply(params["body"], query.x, query.mask, stats)
    kernel, bias = params["classifier"]["kernel"][:, 1], params["classifier"]["bias"][1]
    marked = jnp.concatenate([seen, asked]) @ kernel + bias
    logits = jnp.stack([jnp.zeros_like(marked), marked], -1)
    y, mask = (
        jnp.concatenate([getattr(side, part) for side in (support, query)])
        for part in ("y", "mask")
    )
    close(value, dice_and_cross_entropy(logits, y, mask))
    close(info.logits, logits[2:])
    moved = jnp.abs(grads["classifier"]["kernel"]).max(0)
    assert moved[1] > 0
    assert moved[0] == moved[2] == 0


@pytest.mark.parametrize("name", OF_MASKS)
def test_types_of_lesions_in_another_order_are_marked_alike(name: str) -> None:
    """Of two types; each has what the support says of it, and not what its number is."""
    learner = registry.factory("algorithms", name)(NET, outputs=3)
    episode = make_mask_episode(shots=4)
    other = jnp.arange(4)[:, None, None] % 2  # the second type is in every other image
    first = episode.support._replace(y=episode.support.y * (1 + other))
    second = episode.support._replace(y=episode.support.y * (2 - other))
    params = learner.init(jax.random.key(0), episode.support.x)

    @jax.jit
    def logits(support: Examples) -> jax.Array:
        adapted = learner.adapt(params, support, KEY)
        return learner.predict(adapted, episode.query.x, episode.query.mask)

    ours, theirs = logits(first), logits(second)
    assert ours.shape == (4, SIZE, SIZE, 3)
    close(ours, theirs[..., jnp.asarray([0, 2, 1])])
    assert float(jnp.abs(ours[..., 1] - ours[..., 2]).max()) > 1e-3


@pytest.mark.parametrize("name", sorted(PRETRAIN))
def test_joint_pretraining_has_an_output_for_each_type_and_one_for_none(name: str) -> None:
    """By hand: the loss of all pool classes' maps together; Info holds those of the episode."""
    backbone = NET
    learner = registry.factory("algorithms", name)(
        backbone, outputs=3, pool_classes=4, loss=dice_and_cross_entropy
    )
    episode = make_mask_episode()._replace(classes=jnp.asarray([2, 0, 3]))  # 3 is of none
    support, query = episode.support, episode.query
    support = support._replace(y=support.y.at[1].multiply(2))
    episode = episode._replace(support=support)
    params = learner.init(KEY, support.x)

    @jax.jit
    def expected(params: Any) -> tuple[jax.Array, jax.Array]:
        seen, stats = backbone.apply(params["body"], support.x, support.mask)
        asked, _ = backbone.apply(params["body"], query.x, query.mask, stats)
        features = jnp.concatenate([seen, asked])
        logits = features @ params["classifier"]["kernel"] + params["classifier"]["bias"]
        logits = jnp.concatenate([0 * logits[..., :1], logits], -1)
        y = jnp.concatenate([support.y, query.y])
        y = jnp.asarray([0, 3, 1])[y]  # the pool's class 2, and its class 0, counted from 1
        loss = dice_and_cross_entropy(logits, y, jnp.ones(len(y), bool))
        return loss, logits[len(seen) :][..., jnp.asarray([0, 3, 1])]

    value, info = jax.jit(learner.loss)(params, episode, KEY, STEP)
    close((value, info.logits), expected(params))
