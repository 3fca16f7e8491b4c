"""Histogram standardisation: landmarks and maps by hand, and whose images have a part in them."""

from __future__ import annotations

import numpy as np
import pytest

from medmeta_jax.data.histogram import PERCENTILES, landmarks, standardise, table
from medmeta_jax.data.samples import DataError, Samples, join
from medmeta_jax.data.splits import Split, make_split


def data_set(seed: int, classes: int = 8, gamma: float = 1.0, channels: int = 1) -> Samples:
    """Images of every level, by a scanner that raises them to a power."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 40).astype(np.int32)
    values = rng.beta(2, 3, (len(labels), 8, 8, 1)) ** gamma
    images = np.repeat((255 * values).round().astype(np.uint8), channels, -1)
    images[:, 0] = 0  # what lies around every image
    return Samples(images, labels, tuple(f"c{i}" for i in range(classes)), about=f"set {seed}")


def levels(split: Split, side: str) -> np.ndarray:
    return landmarks(np.asarray(split.pools[side].x))


def test_landmarks_by_hand() -> None:
    """Of the levels 2, 4, ..., 200, each once, with as much padding as one likes."""
    image = np.concatenate([np.arange(2, 202, 2), np.zeros(1000, int)]).astype(np.uint8)
    np.testing.assert_array_equal(landmarks(image), 2 * PERCENTILES)
    ten = np.arange(1, 11, dtype=np.uint8)
    assert landmarks(ten).tolist() == [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    flat = landmarks(np.full((3, 3), 7, np.uint8))
    np.testing.assert_array_equal(flat, np.full(11, 7.0))
    np.testing.assert_array_equal(table(landmarks(np.zeros((3, 3), np.uint8)), 2.55 * PERCENTILES),
                                  np.arange(256))  # fmt: skip


def test_the_map_by_hand() -> None:
    """Between two landmarks linear; the ends stay; levels that fall together go to the lowest."""
    own = np.asarray([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110], float)
    found = table(own, own + 100)
    assert found[[0, 5, 10, 15, 60, 110, 255]].tolist() == [0, 55, 110, 115, 160, 210, 255]
    assert (np.diff(found.astype(int)) >= 0).all()
    half = table(landmarks(np.arange(101, dtype=np.uint8)), 1.5 * PERCENTILES)
    assert half[[11, 13]].tolist() == [16, 20]  # 16.5 and 19.5, to the nearest even
    together = np.asarray([10, 10, 30, 40, 50, 60, 70, 80, 90, 100, 255], float)
    found = table(together, own)
    assert found[[10, 255]].tolist() == [10, 255]
    assert (np.diff(found.astype(int)) >= 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_domains_come_onto_one_scale(channels: int) -> None:
    parts = {"a": data_set(0), "b": data_set(1, gamma=3.0, channels=channels)}
    test = data_set(2, 4, gamma=0.5, channels=channels)
    apart, together = (
        make_split(parts, test=test, standardised=wanted) for wanted in (False, True)
    )
    assert (apart.standardised, together.standardised) == (False, True)
    assert np.abs(levels(apart, "test") - levels(apart, "train")).max() > 40

    def of_domains(split: Split) -> list[np.ndarray]:
        pool = split.pools["train"]
        rows = [np.asarray(pool.rows)[np.asarray(pool.domain) == d].ravel() for d in (0, 1)]
        return [landmarks(np.asarray(pool.x)[row[row >= 0]]) for row in rows]

    before, after = of_domains(apart), of_domains(together)
    assert np.abs(before[0] - before[1]).max() > 60
    assert np.abs(after[0] - after[1]).max() <= 1
    assert np.abs(levels(together, "test") - after[0]).max() <= 1
    np.testing.assert_allclose(after[0], (before[0] + before[1]) / 2, atol=1)  # the mean scale


def test_no_other_side_has_a_part_in_what_is_trained_on() -> None:
    """Other images of meta-test's classes, and another data set to be judged on: no change."""
    parts = {"a": data_set(0), "b": data_set(1, gamma=3.0)}
    names = make_split(parts).classes["test"]
    changed = dict(parts)
    changed["b"] = parts["b"]._replace(images=parts["b"].images.copy())
    here = np.isin([f"b/c{label}" for label in parts["b"].labels], names)
    changed["b"].images[here] //= 3
    a, b = (make_split(some, standardised=True) for some in (parts, changed))
    for side in ("train", "val"):
        np.testing.assert_array_equal(a.pools[side].x, b.pools[side].x)
    np.testing.assert_array_equal(a.pools["train"].scale, b.pools["train"].scale)
    assert not np.array_equal(a.pools["test"].x, b.pools["test"].x)
    judged = make_split(parts["a"], test=data_set(2, 4, gamma=2.0), standardised=True)
    alone = make_split(parts["a"], test=data_set(3, 4), standardised=True)
    np.testing.assert_array_equal(judged.pools["train"].x, alone.pools["train"].x)


def test_another_data_set_goes_by_its_own_images() -> None:
    """Neither names a domain, and they are two all the same; what was given stays as it was."""
    train, test = data_set(0), data_set(2, 4, gamma=3.0)
    before = train.images.copy(), test.images.copy()
    split = make_split(train, test=test, standardised=True)
    assert np.abs(levels(split, "test") - levels(split, "train")).max() <= 1
    for samples, images in zip((train, test), before, strict=True):
        np.testing.assert_array_equal(samples.images, images)


def test_a_domain_that_is_not_trained_on_sets_no_standard() -> None:
    both = join({"a": data_set(0), "b": data_set(1, gamma=3.0)})
    used = {"train": both.domains == "a"}
    found = standardise({"train": both}, used, ("train",))["train"].images
    np.testing.assert_array_equal(found[used["train"]], both.images[used["train"]])
    apart = landmarks(found[~used["train"]]) - landmarks(found[used["train"]])
    assert np.abs(apart).max() <= 1


def test_the_scaling_is_of_the_new_scale() -> None:
    split = make_split({"a": data_set(0), "b": data_set(1, gamma=3.0)}, standardised=True)
    values = np.asarray(split.pools["train"].x, float) / 255
    np.testing.assert_allclose(split.scaling.shift, values.mean((0, 1, 2)), rtol=1e-5)


def test_one_domain_alone_is_refused() -> None:
    with pytest.raises(DataError, match="set 0: is of one domain, and standardise brings several"):
        make_split(data_set(0), standardised=True)
