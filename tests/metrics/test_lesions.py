"""Which lesion an image shows: by hand, by maps and by whole images."""

from __future__ import annotations

import numpy as np
import pytest

from medmeta_jax.data import structures
from medmeta_jax.labels import LESIONS, LESIONS_OF_IMAGES, MASKS, kind_of
from medmeta_jax.losses import lesion_accuracy
from medmeta_jax.metrics import lesions
from medmeta_jax.metrics.lesions import each_lesion, image_scores, pooled_presence, read_lesions

# Of one episode with types 7 and 3 and none (9): an image of each, and one of padding.
CLASSES, MASK = np.asarray([[7, 3, 9]]), np.asarray([[True, True, True, False]])
TRUTH = np.zeros((1, 4, 3, 4), np.int32)
TRUTH[0, 0, :2], TRUTH[0, 1, 1:], TRUTH[0, 3] = 1, 2, 2


def logits_of(told: np.ndarray) -> np.ndarray:
    """Logits whose largest are those of a map."""
    return np.eye(3, dtype=np.float32)[told] - 0.5


def test_what_is_right_is_right() -> None:
    told, truth, mask, classes = read_lesions(logits_of(TRUTH), TRUTH, MASK, CLASSES)
    np.testing.assert_array_equal(truth[0], [1, 2, 0, 2])
    np.testing.assert_array_equal(told[0, :3, 0], truth[0, :3])
    np.testing.assert_array_equal(told[0, :, 1], [1, 1, 1, np.nan])
    found = image_scores(told, truth, mask)
    assert all(value == 1 for value in found.values())
    right, label = each_lesion(told, truth, mask, classes)
    assert right.all()
    np.testing.assert_array_equal(label, [7, 3, 9])


def test_scores_by_hand() -> None:
    """The first is marked where it is, as the other type; in the second too little is marked; in
    the third, which has none, four pixels are."""
    marked = np.zeros_like(TRUTH)
    marked[0, 0, :2], marked[0, 1, 1, :3], marked[0, 2, 0] = 2, 2, 1
    arrays = logits_of(marked), TRUTH, MASK, CLASSES
    told, truth, mask, classes = read_lesions(*arrays)
    np.testing.assert_array_equal(told[0, :3, 0], [2, 0, 1])
    found = {name: float(value[0]) for name, value in image_scores(told, truth, mask).items()}
    assert found == pytest.approx({
        "accuracy": 0, "recall": 0, "f1": 0,
        "presence_accuracy": 1 / 3, "presence_recall": 1 / 2, "presence_f1": 1 / 2,
        "dice": (1 + 6 / 11) / 2,
    })  # fmt: skip
    pooled = pooled_presence(told, truth, mask, classes)
    assert pooled == {"presence_sensitivity": 0.5, "presence_specificity": 0.0}


def test_the_type_of_most_pixels_is_told_from_few_of_all() -> None:
    told = np.asarray([[[0, 2, 2, 0], [1, 1, 1, 0], [0, 0, 0, 0]]])[:, None]
    assert lesions.answers(logits_of(told), 2) == 1
    told[0, 0, 1, 0] = 0  # now as many of each, of which the first is taken
    assert lesions.answers(logits_of(told), 2) == 1
    told[0, 0, 1, 1] = 0  # three in all
    assert lesions.answers(logits_of(told), 2) == 0


def test_whole_images_are_told_without_a_map() -> None:
    logits = np.asarray([[[0, 5, 1], [2, 0, 1], [1, 0, 0], [9, 9, 9]]], np.float32)
    told, truth, mask, _ = read_lesions(logits, TRUTH, MASK, CLASSES)
    np.testing.assert_array_equal(told[0, :3, 0], [1, 0, 0])
    found = image_scores(told, truth, mask)
    assert "dice" not in found
    assert found["accuracy"] == found["presence_accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", ["map", "image"])
def test_what_is_not_finite_is_wrong(shape: str) -> None:
    logits = logits_of(TRUTH)
    if shape == "image":
        logits = logits_of(np.asarray([[1, 2, 0, 0]]))
    logits[0, 2].flat[0] = np.nan
    told, truth, mask, _ = read_lesions(logits, TRUTH, MASK, CLASSES)
    found = image_scores(told, truth, mask)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["presence_accuracy"] == pytest.approx(2 / 3)


def test_an_episode_without_an_image_of_a_lesion_has_scores() -> None:
    only = np.asarray([[False, False, True, False]])
    told, truth, mask, classes = read_lesions(logits_of(TRUTH), TRUTH, only, CLASSES)
    found = image_scores(told, truth, mask)
    assert (found["accuracy"], found["presence_recall"], found["dice"]) == (1, 0, 0)
    assert np.isnan(pooled_presence(told, truth, mask, classes)["presence_sensitivity"])


def test_in_training_images_are_told_alike() -> None:
    rng = np.random.default_rng(0)
    for axes in ((3, 4), ()):
        logits = rng.normal(size=(1, 4, *axes, 3)).astype(np.float32)
        logits[..., 0] += 0.5
        told, truth, mask, _ = read_lesions(logits, TRUTH, MASK, CLASSES)
        expected = image_scores(told, truth, mask)["accuracy"][0]
        found = lesion_accuracy(logits[0], TRUTH[0], MASK[0], least=lesions.LEAST)
        assert float(found) == pytest.approx(expected)


def test_lesions_are_told_from_structures_by_their_ways() -> None:
    assert kind_of(TRUTH, CLASSES) is LESIONS
    assert kind_of(TRUTH, CLASSES[:, :1]) is MASKS
    assert LESIONS_OF_IMAGES.name == LESIONS.name
    assert structures.LEAST == lesions.LEAST
