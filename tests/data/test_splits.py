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
    assert made.about == "test; judged on test"
    assert not made.patients
    named = make_samples(2)._replace(groups=np.arange(8).astype(str))
    assert make_split(make_samples(6, channels=3), test=named).patients
    assert make_split(make_samples(6)._replace(groups=np.arange(24).astype(str))).patients
    assert not make_split(make_samples(6)).patients
    assert len(made.classes["train"]) + len(made.classes["val"]) == 6
    np.testing.assert_array_equal(made.pools["test"].scale, made.pools["train"].scale)


def test_judging_on_what_was_trained_on_is_refused() -> None:
    samples = make_samples(6)
    message = (
        r"test: images of test are on another side too \(24\), the first is image 0, the same as"
    )
    with pytest.raises(DataError, match=f"{message} image 0 of train.*: remove one of each$"):
        make_split(samples, test=samples)


def test_what_the_sides_share_is_counted() -> None:
    samples = make_samples(6)
    assert make_split(samples).shared_groups == 0
    patients = np.tile(np.array(["p1", "p2", "p3", "p4"]), 6)
    assert make_split(samples._replace(groups=patients)).shared_groups == 4


@pytest.mark.parametrize("sides", [("train", "test"), ("train", "val"), ("val", "test")])
def test_a_copy_on_another_side_is_refused(sides: tuple[str, str]) -> None:
    samples = make_samples(6)
    samples = samples._replace(names=np.asarray([f"{i}.png" for i in range(24)]))
    names = split_classes(samples)
    a, b = (4 * samples.class_names.index(names[side][0]) for side in sides)
    twice = samples.images.copy()
    twice[b + 2] = twice[a + 1]
    message = (
        rf"images of {sides[1]} are on another side too \(1\), the first is {b + 2}\.png, "
        rf"the same as {a + 1}\.png of {sides[0]}.*by: medmeta data split"
    )
    with pytest.raises(DataError, match=message):
        make_split(samples._replace(images=twice))
    twice[b + 2] = twice[a + 1] = 7  # blank slices are no copies
    assert make_split(samples._replace(images=twice)).copies == 0


def test_copies_of_one_side_are_counted() -> None:
    samples = make_samples(6)
    samples.images[1] = samples.images[2] = samples.images[0]
    assert make_split(samples).copies == 2


def test_scaling_never_sees_the_judged_images() -> None:
    samples = make_samples(30)
    dark = samples._replace(images=samples.images.copy())
    test = split_classes(samples)["test"]
    dark.images[np.isin(samples.labels, [int(name[1:]) for name in test])] = 0
    a, b = make_split(samples).scaling, make_split(dark).scaling
    np.testing.assert_array_equal(a.shift, b.shift)
    np.testing.assert_array_equal(a.scale, b.scale)
