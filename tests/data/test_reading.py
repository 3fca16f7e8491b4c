"""Going through units: in order, ahead but not far, and what becomes of those that fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medmeta_jax.data.reading import load_samples, read_units
from medmeta_jax.data.records import Box, Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError, fit_image, join, zoomed
from medmeta_jax.data.splits import make_split


def record(value: int = 0, **fields: Any) -> Record:
    return Record(np.full((4, 6, 1), value, np.uint8), **{"label": "a", **fields})


def catalogue(reads: list[Callable[[], list[Record]]], **fields: Any) -> Catalogue:
    units = [Unit(f"{place}.png", read) for place, read in enumerate(reads)]
    return Catalogue(units, about="some files", **fields)


def fails(message: str = "7.png: torn") -> Callable[[], list[Record]]:
    def read() -> list[Record]:
        raise DataError(message)

    return read


def test_units_come_in_order_however_long_each_takes() -> None:
    def slow(place: int) -> Callable[[], list[Record]]:
        def read() -> list[Record]:
            time.sleep(0.02 * (place % 3 == 0))
            return [record(place)]

        return read

    reads = read_units(catalogue([slow(i) for i in range(20)]), workers=4)
    assert [read.records[0].image[0, 0, 0] for read in reads] == list(range(20))


def test_few_units_are_read_ahead() -> None:
    """So that memory does not grow with the data set."""
    begun: list[int] = []
    lock = threading.Lock()

    def counted() -> list[Record]:
        with lock:
            begun.append(0)
        return [record()]

    reads = read_units(catalogue([counted] * 100), workers=2)
    for _ in range(10):
        next(reads)
    time.sleep(0.1)
    assert 10 <= len(begun) <= 10 + 2 * 2 + 1
    reads.close()


def test_one_that_fails_is_refused_or_skipped_and_named() -> None:
    good = [lambda: [record()]] * 10
    listed = catalogue([*good, fails(), *good])
    with pytest.raises(DataError, match=r"7\.png: torn"):
        list(read_units(listed))
    found = list(read_units(listed, on_error="skip"))
    assert [read.problem for read in found] == [""] * 10 + ["7.png: torn"] + [""] * 10
    samples = load_samples(listed, image_size=4, on_error="skip")
    assert len(samples.images) == 20
    assert [(one.name, one.reason) for one in samples.skipped] == [("10.png", "7.png: torn")]


def test_too_many_that_fail_are_no_accident() -> None:
    listed = catalogue([lambda: [record()]] * 37 + [fails()] * 3)
    with pytest.raises(DataError, match=r"some files: 3 of 40 files cannot be read, more than 5%"):
        list(read_units(listed, on_error="skip"))
    assert len(list(read_units(listed, on_error="skip", skip_at_most=0.1))) == 40
    with pytest.raises(DataError, match="1 of 2 files"):
        list(read_units(catalogue([fails()] * 2), on_error="skip", skip_at_most=0.0))


def test_whatever_a_decoder_raises_is_the_units_problem() -> None:
    for odd in (ZeroDivisionError("by zero"), MemoryError(), RecursionError("deep")):

        def read(error: Exception = odd) -> list[Record]:
            raise error

        with pytest.raises(DataError, match=rf"0\.png: cannot be read \({type(odd).__name__}"):
            list(read_units(catalogue([read])))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (record()._replace(image=np.zeros((4, 4, 1))), r"1\.png\[z=3\]: an image must be uint8"),
        (record()._replace(image=np.zeros((4, 4, 2), np.uint8)), "an image must be uint8"),
        (record()._replace(image=np.zeros((0, 4, 1), np.uint8)), "an image of no pixels"),
        (record(mask=np.zeros((3, 3), np.uint8)), "a mask of uint8"),
        (record(mask=np.zeros((4, 6))), "a mask of float64"),
        (record()._replace(image=np.zeros((2, 4, 4, 4), np.uint8)), "an image must be uint8"),
        (record()._replace(image=np.zeros((2, 2, 4, 4, 1), np.uint8)), "an image must be uint8"),
        (record()._replace(image=np.zeros((2, 0, 4, 1), np.uint8)), "an image of no pixels"),
        (
            record(mask=np.zeros((4, 6), np.uint8))._replace(
                image=np.zeros((4, 6, 3, 1), np.uint8)
            ),
            r"a mask of uint8 \(4, 6\) on an image \(4, 6, 3, 1\)",
        ),
        (
            record(boxes=(Box(0, 0, 1, 1, "b"),))._replace(image=np.zeros((2, 4, 4, 1), np.uint8)),
            r"boxes, which are of pictures, on a volume \(2, 4, 4, 1\)",
        ),
    ],
)
def test_a_record_that_breaks_the_contract_is_named(wrong: Record, message: str) -> None:
    listed = catalogue([lambda: [record()], lambda: [wrong._replace(name="z=3")]])
    with pytest.raises(DataError, match=message):
        list(read_units(listed))


def test_labels_groups_and_sides() -> None:
    reads = [
        lambda: [record(label="b", group="p1", side="train"), record(label="a", group="p2")],
        lambda: [record(label="b", group="p1", domain="ct")],
    ]
    samples = load_samples(catalogue(reads), image_size=4)
    assert samples.class_names == ("a", "b")
    assert samples.labels.tolist() == [1, 0, 1]
    assert samples.groups is not None
    assert samples.groups.tolist() == ["p1", "p2", "p1"]
    assert samples.sides is not None
    assert samples.sides.tolist() == ["train", "", ""]
    assert samples.domains is not None
    assert samples.domains.tolist() == ["", "", "ct"]
    graded = load_samples(catalogue(reads, class_names=("b", "a")), image_size=4)
    assert graded.labels.tolist() == [0, 1, 0]


def test_several_labels() -> None:
    reads = [lambda: [record(label=("x", "z")), record(label=()), record(label=("y",))]]
    samples = load_samples(catalogue(reads), image_size=4)
    assert samples.class_names == ("x", "y", "z")
    np.testing.assert_array_equal(samples.labels, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])


def test_grey_becomes_colour_where_any_is() -> None:
    colour = record()._replace(image=np.zeros((3, 3, 3), np.uint8))
    samples = load_samples(catalogue([lambda: [record(9), colour]]), image_size=4)
    assert samples.images.shape == (2, 4, 4, 3)


def volume(*shape: int, value: int = 9) -> Record:
    return record()._replace(image=np.full(shape, value, np.uint8))


def test_volumes_become_cubes() -> None:
    """Proportions are kept, what is added is 0, and grey becomes colour where any is."""
    samples = load_samples(
        catalogue([lambda: [volume(2, 4, 8, 1), volume(3, 3, 3, 3)]]), image_size=4
    )
    assert samples.images.shape == (2, 4, 4, 4, 3)
    there = np.zeros((4, 4, 4, 3), np.uint8)
    there[2:3, 1:3] = 9  # one slice of two rows
    np.testing.assert_array_equal(samples.images[0], there)
    assert (samples.images[1] == 9).all()


def test_pictures_and_volumes_do_not_stand_together() -> None:
    reads = [lambda: [volume(4, 4, 4, 1)], lambda: [record()]]
    with pytest.raises(DataError, match=r"1\.png: two-dimensional, and 0\.png is three-dim"):
        load_samples(catalogue(reads), image_size=4)
    parts = {str(i): load_samples(catalogue([read]), image_size=4) for i, read in enumerate(reads)}
    with pytest.raises(DataError, match="some files: two-dimensional, and some files is three-dim"):
        join(parts)
    with pytest.raises(DataError, match="two-dimensional"):
        make_split(parts["0"], val=parts["1"], test=parts["1"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_volume_is_scaled_as_its_slices_are(channels: int) -> None:
    """Of slices that are all the same picture, at any size."""
    picture = np.random.default_rng(0).integers(0, 256, (9, 14, channels), np.uint8)
    for size in (5, 14, 20):
        found = fit_image(np.stack([picture] * 14), size)
        assert found.shape == (size, size, size, channels)
        for one in found:
            np.testing.assert_array_equal(one, fit_image(picture, size))


def test_each_axis_is_scaled_alike() -> None:
    """A ramp along one axis, wherever it lies; and labels stay labels."""
    ramp = np.broadcast_to(np.arange(0, 240, 20, dtype=np.uint8)[:, None, None], (12, 8, 6))
    small = zoomed(ramp[..., None], (6, 4, 3), smooth=True)[..., 0]
    assert np.abs(np.diff(small[1:-1, 0, 0].astype(int)) - 40).max() <= 1
    for order in ((1, 0, 2), (2, 1, 0)):
        size = tuple(np.asarray((6, 4, 3))[list(order)])
        turned = zoomed(ramp.transpose(order)[..., None], size, smooth=True)[..., 0]
        np.testing.assert_array_equal(turned, small.transpose(order))
    labels = zoomed((ramp // 20 % 3 * 100)[..., None], (7, 9, 6), smooth=False)
    assert labels.shape == (7, 9, 6, 1)
    assert set(np.unique(labels)) == {0, 100, 200}


@pytest.mark.parametrize(
    ("records", "fields", "message"),
    [
        (
            [record(), record(label=("a",))],
            {},
            "some images have one class, some a list of labels",
        ),
        ([record(group="p"), record()], {}, "group .patient. of some images and not of all"),
        ([record(label="c")], {"class_names": ("a", "b")}, r"does not name: \['c'\]"),
        ([], {}, "holds no images"),
    ],
)
def test_what_does_not_fit_together(records: list[Record], fields: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_samples(catalogue([lambda: records], **fields), image_size=4)
