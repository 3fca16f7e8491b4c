"""The contract of an augmentation op, for every file of `augment/`."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import registry
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.augment._ops import (
    Op,
    affine,
    apply_ops,
    augment_examples,
    augment_ways,
    augmented,
    with_more_shots,
)
from medmeta_jax.config import BY_CHANCE
from medmeta_jax.types import Episode, Examples

from ..conftest import WAYS, make_episode, tiny_backbone

NAMES = registry.names("augment")
KEY, STEP = jax.random.key(3), jnp.zeros((), jnp.int32)
# They look at an image's range or mean, or draw for each voxel.
OF_THE_WHOLE = ("bias_field", "contrast", "cutout", "gamma", "noise")
# What they do to an image is not what the map says of it.
AGAINST_THE_MAP = {
    "cutout": "takes away what the labels go on saying",
    "recontrast": "makes what is bright dark",
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def image(channels: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (9, 9, channels))


def marks(op: Op) -> jax.Array | None:
    """A label map of `image`, for an op that needs one."""
    return jnp.eye(9, dtype=jnp.int32) if op.marked is not None else None


def test_keeps_shape_and_dtype_and_follows_the_key(name: str) -> None:
    op = registry.factory("augment", name)()
    given = marks(op)
    apply = jax.jit(lambda key: apply_ops([op], key, image(), given))
    out, label_map = apply(KEY)
    assert (out.shape, out.dtype) == (image().shape, image().dtype)
    assert (label_map is None) == (given is None)
    np.testing.assert_array_equal(out, apply(KEY)[0])
    draws = [apply(jax.random.key(k))[0] for k in range(12)]
    assert any((draw != draws[0]).any() for draw in draws[1:])


def test_identity_at_magnitude_zero(name: str) -> None:
    op = registry.factory("augment", name)(magnitude=0.0)
    for k in range(3):
        out, _ = apply_ops([op], jax.random.key(k), image(), marks(op))
        np.testing.assert_allclose(out, image(), atol=1e-5)


def test_label_maps_move_with_the_image(name: str) -> None:
    """A map that says where the image is bright still says so afterwards."""
    if name in AGAINST_THE_MAP:
        pytest.skip(AGAINST_THE_MAP[name])
    op = registry.factory("augment", name)()
    rows = jnp.arange(33)[:, None]
    bright = ((rows - 12) ** 2 + (jnp.arange(33)[None] - 20) ** 2 < 49).astype(jnp.int32)
    for k in range(4):
        out, moved = apply_ops(
            [op], jax.random.key(k), bright[..., None].astype(jnp.float32), bright
        )
        agree = (out[..., 0] > 0.5) == (moved == 1)
        assert agree.mean() > 0.97
        assert moved.dtype == bright.dtype


def test_a_volume_is_changed_as_each_of_its_slices(name: str) -> None:
    """With their label maps, and each slice as the picture by itself would be."""
    if name in OF_THE_WHOLE:
        pytest.skip("takes something from all slices together")
    op = registry.factory("augment", name)()
    volume = jax.random.normal(jax.random.key(0), (3, 9, 8, 2))
    labels = jax.random.randint(jax.random.key(1), (3, 9, 8), 0, 5)
    for k in range(3):
        out, moved = apply_ops([op], jax.random.key(k), volume, labels)
        assert (out.shape, moved.shape, moved.dtype) == (volume.shape, labels.shape, labels.dtype)
        for place in range(3):
            one, label_map = apply_ops([op], jax.random.key(k), volume[place], labels[place])
            np.testing.assert_allclose(out[place], one, atol=1e-6)
            np.testing.assert_array_equal(moved[place], label_map)


@pytest.mark.parametrize("name", [name for name in OF_THE_WHOLE if name != "noise"])
def test_slices_that_are_alike_stay_alike(name: str) -> None:
    op = registry.factory("augment", name)()
    slices = jnp.stack([image()] * 3)
    for k in range(3):
        out, _ = apply_ops([op], jax.random.key(k), slices)
        one, _ = apply_ops([op], jax.random.key(k), image())
        np.testing.assert_allclose(out, jnp.stack([one] * 3), atol=1e-5)


def test_label_maps_of_volumes_move_and_classes_do_not() -> None:
    op = registry.factory("augment", "flip")(magnitude=1.0)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 1))
    y = jax.random.randint(jax.random.key(1), (2, 3, 4, 5), 0, 5)
    mask = jnp.ones(2, bool)
    out = augment_examples([op], KEY, Examples(x, y, mask))
    np.testing.assert_allclose(out.x, x[:, :, :, ::-1], atol=1e-5)
    np.testing.assert_array_equal(out.y, y[:, :, :, ::-1])
    for kept in (jnp.arange(2), jnp.eye(2)):
        np.testing.assert_array_equal(augment_examples([op], KEY, Examples(x, kept, mask)).y, kept)


@pytest.mark.parametrize("magnitude", [-0.1, 1000.0])
def test_refuses_nonsense(name: str, magnitude: float) -> None:
    with pytest.raises(ValueError, match="magnitude must be in"):
        registry.factory("augment", name)(magnitude=magnitude)


def test_flip_is_exact() -> None:
    op = registry.factory("augment", "flip")(magnitude=1.0)
    np.testing.assert_allclose(apply_ops([op], KEY, image())[0], image()[:, ::-1], atol=1e-5)


def test_a_chain_is_one_resampling() -> None:
    """A turn and its inverse give the image back: nothing is blurred twice."""

    def turn(degrees: float) -> Op:
        a = np.deg2rad(degrees)
        rows = [[np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0]]
        return Op(affine=lambda key: affine(rows))

    out, _ = apply_ops([turn(30), turn(-30)], KEY, image())
    np.testing.assert_allclose(out, image(), atol=1e-4)
    quarter, _ = apply_ops([turn(90)], KEY, image())
    np.testing.assert_allclose(quarter, jnp.rot90(image(), -1), atol=1e-4)


def test_each_example_is_changed_by_itself() -> None:
    op = registry.factory("augment", "rotate")()
    same = jnp.stack([image()] * 3)
    out = augment_examples([op], KEY, Examples(same, jnp.zeros(3, jnp.int32), jnp.ones(3, bool)))
    assert (out.x[0] != out.x[1]).any()


def test_a_way_is_changed_as_one_on_both_sides() -> None:
    """Seen by a learner that gives back what it is given."""
    ops = [registry.factory("augment", "rotate")(magnitude=90.0)]
    seen = protonet(tiny_backbone(), outputs=WAYS)._replace(
        loss=lambda params, episode, key, step: (episode, None)
    )
    same = jnp.stack([image()] * 4)
    side = Examples(same, jnp.asarray([0, 1, 1, 0]), jnp.ones(4, bool))
    other = side._replace(y=jnp.asarray([1, 0, 0, 1]))
    episode = Episode(side, other, jnp.arange(2))
    one, two = augmented(seen, task=ops).loss({}, episode, KEY, STEP)[0][:2]
    np.testing.assert_array_equal(one.x[0], one.x[3])
    np.testing.assert_array_equal(one.x[1], one.x[2])
    np.testing.assert_array_equal(one.x[jnp.asarray([1, 0, 0, 1])], two.x)
    assert (one.x[0] != one.x[1]).any()
    values = augment_ways(ops, KEY, side._replace(y=jnp.asarray([0.1, 0.2, 0.3, 0.4])))
    np.testing.assert_array_equal(values.x, jnp.broadcast_to(values.x[:1], values.x.shape))
    assert (values.x != same).any()


def test_an_episode_is_changed_as_one_and_its_own_ops_for_each_image_stay() -> None:
    """What an episode lacks, all its images lack, of either side and of every class."""
    drop = registry.factory("augment", "drop_modalities")()
    turn = registry.factory("augment", "rotate")(magnitude=90.0)
    seen = protonet(tiny_backbone(), outputs=WAYS)._replace(
        loss=lambda params, episode, key, step: (episode, None)
    )
    side = Examples(jnp.stack([image()] * 4), jnp.asarray([0, 1, 1, 0]), jnp.ones(4, bool))
    episode = Episode(side, side, jnp.arange(2))
    lacking = set()
    for number in range(12):
        key = jax.random.key(number)
        both = augmented(seen, support=[turn], query=[turn], episode=[drop])
        one, two = both.loss({}, episode, key, STEP)[0][:2]
        gone = np.isnan(np.concatenate([one.x, two.x])).any((1, 2))
        np.testing.assert_array_equal(gone, np.broadcast_to(gone[:1], gone.shape))
        lacking.add(tuple(gone[0].tolist()))
        alone = augmented(seen, support=[turn], query=[turn]).loss({}, episode, key, STEP)[0]
        np.testing.assert_array_equal(one.x[..., ~gone[0]], alone.support.x[..., ~gone[0]])
        np.testing.assert_array_equal(two.x[..., ~gone[0]], alone.query.x[..., ~gone[0]])
        assert (one.x != one.x[:1])[1:, ..., ~gone[0]].any()
    assert len(lacking) > 1


def test_more_shots_are_learned_from_when_adapting_too() -> None:
    ops = [registry.factory("augment", "brighten")()]
    learner = protonet(tiny_backbone(), outputs=WAYS)
    more, episode = with_more_shots(learner, ops), make_episode()
    params = learner.init(KEY, episode.support.x)
    copy_key, key = jax.random.split(KEY)
    copies = augment_examples(ops, copy_key, episode.support)
    both = jax.tree.map(lambda *sides: jnp.concatenate(sides), episode.support, copies)
    for found, expected in (
        (more.adapt(params, episode.support, KEY), learner.adapt(params, both, key)),
        (
            more.loss(params, episode, KEY, STEP)[0],
            learner.loss(params, episode._replace(support=both), key, STEP)[0],
        ),
    ):
        chex.assert_trees_all_close(found, expected, rtol=1e-6)
    plain = learner.adapt(params, episode.support, key)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(plain, learner.adapt(params, both, key), rtol=1e-3)


def test_augmentation_is_for_training_alone() -> None:
    learner = protonet(tiny_backbone(), outputs=WAYS)
    ops = [registry.factory("augment", "rotate")(magnitude=90.0)]
    changed = augmented(learner, support=ops, query=ops)
    episode, step = make_episode(), jnp.zeros((), jnp.int32)
    params = learner.init(KEY, episode.support.x)
    plain, other, none = (
        float(jax.jit(made.loss)(params, episode, KEY, step)[0])
        for made in (learner, changed, augmented(learner))
    )
    assert other != plain
    assert none == plain
    assert changed.adapt is learner.adapt
    assert changed.predict is learner.predict


def test_dropping_modalities_keeps_one_and_brings_none_back() -> None:
    drop = registry.factory("augment", "drop_modalities")
    given = image(4).at[..., 2].set(jnp.nan)
    keys = jax.random.split(KEY, 400)
    out = jax.vmap(lambda key: apply_ops([drop(magnitude=0.5)], key, given)[0])(keys)
    kept = ~np.isnan(out).any((1, 2))
    np.testing.assert_array_equal(~np.isnan(out), np.broadcast_to(kept[:, None, None], out.shape))
    assert not kept[:, 2].any()
    assert kept.any(1).all()
    assert (np.asarray(out)[:, ..., 0][kept[:, 0]] == given[..., 0]).all()
    # All in half of them and, as every subset of three, in an eighth of the others.
    np.testing.assert_allclose((kept.sum(1) == 3).mean(), 1 / 2 + 1 / 16, atol=0.08)
    always = jax.vmap(lambda key: apply_ops([drop(magnitude=1.0)], key, given)[0])(keys)
    left = ~np.isnan(always).any((1, 2))
    assert not left[:, 2].any()
    alone = left[left.sum(1) == 1].sum(0) / len(left)  # an eighth, and a third of that of none
    np.testing.assert_allclose(alone[[0, 1, 3]], 1 / 6, atol=0.06)
    pairs = (left.sum(1) == 2).mean(), (left.sum(1) == 3).mean()
    np.testing.assert_allclose(pairs, (3 / 8, 1 / 8), atol=0.08)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_CHANCE])
def test_an_image_is_differentiable_in_the_magnitude(name: str, x64: None) -> None:
    """Against a central difference, with the same key on both sides of it."""
    make = registry.factory("augment", name)
    places = jnp.arange(12.0)
    smooth = jnp.sin(places[:, None, None] / 3 + jnp.arange(2.0)) * jnp.cos(places[None, :, None])
    weights = jax.random.normal(jax.random.key(5), smooth.shape)
    at = 0.37 * registry.defaults("augment", name)["magnitude"]

    def value(magnitude: jax.Array, key: jax.Array) -> jax.Array:
        return (weights * apply_ops([make(magnitude=magnitude)], key, smooth)[0]).sum()

    slope, value = jax.jit(jax.grad(value)), jax.jit(value)
    checked = 0
    for k in range(4):
        key, step = jax.random.key(k), 1e-4 * at
        expected = (value(at + step, key) - value(at - step, key)) / (2 * step)
        near = (value(at + step / 8, key) - value(at - step / 8, key)) / (step / 4)
        if abs(expected - near) > 1e-4 * abs(expected):
            continue  # a pixel's reading passes a grid line in between, where it has a kink
        np.testing.assert_allclose(slope(at, key), expected, rtol=1e-3, atol=1e-7)
        checked += 1
    assert checked >= 2


def test_a_chain_with_a_bend_is_one_resampling_too() -> None:
    """A shift by a matrix and the same one back by a displacement."""
    there = Op(affine=lambda key: affine([[1.0, 0.0, 0.5], [0.0, 1.0, -0.25]]))
    back = jnp.asarray([-0.5, 0.25])[:, None, None]
    bend = Op(displacement=lambda key, height, width: jnp.broadcast_to(back, (2, height, width)))
    out, _ = apply_ops([there, bend], KEY, image())
    np.testing.assert_allclose(out, image(), atol=1e-5)


def test_blur_of_a_point_is_a_gaussian_of_the_drawn_spread() -> None:
    point = jnp.zeros((15, 15, 1)).at[7, 7].set(1.0)
    blur = registry.factory("augment", "blur")(magnitude=2.0)
    out = apply_ops([blur], jax.random.key(1), point)[0][..., 0]
    assert float(out.sum()) == pytest.approx(1, abs=1e-5)
    profile = np.asarray(out.sum(1))
    np.testing.assert_allclose(profile, profile[::-1], atol=1e-6)
    np.testing.assert_allclose(out, np.outer(profile, profile), atol=1e-6)
    ratio = np.log(profile[8] / profile[7]), np.log(profile[9] / profile[7])
    assert ratio[1] == pytest.approx(4 * ratio[0], rel=1e-3)


def test_cutout_takes_a_window_and_no_more() -> None:
    given = jnp.arange(400.0).reshape(20, 20, 1)
    cut = registry.factory("augment", "cutout")(magnitude=0.5)
    shares = []
    for k in range(40):
        out = np.asarray(apply_ops([cut], jax.random.key(k), given)[0])
        changed = np.abs(out - given) > 1e-3
        rows, columns = changed.any((1, 2)), changed.any((0, 2))
        assert rows.sum() <= 12
        assert columns.sum() <= 12
        shares.append(changed.mean())
    assert 0 < np.mean(shares) < 0.2
    assert max(shares) > 0.1
