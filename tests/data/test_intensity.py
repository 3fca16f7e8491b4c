"""Scan values to 8 bits: by hand, and whatever the values are."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from medmeta_jax.data.intensity import METHODS, WINDOWS, to_uint8


def test_a_window_by_hand() -> None:
    values = np.array([-5000, -1350, -600, 150, 5000], np.int16)
    np.testing.assert_array_equal(to_uint8(values, "lung"), [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(to_uint8(values, WINDOWS["lung"]), to_uint8(values, "lung"))


def test_statistics_by_hand() -> None:
    values = np.arange(201, dtype=np.float32)
    found = to_uint8(values, "percentile")
    assert found[1] == 0 < found[2]
    assert found[199] == 255 > found[198]
    np.testing.assert_array_equal(to_uint8(values[:3], "range"), [0, 128, 255])
    z = to_uint8(np.array([-1.0, 1.0]), "zscore")  # a deviation from the mean to each side
    np.testing.assert_array_equal(z, [85, 170])


def test_statistics_are_of_the_mask_alone() -> None:
    values = np.array([0.0, 10.0, 20.0, 1000.0])
    mask = np.array([False, True, True, False])
    np.testing.assert_array_equal(to_uint8(values, "range", mask), [0, 0, 255, 255])


def test_what_is_not_a_number_is_lowest_and_counts_for_nothing() -> None:
    values = np.array([np.nan, 1.0, 2.0, np.inf])
    np.testing.assert_array_equal(to_uint8(values, "range"), [0, 0, 255, 0])


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("lungs", [1.0], "no intensity method 'lungs'; there are percentile"),
        ((40.0, 0.0), [1.0], "width must be > 0"),
        ("range", [np.nan], "no value to scale by"),
    ],
)
def test_what_is_refused(method, values, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_uint8(np.asarray(values), method)


@given(
    values=hnp.arrays(np.float64, 12, elements=st.floats(-1e30, 1e30)),
    method=st.sampled_from(METHODS),
)
def test_order_is_kept(values: np.ndarray, method: str) -> None:
    """Brighter stays at least as bright, whatever the values; a plain image stays plain."""
    found = to_uint8(values, method)
    assert (np.diff(found[np.argsort(values)].astype(int)) >= 0).all()
    assert len(set(to_uint8(np.full(5, values[0]), method).tolist())) == 1
