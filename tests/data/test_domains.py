"""Several data sets in one run: how they are joined, drawn from, and kept on their sides."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from medmeta_jax.data.episodes import EpisodeSpec, gather, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import Pool, fit_scaling, make_pool
from medmeta_jax.data.samples import DataError, Samples, join
from medmeta_jax.data.splits import make_split

CLASSES = {"zebra": 3, "ape": 5, "cat": 4}


def data_set(classes: int, seed: int, channels: int = 1, groups: bool = True) -> Samples:
    """Six 5-pixel images a class; a group holds two of them."""
    labels = np.repeat(np.arange(classes), 6).astype(np.int32)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 5, 5, channels), np.uint8)
    names = tuple(f"c{i}" for i in range(classes))
    own = np.asarray([f"g{i % 3}" for i in range(len(labels))]) if groups else None
    return Samples(images, labels, names, groups=own, about=f"set {seed}")


@pytest.fixture(scope="module")
def joined() -> Samples:
    return join({name: data_set(n, seed) for seed, (name, n) in enumerate(CLASSES.items())})


def pool_of(samples: Samples, mixing: tuple[float, ...] = ()) -> Pool:
    return make_pool(samples, samples.class_names, fit_scaling(samples.images), mixing)


def draw(pool: Pool, spec: EpisodeSpec, count: int = 2000):
    keys = jax.random.split(jax.random.key(3), count)
    run = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, spec)))
    return jax.tree.map(np.asarray, run(keys))


def test_names_are_kept_apart(joined: Samples) -> None:
    assert joined.class_names[:4] == ("zebra/c0", "zebra/c1", "zebra/c2", "ape/c0")
    assert set(joined.groups) == {f"{name}/g{i}" for name in CLASSES for i in range(3)}
    for label, name in enumerate(joined.class_names):
        assert set(joined.domains[joined.labels == label]) == {name.split("/")[0]}
    alone = data_set(3, 0)
    assert join({"alone": alone}) is alone


def test_colour_is_kept_and_an_image_without_a_group_is_its_own() -> None:
    made = join({"a": data_set(2, 0, channels=3), "b": data_set(2, 1, groups=False)})
    assert made.images.shape == (24, 5, 5, 3)
    np.testing.assert_array_equal(made.images[12:, ..., 0], made.images[12:, ..., 2])
    assert len(set(made.groups[12:])) == 12


def test_an_episode_is_of_one_domain_as_often_as_told(joined: Samples) -> None:
    """Domains in the order given, not by name; the smallest gives as many ways as it has."""
    pool = pool_of(joined, (1.0, 2.0, 5.0))
    drawn = draw(pool, EpisodeSpec(ways=(2, 4), shots=1, queries=2, within="domain"), 8000)
    there = drawn.classes >= 0
    domain = np.where(there, np.asarray(pool.domain)[drawn.classes], -1)
    first = domain[:, 0]
    assert ((domain == first[:, None]) | ~there).all()
    np.testing.assert_allclose(np.bincount(first) / 8000, np.array([1, 2, 5]) / 8, atol=0.02)
    ways = there.sum(1)
    assert set(ways[first == 0]) == {2, 3}
    assert set(ways[first == 1]) == {2, 3, 4}
    # Every class of a domain comes as often as every other.
    counts = np.bincount(drawn.classes[there & (domain == 1)], minlength=12)[3:8]
    np.testing.assert_allclose(counts / counts.sum(), 0.2, atol=0.02)
    # An absent way has no images.
    at = np.take_along_axis(there, drawn.support_y, 1)
    assert (drawn.support[~at] == -1).all()


def test_any_domain_mixes_them(joined: Samples) -> None:
    pool = pool_of(joined)
    drawn = draw(pool, EpisodeSpec(ways=3, shots=1, queries=1))
    domains = np.asarray(pool.domain)[drawn.classes]
    assert (domains != domains[:, :1]).any(1).mean() > 0.5


def test_unshuffled_classes_keep_the_pools_order(joined: Samples) -> None:
    spec = EpisodeSpec(ways=(2, 4), shots=1, queries=1, shuffle=False)
    drawn = draw(pool_of(joined), spec, 500)
    order = np.where(drawn.classes < 0, 99, drawn.classes)
    assert (np.diff(order, axis=1) >= 0).all()
    shuffled = draw(pool_of(joined), EpisodeSpec(ways=4, shots=1, queries=1), 500)
    assert (np.diff(shuffled.classes, axis=1) < 0).any()


def test_a_turned_class_is_another_class(joined: Samples) -> None:
    pool = pool_of(joined)
    spec = EpisodeSpec(ways=4, shots=2, queries=2, rotate=True, within="domain")
    drawn = draw(pool, spec, 300)
    assert set(np.unique(drawn.classes // 12)) == {0, 1, 2, 3}
    # One class may stand in an episode at several turns, which are told apart; images are not
    # shared between support and query all the same.
    again = [len(set(c % 12)) < 4 for c in drawn.classes]
    assert 0.1 < np.mean(again) < 1
    assert all(len(set(c)) == 4 for c in drawn.classes)
    for support, query in zip(drawn.support, drawn.query, strict=True):
        assert not set(support) & set(query) - {-1}
    one = jax.tree.map(lambda part: part[0], drawn)
    episode = gather(pool, one, rotate=True)
    scale, shift = np.asarray(pool.scale), np.asarray(pool.shift)
    for place, (index, way) in enumerate(zip(one.support, one.support_y, strict=True)):
        turned = np.rot90(np.asarray(pool.x)[index], one.classes[way] // 12)
        np.testing.assert_allclose(
            episode.support.x[place], (turned / 255.0 - shift) * scale, atol=1e-5
        )
    np.testing.assert_array_equal(episode.classes, np.asarray(pool.labels)[one.classes % 12])
    with pytest.raises(ValueError, match="balance must be 'balanced' with rotate"):
        EpisodeSpec(rotate=True, balance="proportional")


def test_what_cannot_be_drawn_within_a_domain_is_refused(joined: Samples) -> None:
    spec = EpisodeSpec(ways=4, shots=1, queries=1, within="domain")
    with pytest.raises(DataError, match=r"3 classes \(zebra/c0, zebra/c1, zebra/c2\), 4 ways"):
        check_pool(pool_of(joined), spec, joined.class_names, "meta-train")
    mixed = joined._replace(domains=np.asarray(["a", "b"] * (len(joined.labels) // 2)))
    with pytest.raises(DataError, match="'zebra/c0' has images of several domains"):
        check_pool(pool_of(mixed), spec, mixed.class_names, "meta-train")
    with pytest.raises(DataError, match="number above 0 for each of 3 domains"):
        pool_of(joined, (1.0, 2.0))


def test_a_data_set_for_each_side() -> None:
    """All classes of each; scaling is that of meta-training; groups are known or not by set."""
    split = make_split(
        {"a": data_set(3, 0), "b": data_set(2, 1, groups=False)},
        val=data_set(4, 2),
        test=data_set(2, 3, channels=3),
        mixing=(1.0, 3.0),
    )
    counts = {side: len(names) for side, names in split.classes.items()}
    assert counts == {"train": 5, "val": 4, "test": 2}
    assert split.pools["test"].x.shape[-1] == 1
    np.testing.assert_array_equal(split.pools["train"].mixing, [1, 3])
    np.testing.assert_array_equal(split.pools["val"].mixing, [1])
    assert (split.domains, split.ungrouped) == (2, ("set 1",))
    assert split.grouped == ("set 0", "set 2", "set 3")
    with pytest.raises(DataError, match=r"set 1: images of test are on another side too \(12\)"):
        make_split(data_set(3, 0), val=data_set(2, 1), test=data_set(2, 1))
