"""From images of lesions and of none to tasks: sides, episodes, refusals."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from medmeta_jax.data.episodes import EpisodeSpec, Indices, sample, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.lesions import lesions, sides_of
from medmeta_jax.data.pool import of_one_way
from medmeta_jax.data.samples import DataError, Samples
from medmeta_jax.data.splits import SIDES, Split, make_split
from medmeta_jax.labels import LESIONS, kind_of_pool

TYPES = ("cyst", "nodule", "scar", "spot", "streak", "wedge")
SPEC = EpisodeSpec(ways=3, shots=2, queries=3, disjoint="group")


@pytest.fixture(scope="module")
def samples() -> Samples:
    """12 images of each type and 36 of "healthy", which stands among them by name; patients have
    two. The first pixel is the image's number, and the mask of a type is a block of 5."""
    rng = np.random.default_rng(0)
    names = tuple(sorted((*TYPES, "healthy")))
    labels = np.repeat(np.arange(7), [36 if name == "healthy" else 12 for name in names])
    images = rng.integers(0, 256, (len(labels), 6, 6, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    masks = np.zeros((len(labels), 6, 6), np.uint8)
    masks[labels != names.index("healthy"), 1, :5] = 200
    groups = np.asarray([f"p{i // 2:02}" for i in range(len(labels))])
    return Samples(images, labels.astype(np.int32), names, groups, about="lungs", masks=masks)


@pytest.fixture(scope="module")
def split(samples: Samples) -> Split:
    found = lesions(samples)
    return make_split(found, given=sides_of(found, (), ()))


def test_the_class_without_a_lesion_is_told_by_its_masks(samples: Samples) -> None:
    found = lesions(samples)
    assert found.no_lesion == "healthy"
    assert found.skipped == ()
    np.testing.assert_array_equal(found.labels, samples.labels)


def test_what_shows_too_little_is_left_out_and_named(samples: Samples) -> None:
    masks = samples.masks.copy()
    masks[1, 1, 2:] = 0  # of a cyst
    found = lesions(samples._replace(masks=masks, names=np.arange(len(masks)).astype(str)))
    assert len(found.labels) == len(samples.labels) - 1
    assert found.images[1, 0, 0, 0] == 2
    (left,) = found.skipped
    assert left.name == "1"
    assert "shows fewer than 4 pixels" in left.reason


def test_what_is_no_task_of_lesions_is_refused(samples: Samples) -> None:
    masks = np.full_like(samples.masks, 1)
    with pytest.raises(DataError, match="one class whose masks are all empty, and all show one"):
        lesions(samples._replace(masks=masks))
    masks = samples.masks.copy()
    masks[:12] = 0
    with pytest.raises(DataError, match="and cyst, healthy are without"):
        lesions(samples._replace(masks=masks))
    with pytest.raises(DataError, match="needs one class an image"):
        lesions(samples._replace(labels=np.ones((len(masks), 7), bool)))
    two = samples._replace(
        labels=np.where(samples.labels < 2, samples.labels, 2).astype(np.int32),
        class_names=("cyst", "healthy", "other"),
    )
    with pytest.raises(DataError, match="has 2 types of lesions, and each side"):
        lesions(two)


def test_types_are_on_one_side_and_those_without_on_all(samples: Samples, split: Split) -> None:
    held = {side: set(split.classes[side]) - {"healthy"} for side in SIDES}
    assert all("healthy" in split.classes[side] for side in SIDES)
    assert sorted(name for own in held.values() for name in own) == list(TYPES)
    assert [len(held[side]) for side in SIDES] == [2, 2, 2]
    numbers = {side: np.asarray(split.pools[side].x)[:, 0, 0, 0] for side in SIDES}
    together = np.concatenate(list(numbers.values()))
    assert len(np.unique(together)) == len(together) == len(samples.labels)
    patients = [set(samples.groups[numbers[side]]) for side in SIDES]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    without = [int((samples.labels[numbers[side]] == 1).sum()) for side in SIDES]
    assert without == [24, 6, 6]


def test_types_are_held_out_by_name(samples: Samples) -> None:
    found = lesions(samples)
    split = make_split(found, given=sides_of(found, ("wedge",), ("spot", "cyst")))
    assert set(split.classes["test"]) == {"spot", "cyst", "healthy"}
    assert set(split.classes["val"]) == {"wedge", "healthy"}
    for val, test, what in (
        (("healthy",), ("spot",), "'healthy' is no type of lesion"),
        (("spot",), ("spot",), "'spot' is held out twice"),
        (("wart",), ("spot",), "'wart' is no type"),
        (TYPES[:3], TYPES[3:], "all types are held out"),
    ):
        with pytest.raises(DataError, match=what):
            sides_of(found, val, test)


def test_an_image_stays_off_the_side_that_its_folder_forbids(samples: Samples) -> None:
    folders = np.full(len(samples.labels), "train")
    folders[samples.labels == samples.class_names.index("spot")] = "test"
    found = lesions(samples._replace(sides=folders))
    sides = sides_of(found, ("wedge",), ("spot",))
    assert (sides[folders == "test"] == "test").all()
    assert not (sides[folders == "train"] == "test").any()
    assert (sides == "").sum() == 6  # those without a lesion whose turn it was to be of meta-test


@pytest.fixture(scope="module")
def drawn(split: Split) -> Indices:
    pool = split.pools["train"]
    keys = jax.random.split(jax.random.key(0), 50)
    found: Indices = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, SPEC)))(keys)
    return jax.tree.map(np.asarray, found)


def test_none_is_the_last_way_of_every_episode(split: Split, drawn: Indices) -> None:
    names = np.asarray(split.classes["train"])
    check_pool(split.pools["train"], SPEC, split.classes["train"], "meta-train")
    assert kind_of_pool(split.pools["train"]) is LESIONS
    assert of_one_way(split.pools["train"]) == ""
    ways = names[drawn.classes]
    assert (ways[:, 2] == "healthy").all()
    pairs = {tuple(pair) for pair in ways[:, :2].tolist()}
    assert pairs == {("cyst", "spot"), ("spot", "cyst")}
    for images, of in ((drawn.support, drawn.support_y), (drawn.query, drawn.query_y)):
        assert (images >= 0).all()
        assert (np.bincount(of[0]) == [images.shape[1] // 3] * 3).all()
    group = np.asarray(split.pools["train"].group)
    for support, query in zip(group[drawn.support], group[drawn.query], strict=True):
        assert not set(support) & set(query)


def test_a_pixel_is_marked_by_its_way(split: Split, samples: Samples) -> None:
    pool = split.pools["train"]
    episode = jax.jit(lambda key: sample(key, pool, SPEC))(jax.random.key(1))
    y = np.asarray(episode.support.y)
    assert y.shape == (6, 6, 6)
    expected = np.zeros((6, 6, 6), np.int32)
    expected[:2, 1, :5], expected[2:4, 1, :5] = 1, 2
    np.testing.assert_array_equal(y, expected)
    assert int(episode.classes[-1]) == samples.class_names.index("healthy")


def test_classes_keep_their_order_where_they_are_not_shuffled(split: Split) -> None:
    pool = split.pools["train"]
    spec = EpisodeSpec(ways=3, shots=1, queries=1, disjoint="group", shuffle=False)
    keys = jax.random.split(jax.random.key(0), 20)
    classes = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, spec).classes))(keys)
    assert (np.asarray(classes)[:, 0] < np.asarray(classes)[:, 1]).all()
    assert (np.asarray(classes)[:, 2] == int(pool.empty)).all()
