"""The split rule, and the sides that folders and files put images on."""

from __future__ import annotations

import numpy as np
import pytest

from medmeta_jax.data.samples import DataError, Samples
from medmeta_jax.data.splits import make_split, split_classes


def make_samples(n: int, sides=None, per_class: int = 4, channels: int = 1) -> Samples:
    labels = np.repeat(np.arange(n), per_class).astype(np.int32)
    images = np.random.default_rng(n).integers(0, 255, (len(labels), 4, 4, channels))
    return Samples(
        images.astype(np.uint8),
        labels,
        tuple(f"c{i:02d}" for i in range(n)),
        sides=None if sides is None else np.asarray(sides),
        about="test",
    )


@pytest.mark.parametrize("n", [6, 7, 8, 11, 17, 18, 30, 242])
def test_every_class_is_on_one_side(n: int) -> None:
    split = split_classes(make_samples(n))
    names = [name for side in split.values() for name in side]
    assert sorted(names) == sorted(set(names)) == sorted(make_samples(n).class_names)
    assert min(map(len, split.values())) >= 2


def test_sixths_by_index() -> None:
    split = split_classes(make_samples(242))
    index = {side: {int(name[1:]) % 6 for name in names} for side, names in split.items()}
    assert index == {"train": {0, 1, 2, 3}, "val": {4}, "test": {5}}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_too_few_classes(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} classes .* cannot be split into train and val and"):
        split_classes(make_samples(n))


def test_folders_that_share_no_class_keep_their_sides() -> None:
    sides = ["train"] * 24 + ["test"] * 8
    split = split_classes(make_samples(8, sides))
    assert split["test"] == ("c06", "c07")
    assert len(split["val"]) == 2
    assert len(split["train"]) == 4


def test_images_of_train_never_stand_in_meta_test() -> None:
    """The same classes in train/ and test/: unseen classes, and from the test/ images alone."""
    sides = np.tile(["train", "train", "test", "test"], 6)
    samples = make_samples(6, sides)
    made = make_split(samples)
    at_test = {image.tobytes() for image in np.asarray(made.pools["test"].x)}
    for side in ("train", "val"):
        assert not at_test & {image.tobytes() for image in np.asarray(made.pools[side].x)}
        assert made.pools[side].x.shape[0] == 2 * len(made.classes[side])
    assert at_test <= {image.tobytes() for image in samples.images[sides == "test"]}


def test_another_data_set_to_be_judged_on() -> None:
    made = make_split(make_samples(6, channels=3), test=make_samples(2))
    assert made.pools["test"].x.shape == (8, 4, 4, 3)
    assert made.classes["test"] == ("c00", "c01")
    assert len(made.classes["train"]) + len(made.classes["val"]) == 6
    np.testing.assert_array_equal(made.pools["test"].scale, made.pools["train"].scale)


def test_judging_on_what_was_trained_on_is_refused() -> None:
    samples = make_samples(6)
    with pytest.raises(DataError, match="24 of its images are also in the data of another"):
        make_split(samples, test=samples)


def test_what_the_sides_share_is_counted() -> None:
    samples = make_samples(6)
    assert (make_split(samples).shared_images, make_split(samples).shared_groups) == (0, 0)
    patients = np.tile(np.array(["p1", "p2", "p3", "p4"]), 6)
    assert make_split(samples._replace(groups=patients)).shared_groups == 4
    twice = samples.images.copy()
    names = split_classes(samples)
    test, train = (samples.class_names.index(names[side][0]) for side in ("test", "train"))
    twice[samples.labels == test] = twice[samples.labels == train]
    assert make_split(samples._replace(images=twice)).shared_images == 4


def test_scaling_never_sees_the_judged_images() -> None:
    samples = make_samples(30)
    dark = samples._replace(images=samples.images.copy())
    test = split_classes(samples)["test"]
    dark.images[np.isin(samples.labels, [int(name[1:]) for name in test])] = 0
    a, b = make_split(samples).scaling, make_split(dark).scaling
    np.testing.assert_array_equal(a.shift, b.shift)
    np.testing.assert_array_equal(a.scale, b.scale)
