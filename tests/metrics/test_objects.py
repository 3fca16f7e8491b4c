"""Objects found in episodes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medmeta_jax.evaluation import Predictions, score_predictions
from medmeta_jax.labels import OBJECTS, kind_of
from medmeta_jax.metrics import froc
from medmeta_jax.metrics.detection import AGAIN, FALSE
from medmeta_jax.metrics.objects import (
    curve_over_groups,
    match_image,
    match_images,
    object_scores,
    pooled_object_scores,
    probability_map,
)

A, B = [[0, 0], [3, 3]], [[4, 4], [7, 7]]
IN_A, IN_B, NOWHERE = (1, 1), (5, 5), (1, 6)


def logits_of(marks: dict[tuple[int, ...], float], size: int = 8) -> np.ndarray:
    """Logits [size, size, 2] of pixels of some probabilities, all others of nearly none."""
    above = np.full((size, size), -9.0, np.float32)
    for place, p in marks.items():
        above[place] = np.log(p / (1 - p))
    return np.stack([np.zeros_like(above), above], -1)


def boxes_of(*boxes: list[list[int]], slots: int = 3) -> np.ndarray:
    """[slots, 2, 2], NaN beyond the boxes."""
    found = np.full((slots, 2, 2), np.nan, np.float32)
    found[: len(boxes)] = np.reshape(boxes, (-1, 2, 2))
    return found


def episode_scores(*images: tuple[dict[tuple[int, ...], float], np.ndarray]) -> dict[str, float]:
    """The scores of an episode of these images, each its marks and its boxes."""
    logits = np.stack([logits_of(marks) for marks, _ in images])[None]
    boxes = np.stack([own for _, own in images])[None]
    mask = np.ones((1, len(images)), bool)
    found = object_scores(match_images(logits, boxes, mask), boxes, mask)
    return {name: float(value) for name, (value,) in found.items()}


def values(scores: dict[str, float]) -> list[float]:
    return [scores[name] for name in OBJECTS.columns]  # CPM, AP, recall, precision


def test_all_found_and_nothing_found() -> None:
    both = boxes_of(A, B)
    assert values(episode_scores(({IN_A: 0.9, IN_B: 0.6}, both))) == [1, 1, 1, 1]
    assert values(episode_scores(({}, both))) == [0, 0, 0, 0]


def test_one_of_two_is_missed() -> None:
    assert values(episode_scores(({IN_A: 0.9}, boxes_of(A, B)))) == [0.5, 0.5, 0.5, 1]
    # Of two images, which have three objects together.
    found = episode_scores(({IN_A: 0.9}, boxes_of(A, B)), ({IN_B: 0.9}, boxes_of(B)))
    assert values(found) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1])


def test_false_positives_lower_what_they_stand_before() -> None:
    both = boxes_of(A, B)
    last = episode_scores(({IN_A: 0.9, IN_B: 0.8, NOWHERE: 0.7}, both))
    assert values(last) == pytest.approx([1, 1, 1, 2 / 3])
    # Sensitivity is 0 below one false positive an image, and all from there on: at 1, 2, 4 and 8.
    first = episode_scores(({IN_A: 0.8, IN_B: 0.7, NOWHERE: 0.9}, both))
    assert values(first) == pytest.approx([4 / 7, 2 / 3, 1, 2 / 3])
    between = episode_scores(({IN_A: 0.9, IN_B: 0.7, NOWHERE: 0.8}, both))
    assert values(between) == pytest.approx([(3 * 0.5 + 4) / 7, (1 + 2 / 3) / 2, 1, 2 / 3])
    # In two images it is one false positive in two: the rates from 0.5 on have both.
    of_two = episode_scores(({IN_A: 0.8, NOWHERE: 0.9}, boxes_of(A)), ({IN_B: 0.7}, boxes_of(B)))
    assert of_two["cpm"] == pytest.approx(5 / 7)


def test_what_hits_again_is_false_for_average_precision_alone() -> None:
    marks = {(0, 0): 0.9, (2, 2): 0.8, IN_B: 0.7}
    assert values(episode_scores((marks, boxes_of(A, B)))) == pytest.approx([1, 5 / 6, 1, 1])
    found = match_image(logits_of(marks), boxes_of(A, B)).found
    np.testing.assert_array_equal(found, [0, AGAIN, 1])


def test_a_part_is_where_its_middle_is() -> None:
    """A bar from A's inside to beyond it: its middle, weighted by probability, decides."""
    bar = {(1, column): 0.7 for column in range(5)}  # 2 + 1/2, of a box that ends at 3
    np.testing.assert_array_equal(match_image(logits_of(bar), boxes_of(A)).found, [0])
    longer = {(1, column): 0.7 for column in range(6)}  # 2 1/2 + 1/2: on its side
    np.testing.assert_array_equal(match_image(logits_of(longer), boxes_of(A)).found, [FALSE])
    edge = boxes_of([[0, 0], [2, 3]], [[0, 2], [2, 3]])
    found = match_image(logits_of({(1, 2): 0.9}), edge)  # the nearer middle of two
    np.testing.assert_array_equal(found.found, [1])
    assert found.lesions == 2


def test_probabilities_of_large_logits_stay_apart() -> None:
    logits = np.zeros((1, 4, 2), np.float32)
    logits[0, :, 1] = [0, 20, 25, np.inf]
    p = probability_map(logits)
    assert p[0, 0] == 0  # a half is not marked
    assert 0.5 < p[0, 1] < p[0, 2] < 1
    assert p[0, 3] == 0  # a model that diverged has found nothing
    logits[0, 1] = [np.nan, 9]
    assert probability_map(logits)[0, 1] == 0
    assert probability_map(logits[:, ::-1])[0, 2] == 0


def test_padding_is_no_image_and_may_hold_anything() -> None:
    """An episode of one image and padding, and one of two; pooled, four objects of which three
    are found, and one false positive in three images."""
    logits = np.stack(
        [
            [logits_of({IN_A: 0.9}), logits_of({NOWHERE: 0.99})],
            [logits_of({IN_A: 0.9, NOWHERE: 0.6}), logits_of({IN_B: 0.8})],
        ]
    )
    logits[0, 1, 0] = np.nan
    boxes = np.stack([[boxes_of(A), boxes_of()], [boxes_of(A, B), boxes_of(B)]])
    mask = np.array([[True, False], [True, True]])
    one = np.zeros((2, 1), np.int32)
    assert kind_of(boxes, one) is OBJECTS
    assert kind_of(np.zeros((2, 5), np.float32), one).name == "values"
    found = score_predictions(Predictions(logits, boxes, mask, np.array([[4], [2]])))
    assert found.kind is OBJECTS
    np.testing.assert_allclose(found.per_episode["object_recall"], [1, 2 / 3])
    np.testing.assert_allclose(found.per_episode["object_precision"], [1, 2 / 3])
    assert found.headline.mean == pytest.approx((1 + 2 / 3) / 2)
    assert found.by_classes == pytest.approx((2 / 3, 1))  # one kind or the other, drawn twice
    pooled = found.pooled()
    assert pooled["object_recall"].mean == pytest.approx(3 / 4)
    assert pooled["object_precision"].mean == pytest.approx(3 / 4)
    assert pooled["false_positives"].mean == pytest.approx(1 / 3)
    matched = match_images(logits, boxes, mask)
    assert matched[0, 1] is None
    again = pooled_object_scores(matched, boxes, mask, np.array([[4], [2]]))
    assert again == {name: value.mean for name, value in pooled.items()}


def test_volumes() -> None:
    logits = np.zeros((4, 5, 6, 2))
    logits[..., 1] = -5
    logits[1:3, 2, 2:4, 1] = 5
    boxes = np.asarray([[[0, 1, 1], [3, 4, 5]], [[3, 4, 5], [4, 5, 6]]])
    np.testing.assert_array_equal(match_image(logits, boxes).found, [0])


def test_the_interval_is_of_patients() -> None:
    """One patient's images are perfect and the other's empty: all of one, or of the other."""
    images = [logits_of({IN_A: 0.9}), logits_of({})]
    logits, boxes = np.stack([images, images]), np.stack([[boxes_of(A)] * 2] * 2)
    mask = np.ones((2, 2), bool)
    matched = match_images(logits, boxes, mask)
    found = curve_over_groups(matched, mask, np.array([[0, 7], [0, 7]]))
    assert found["cpm"] == 0.5
    assert found["sensitivity"] == [0.5] * 7
    assert found["rates"] == list(froc.RATES)
    assert found["over_groups"] == [0, 1]
    apart = curve_over_groups(matched, mask, np.array([[0, 0], [0, 0]]))
    assert apart["over_groups"] == [0.5, 0.5]
