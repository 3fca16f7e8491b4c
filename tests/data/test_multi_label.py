"""Episodes of images with several labels: what a shot is, and what is never shared."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax.data import sources
from medmeta_jax.data.episodes import EpisodeSpec, sample, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import fit_scaling, make_pool
from medmeta_jax.data.samples import DataError, Samples, join
from medmeta_jax.data.splits import make_split
from medmeta_jax.plan import Judged, first_shots

NAMES = tuple("abcdefgh")


@pytest.fixture(scope="module")
def samples() -> Samples:
    """400 images, each label shown by one in eight; pixels hold the image's number."""
    rng = np.random.default_rng(0)
    images = np.zeros((400, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = np.arange(400) % 256, np.arange(400) // 256
    groups = np.asarray([f"p{i // 2}" for i in range(400)])
    return Samples(images, rng.random((400, 8)) < 0.125, NAMES, groups, about="findings")


@pytest.mark.parametrize("disjoint", ["image", "group"])
def test_what_a_shot_is(samples: Samples, disjoint: str) -> None:
    """k images that show each label, k that show none, each image once, none on both sides."""
    pool = make_pool(samples, NAMES, fit_scaling(samples.images))
    spec = EpisodeSpec(ways=3, shots=(1, 4), queries=6, disjoint=disjoint)
    keys = jax.random.split(jax.random.key(1), 2000)
    draw = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, spec)))
    drawn = jax.tree.map(np.asarray, draw(keys))
    assert drawn.support.shape == (2000, 16)
    assert drawn.query.shape == (2000, 24)
    group, shown = np.asarray(pool.group), samples.labels
    sizes = set()
    for i in range(2000):
        classes = drawn.classes[i]
        assert len(set(classes)) == 3
        sides = []
        for part, labels in ((drawn.support, drawn.support_y), (drawn.query, drawn.query_y)):
            there = part[i] >= 0
            index = part[i][there]
            assert len(set(index)) == len(index)
            np.testing.assert_array_equal(labels[i][there], shown[index][:, classes])
            sides.append(index)
        support, query = sides
        assert not set(support) & set(query)
        if disjoint == "group":
            assert not set(group[support]) & set(group[query])
        positives = shown[support][:, classes].sum(0)
        none = (~shown[support][:, classes].any(1)).sum()
        if disjoint == "image":  # there are always enough images of each and of none
            sizes.add(int(none))
            assert (positives >= none).all()
            assert len(support) <= 4 * none
        else:
            assert positives.all()
            assert len(support) <= 16
    assert sizes == ({1, 2, 3, 4} if disjoint == "image" else set())


def test_an_episode_holds_the_labels_of_its_ways(samples: Samples) -> None:
    pool = make_pool(samples, NAMES, fit_scaling(samples.images))
    episode = jax.jit(functools.partial(sample, spec=EpisodeSpec(ways=3, shots=2, queries=3)))(
        jax.random.key(0), pool
    )
    assert episode.support.y.shape == (8, 3)
    x = np.asarray(episode.support.x / pool.scale + pool.shift) * 255
    number = (x[:, 0, 0, 0] + 256 * x[:, 1, 0, 0]).round().astype(int)
    mask = np.asarray(episode.support.mask)
    expected = samples.labels[number[mask]][:, np.asarray(episode.classes)]
    np.testing.assert_array_equal(np.asarray(episode.support.y)[mask], expected)
    assert not np.asarray(episode.support.y)[~mask].any()


def test_the_first_shots_are_shots_of_each_label(samples: Samples) -> None:
    """Judged at fewer shots, an image that shows two ways is not lost to either."""
    often = samples._replace(labels=np.random.default_rng(1).random((400, 8)) < 0.4)
    pool = make_pool(often, NAMES, fit_scaling(often.images))
    spec = EpisodeSpec(ways=3, shots=4, queries=2)
    keys = jax.random.split(jax.random.key(2), 300)
    for shots in (1, 2, 4):
        first = functools.partial(first_shots, spec=spec, slots=4)
        support = jax.jit(jax.vmap(first, (0, None)))(keys, Judged(pool, shots)).support
        positives = np.where(np.asarray(support.mask)[..., None], np.asarray(support.y), 0).sum(1)
        assert (positives >= shots).all()


def test_an_image_stands_on_one_side(samples: Samples) -> None:
    """Even if it shows labels of two; those that show none are dealt out by patient."""
    split = make_split(samples)
    numbers = {}
    for side, pool in split.pools.items():
        x = np.asarray(pool.x)
        numbers[side] = set((x[:, 0, 0, 0] + 256 * x[:, 1, 0, 0].astype(int)).tolist())
    every = [n for side in numbers.values() for n in side]
    assert sorted(every) == list(range(400))
    columns = {side: [NAMES.index(n) for n in names] for side, names in split.classes.items()}
    for n in numbers["train"]:
        assert not samples.labels[n][columns["val"] + columns["test"]].any()
    for n in numbers["val"]:
        assert not samples.labels[n][columns["test"]].any()
    assert any(not samples.labels[n].any() for n in numbers["test"])


def test_what_cannot_be_is_refused(samples: Samples) -> None:
    pool = make_pool(samples, NAMES, fit_scaling(samples.images))
    for wrong in ({"ways": (2, 3)}, {"balance": "proportional"}, {"rotate": True}):
        spec = EpisodeSpec(**{"ways": 3, "shots": 1, "queries": 2, **wrong})
        with pytest.raises(DataError, match="images have several labels"):
            check_pool(pool, spec, NAMES, "meta-train")


def test_an_archive_of_several_labels(tmp_path: Path) -> None:
    images = np.zeros((5, 6, 6), np.uint8)
    labels = np.eye(5, 3, dtype=np.int64)
    path = str(tmp_path / "m.npz")
    np.savez(path, images=images, labels=labels, class_names=np.asarray(["x", "y", "z"]))
    found = sources.load(str(path), image_size=6)
    np.testing.assert_array_equal(found.labels, labels > 0)
    assert found.class_names == ("x", "y", "z")
    np.savez(path, images=images, labels=labels * 2)
    with pytest.raises(DataError, match="must be 0 or 1"):
        sources.load(str(path), image_size=6)


def test_labels_are_gathered_for_padding_too(samples: Samples) -> None:
    """A pool with too few images of a label leaves slots empty, which hold nothing."""
    few = samples._replace(labels=samples.labels & (np.arange(400)[:, None] < 40))
    pool = make_pool(few, NAMES, fit_scaling(few.images))
    spec = EpisodeSpec(ways=3, shots=4, queries=30)
    episode = jax.jit(functools.partial(sample, spec=spec))(jax.random.key(3), pool)
    empty = ~np.asarray(episode.query.mask)
    assert empty.any()
    assert not np.asarray(jnp.abs(episode.query.x).sum((1, 2, 3)))[empty].any()


def test_sides_that_the_data_names_are_kept(samples: Samples) -> None:
    """What its own lists call test is neither trained on nor validated on, and the other way."""
    named = np.where(np.arange(len(samples.images)) % 4 == 0, "test", "train")
    split = make_split(samples._replace(sides=named))
    for side, pool in split.pools.items():
        x = np.asarray(pool.x)
        numbers = x[:, 0, 0, 0] + 256 * x[:, 1, 0, 0].astype(int)
        assert len(numbers) > 0
        assert set(named[numbers]) == {"test" if side == "test" else "train"}


@pytest.mark.parametrize("disjoint", ["image", "group"])
def test_copies_never_stand_in_support_and_query(samples: Samples, disjoint: str) -> None:
    """An image is there four times, of four patients, two of them shown with other labels."""
    number = np.arange(400) // 4
    images = samples.images[4 * number]
    images[:, 3] = 200  # none is blank
    pool = make_pool(samples._replace(images=images), NAMES, fit_scaling(images))
    spec = EpisodeSpec(ways=3, shots=2, queries=4, disjoint=disjoint)
    draw = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, spec)))
    drawn = draw(jax.random.split(jax.random.key(1), 2000))
    for support, query in zip(np.asarray(drawn.support), np.asarray(drawn.query), strict=True):
        there = number[support[support >= 0]], number[query[query >= 0]]
        assert not np.intersect1d(*there).size
    assert (np.asarray(drawn.query) >= 0).mean() > 0.3


def test_of_joined_data_sets_no_image_counts_for_a_label_it_was_not_read_for(
    samples: Samples,
) -> None:
    """An episode is of one data set: its images, and its images that show none, are of that."""
    other = samples._replace(images=samples.images + 3, labels=samples.labels[:, ::-1])
    joined = join({"a": samples, "b": other})
    assert joined.labels.shape == (800, 16)
    np.testing.assert_array_equal(joined.labels[400:, 8:], other.labels)
    assert not joined.labels[:400, 8:].any()
    pool = make_pool(joined, joined.class_names, fit_scaling(joined.images))
    spec = EpisodeSpec(ways=3, shots=2, queries=4, within="domain")
    check_pool(pool, spec, joined.class_names, "meta-train")
    keys = jax.random.split(jax.random.key(4), 300)
    drawn = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, spec)))(keys)
    homes = set()
    of_episodes = map(np.asarray, (drawn.classes, drawn.support, drawn.query))
    for classes, *parts in zip(*of_episodes, strict=True):
        (home,) = {int(label) // 8 for label in classes}
        for part in parts:
            assert {int(index) // 400 for index in part[part >= 0]} == {home}
        homes.add(home)
    assert homes == {0, 1}


def test_a_class_an_image_and_several_labels_are_not_joined(samples: Samples) -> None:
    plain = samples._replace(labels=np.arange(400, dtype=np.int32) % 8, about="plain")
    with pytest.raises(DataError, match="findings \\+ plain: one has a class an image, another"):
        join({"a": samples, "b": plain})
