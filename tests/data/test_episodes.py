"""Episodes: what support and query may never share, counted over thousands of draws."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax.data.episodes import EpisodeSpec, episodes_hash, gather, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import Pool, fit_scaling, make_pool
from medmeta_jax.data.samples import DataError, Samples

CLASSES = ("a", "b", "c", "d", "e", "f", "g")


def make_samples(counts=(30, 24, 40, 25, 31, 22, 28), groups: int | None = 9) -> Samples:
    """Each image's pixels hold its own number, so that a gathered image can be recognised."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    labels = labels[order]
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) % 256
    images[:, 1, 0, 0] = np.arange(len(labels)) // 256
    named = None if groups is None else rng.integers(0, groups, len(labels)).astype(str)
    return Samples(images, labels, CLASSES[: len(counts)], named)


def make(samples: Samples) -> Pool:
    return make_pool(samples, samples.class_names, fit_scaling(samples.images))


@functools.lru_cache
def draw(spec: EpisodeSpec, count: int, grouped: bool = True):
    pool = make(make_samples(groups=9 if grouped else None))
    keys = jax.random.split(jax.random.key(5), count)
    run = jax.jit(jax.vmap(lambda key, pool: sample_indices(key, pool, spec), (0, None)))
    return pool, jax.tree.map(np.asarray, run(keys, pool))


SPECS = {
    "fixed": EpisodeSpec(ways=3, shots=2, queries=4),
    "ranges": EpisodeSpec(ways=(2, 5), shots=(1, 4), queries=3),
    "proportional": EpisodeSpec(ways=3, shots=2, queries=4, balance="proportional"),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("disjoint", ["image", "group"])
def test_support_and_query_are_disjoint_over_10000_episodes(name: str, disjoint: str) -> None:
    spec = EpisodeSpec(**{**vars(SPECS[name]), "disjoint": disjoint})
    pool, drawn = draw(spec, 10_000)
    group = np.append(np.asarray(pool.group), -1)
    for support, query in zip(drawn.support, drawn.query, strict=True):
        used = support[support >= 0], query[query >= 0]
        assert len(np.unique(np.concatenate(used))) == len(used[0]) + len(used[1])
        if disjoint == "group":
            assert not np.intersect1d(group[used[0]], group[used[1]]).size
    assert (drawn.query >= 0).mean() > 0.5


def copied(groups: int | None) -> tuple[Samples, np.ndarray]:
    """Samples of which 30 images are copies of the one before, most of another class; and the
    pixels' own numbers."""
    samples = make_samples(groups=groups)
    samples.images[:, 3] = 200  # none is blank
    samples.images[1:60:2] = samples.images[0:60:2]
    return samples, samples.images[:, 0, 0, 0] + 256 * samples.images[:, 1, 0, 0].astype(int)


@pytest.mark.parametrize("groups", [None, 9, 60])
def test_copies_never_stand_in_support_and_query(groups: int | None) -> None:
    samples, number = copied(groups)
    pool = make(samples)
    used = np.concatenate([np.flatnonzero(samples.labels == label) for label in range(7)])
    number = number[used]  # in the pool's order
    for disjoint in ("image", "group") if groups == 60 else ("image",):
        spec = EpisodeSpec(ways=3, shots=2, queries=4, disjoint=disjoint)
        keys = jax.random.split(jax.random.key(7), 2000)
        drawn = jax.jit(jax.vmap(lambda key, spec=spec: sample_indices(key, pool, spec)))(keys)
        for support, query in zip(np.asarray(drawn.support), np.asarray(drawn.query), strict=True):
            there = number[support[support >= 0]], number[query[query >= 0]]
            assert not np.intersect1d(*there).size
        assert (np.asarray(drawn.query) >= 0).mean() > 0.3


def test_copies_join_their_groups() -> None:
    """a and b share an image, b and c another: all three are one; the blank ones join nothing."""
    samples = make_samples((3, 3), None)._replace(groups=np.asarray(list("aabbcd")))
    samples.images[:] = np.arange(6 * 16).reshape(6, 4, 4, 1)
    samples.images[2], samples.images[4] = samples.images[0], samples.images[3]
    samples.images[1] = samples.images[5] = 9
    samples = samples._replace(labels=np.asarray([0, 0, 0, 1, 1, 1], np.int32))
    pool = make(samples)
    assert np.asarray(pool.group).tolist() == [0, 0, 0, 0, 0, 3]
    assert np.asarray(pool.same).tolist() == [0, 1, 0, 3, 3, 5]


@pytest.mark.parametrize("disjoint", ["image", "group"])
def test_labels_are_those_of_the_images(disjoint: str) -> None:
    pool, drawn = draw(EpisodeSpec(ways=3, shots=2, queries=4, disjoint=disjoint), 500)
    class_of = np.full(pool.x.shape[0], -1)
    for label, row in enumerate(np.asarray(pool.rows)):
        class_of[row[row >= 0]] = label
    for side, y in (("support", "support_y"), ("query", "query_y")):
        index, way = getattr(drawn, side), getattr(drawn, y)
        there = index >= 0
        labels = np.take_along_axis(drawn.classes, way, axis=1)
        np.testing.assert_array_equal(class_of[index[there]], labels[there])


@pytest.mark.parametrize("disjoint", ["image", "group"])
def test_shots_are_exact_and_queries_balanced(disjoint: str) -> None:
    _, drawn = draw(EpisodeSpec(ways=3, shots=2, queries=4, disjoint=disjoint), 500)
    assert (drawn.support >= 0).all()
    assert (drawn.query >= 0).all()
    for y, count in ((drawn.support_y, 2), (drawn.query_y, 4)):
        assert all((np.bincount(row, minlength=3) == count).all() for row in y)
    assert all(len(set(row)) == 3 for row in drawn.classes)


def test_ranges_are_uniform_and_masked() -> None:
    _, drawn = draw(EpisodeSpec(ways=(2, 5), shots=(1, 4), queries=3), 4000, False)
    ways = (drawn.classes >= 0).sum(1)
    shots = (drawn.support >= 0).sum(1) / ways
    for value, low, high in ((ways, 2, 5), (shots, 1, 4)):
        share = np.bincount(value.astype(int), minlength=high + 1)[low : high + 1] / len(value)
        np.testing.assert_allclose(share, 1 / (high - low + 1), atol=0.03)
    for row, way, n in zip(drawn.support, drawn.support_y, ways, strict=True):
        assert (way[row >= 0] < n).all()


def test_every_image_is_as_likely() -> None:
    """Within a class, each image is support equally often, and each class is drawn equally."""
    episodes = 6000
    pool, drawn = draw(EpisodeSpec(ways=3, shots=2, queries=4), episodes, False)
    times = np.bincount(drawn.support.reshape(-1), minlength=pool.x.shape[0])
    counts = np.asarray(pool.counts)
    for row, count in zip(np.asarray(pool.rows), counts, strict=True):
        expected = episodes * (3 / 7) * 2 / count
        found = times[row[row >= 0]]
        assert np.abs(found - expected).max() < 5 * np.sqrt(expected)


def test_proportional_queries_follow_the_sizes() -> None:
    pool, drawn = draw(EpisodeSpec(ways=7, shots=1, queries=3, balance="proportional"), 3000, False)
    labels = np.take_along_axis(drawn.classes, drawn.query_y, axis=1)
    share = np.bincount(labels[drawn.query >= 0], minlength=7)
    left = np.asarray(pool.counts) - 1
    np.testing.assert_allclose(share / share.sum(), left / left.sum(), atol=0.01)


def test_same_key_same_episode_and_hash() -> None:
    spec = EpisodeSpec(ways=3, shots=2, queries=4)
    pool, drawn = draw(spec, 50)
    again = jax.vmap(lambda k: sample_indices(k, pool, spec))(
        jax.random.split(jax.random.key(5), 50)
    )
    jax.tree.map(np.testing.assert_array_equal, drawn, jax.tree.map(np.asarray, again))
    assert episodes_hash(pool, drawn) == episodes_hash(pool, again)
    other = again._replace(query=jnp.flip(again.query, 1))
    assert episodes_hash(pool, other) != episodes_hash(pool, again)
    dark = pool._replace(x=pool.x.at[0, 0, 0].add(1))
    assert episodes_hash(dark, again) != episodes_hash(pool, again)


def test_gather_fetches_scales_and_clears() -> None:
    samples = make_samples()
    pool = make(samples)
    spec = EpisodeSpec(ways=(2, 5), shots=(1, 4), queries=3)
    draws = (sample_indices(jax.random.key(seed), pool, spec) for seed in range(20))
    indices = next(drawn for drawn in draws if (drawn.support < 0).any())  # one with padding
    episode = gather(pool, indices)
    assert episode.support.x.dtype == jnp.float32
    for side, index in ((episode.support, indices.support), (episode.query, indices.query)):
        np.testing.assert_array_equal(side.mask, index >= 0)
        raw = np.asarray(pool.x)[np.asarray(index)] / 255
        expected = (raw - np.asarray(pool.shift)) * np.asarray(pool.scale)
        np.testing.assert_allclose(side.x[side.mask], expected[side.mask], atol=1e-5)
        np.testing.assert_array_equal(side.x[~side.mask], 0)


def test_scaling_is_that_of_the_images_given() -> None:
    images = np.random.default_rng(0).integers(0, 255, (50, 4, 4, 3)).astype(np.uint8)
    scaling = fit_scaling(images)
    out = (images / 255 - scaling.shift) * scaling.scale
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "spec", "message"),
    [
        (make_samples((30, 20)), EpisodeSpec(ways=3), "3 ways need 3 classes, there are 2"),
        (
            make_samples((30, 3), groups=None),
            EpisodeSpec(ways=2, shots=3),
            "class 'b' has too few images: 3, and 3-shot support with a query needs 4; lower",
        ),
        (
            make_samples((30, 1)),
            EpisodeSpec(ways=2, disjoint="group"),
            "class 'b' has too few images: 1, and 1-shot support with a query needs 2",
        ),
        (
            make_samples((30, 30), groups=1),
            EpisodeSpec(ways=2, disjoint="group"),
            "class 'a' has 1 group, support and query need at least 2",
        ),
        (
            make_samples((30, 8), groups=2),
            EpisodeSpec(ways=2, shots=5, disjoint="group"),
            "class 'b' has . images outside its largest group, 5 shots need 5",
        ),
    ],
)
def test_too_little_is_refused_by_class_and_number(samples, spec, message) -> None:
    with pytest.raises(DataError, match=f"meta-test: .*{message}"):
        check_pool(make(samples), spec, samples.class_names, "meta-test")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"ways": 0}, "ways must be >= 1"),
        ({"ways": (4, 3)}, "ways must be >= 1, lowest first, got 4, 3"),
        ({"shots": 0}, "shots must be >= 1"),
        ({"queries": 0}, "queries must be >= 1"),
    ],
)
def test_spec_refuses_nonsense(bad, message) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeSpec(**bad)
