"""Examples by our own serialiser: the bytes of tfds' one."""

from __future__ import annotations

import hashlib
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings

from medmeta_jax.data._tf_example import serialiser
from medmeta_jax.data.prepare import example_of, features
from medmeta_jax.data.records import Box, Record

TENSOR = tfds.features.Tensor


def by_tfds(known: Any, example: dict[str, Any]) -> bytes:
    theirs = tfds.core.example_serializer.ExampleSerializer(known.get_serialized_info())
    return theirs.get_tf_example(known.encode_example(example)).SerializeToString(
        deterministic=True
    )


words = st.text(st.characters(codec="utf-8"), max_size=5)
boxes = st.builds(Box, *[st.floats(0, 9, width=32)] * 4, words)


@st.composite
def made(draw: st.DrawFn) -> Record:
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    # Arrays whose memory lies in another order than their axes.
    image = pixels[::-1, :, : draw(st.sampled_from((1, 3)))]
    image = np.asfortranarray(image) if draw(st.booleans()) else image
    return Record(
        image,
        draw(words | st.lists(words, max_size=3).map(tuple)),
        draw(words),
        draw(st.none() | words),
        draw(words),
        draw(st.none() | words),
        draw(st.none() | words),
        draw(st.sampled_from((None, pixels[..., 0] & 1))),
        tuple(draw(st.lists(boxes, max_size=3))),
    )


@given(made())
@settings(max_examples=50, deadline=None)
def test_every_record_is_as_tfds_has_it(record: Record) -> None:
    known, example = features(), example_of(record)
    assert serialiser(known)(example) == by_tfds(known, example)


KNOWN = tfds.features.FeaturesDict(
    {
        "volume": TENSOR(shape=(None, None, None, 1), dtype=np.int16, encoding="bytes"),
        "line": TENSOR(shape=(None,), dtype=np.float32, encoding="bytes"),
        "spacing": TENSOR(shape=(3,), dtype=np.float32),
        "grid": TENSOR(shape=(2, 2), dtype=np.int64),
        "flags": TENSOR(shape=(None,), dtype=np.bool_),
        "count": tfds.features.Scalar(np.int64),
        "name": tfds.features.Text(),
        "labels": tfds.features.Sequence(tfds.features.Text()),
    }
)
EXAMPLE = {
    "volume": np.arange(12, dtype=np.int16).reshape(1, 4, 3, 1),
    "line": np.asarray([0.5, -1], np.float32),
    "spacing": np.asarray([0.7, 0.7, 2.5], np.float32),
    "grid": np.asarray([[1, 2], [3, -4]]),
    "flags": np.asarray([True, False]),
    "count": -7,
    "name": "röntgen",
    "labels": ["a", "b"],
}


def test_fields_of_every_kind() -> None:
    assert serialiser(KNOWN)(EXAMPLE) == by_tfds(KNOWN, EXAMPLE)


def test_the_bytes_stay_as_they_were() -> None:
    """By tfds 4.9.10: a prepared folder's checksums hold from one version to the next."""
    found = hashlib.sha256(serialiser(KNOWN)(EXAMPLE)).hexdigest()
    assert found == "e22aac4fd8b2e1063bfd8b8b003f7b111d014056a12f28c193502d79bb2848ee"


@pytest.mark.parametrize("name", ["volume", "line", "spacing", "grid"])
def test_another_dtype_is_refused_and_not_written(name: str) -> None:
    wrong = {**EXAMPLE, name: EXAMPLE[name].astype(np.float64)}
    with pytest.raises(ValueError, match=rf"{name}: an array of float64, not "):
        serialiser(KNOWN)(wrong)
