"""Temperature and prediction sets: what they promise, on tasks whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from medmeta_jax.evaluation import Predictions
from medmeta_jax.metrics.calibration import (
    covered,
    fit,
    fit_temperature,
    pooled_quantile,
    prediction_sets,
)
from medmeta_jax.metrics.multi_label import sigmoid
from medmeta_jax.metrics.pooled import softmax
from medmeta_jax.uncertainty import as_questions


def tasks(rng: np.random.Generator, count: int, sharpness: float = 1.0) -> tuple[np.ndarray, ...]:
    """Tasks of 15 queries and five ways, each of its own difficulty: labels drawn from the
    softmax of logits, which are then shown `sharpness` times too large."""
    scale = rng.gamma(2.0, 1.0, (count, 1, 1))
    logits = scale * rng.normal(size=(count, 15, 5))
    edges = softmax(logits).cumsum(-1)
    y = (rng.random((count, 15, 1)) > edges).sum(-1).clip(0, 4)
    mask = rng.random((count, 15)) < 0.9
    mask[:, 0] = True
    return sharpness * logits, y, mask


def test_the_temperature_is_found() -> None:
    logits, y, mask = tasks(np.random.default_rng(0), 2000, sharpness=3.0)
    assert fit_temperature(logits, y, mask) == pytest.approx(3.0, rel=0.03)
    spoilt = np.where(mask[..., None], logits, np.nan)
    assert fit_temperature(spoilt, y, mask) == fit_temperature(logits, y, mask)


def test_the_quantile_by_hand() -> None:
    """Three tasks weigh a quarter each, the new one a quarter at infinity."""
    scores = np.array([[0.1, 0.5], [0.2, 0.0], [0.3, 0.4]])
    mask = np.array([[True, True], [True, False], [True, True]])
    # 0.1 has 1/8 below or at it, 0.2 3/8, 0.3 4/8, 0.4 5/8, 0.5 6/8.
    assert pooled_quantile(scores, mask, 0.5) == 0.3
    assert pooled_quantile(scores, mask, 0.51) == 0.4
    assert pooled_quantile(scores, mask, 0.75) == 0.5
    assert pooled_quantile(scores, mask, 0.76) == np.inf
    with pytest.raises(ValueError, match="no query images"):
        pooled_quantile(scores, np.zeros((3, 2), bool), 0.5)


@pytest.mark.parametrize(("count", "coverage"), [(20, 0.9), (40, 0.8), (400, 0.9)])
def test_new_tasks_are_covered_as_promised(count: int, coverage: float) -> None:
    """Over calibrations and 1,000 new tasks: no less than promised, and little more."""
    rng = np.random.default_rng(count)
    found = []
    new, y, mask = tasks(rng, 1000, sharpness=2.0)
    classes = np.broadcast_to(np.arange(5), (1000, 5))
    for _ in range(200):
        calibration = fit(*tasks(rng, count, sharpness=2.0), coverage=coverage)
        found.append(covered(prediction_sets(calibration, new, classes), y, mask)[0].mean())
    error = np.std(found) / np.sqrt(len(found)) + 0.003  # of the calibrations, of the new tasks
    assert np.mean(found) >= coverage - 2 * error
    # A task's own weight at infinity costs at most its size.
    assert np.mean(found) <= coverage + 1 / (count // 2 + 1) + 2 * error


def test_too_few_tasks_promise_everything() -> None:
    calibration = fit(*tasks(np.random.default_rng(0), 4), coverage=0.9)
    assert calibration.quantile == np.inf
    assert calibration.tasks == (2, 2)
    classes = np.array([[4, 2, 0, 1, -1]])
    sets = prediction_sets(calibration, np.zeros((1, 3, 5)), classes)
    np.testing.assert_array_equal(sets, [[[True] * 4 + [False]] * 3])


def test_coverage_counts_what_is_there() -> None:
    sets = np.array([[[True, False], [True, True], [False, True]]])
    y, mask = np.array([[0, 1, 0]]), np.array([[True, True, False]])
    share, size = covered(sets, y, mask)
    assert (share[0], size[0]) == (1.0, 1.5)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 1.5])
def test_what_cannot_be_promised_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage must be"):
        fit(*tasks(np.random.default_rng(0), 4), coverage=coverage)


def test_several_labels_as_questions() -> None:
    logits = np.array([[[2.0, -1.0], [0.5, 3.0]]])
    y, mask = np.array([[[1, 0], [0, 1]]]), np.array([[True, False]])
    asked = as_questions(Predictions(logits, y, mask, np.array([[4, 7]])))
    np.testing.assert_allclose(softmax(asked.logits)[0, :, 1], sigmoid(logits).ravel())
    np.testing.assert_array_equal(asked.y, [[1, 0, 0, 1]])
    np.testing.assert_array_equal(asked.mask, [[True, True, False, False]])
    np.testing.assert_array_equal(asked.classes, [[0, 1]])
    single = Predictions(logits, y[..., 0], mask, np.array([[4, 7]]))
    assert as_questions(single) is single


def test_labels_of_new_tasks_are_covered_as_promised() -> None:
    """Three labels an image, each task of its own difficulty, probabilities too sure."""
    rng = np.random.default_rng(0)

    def labelled(count: int) -> Predictions:
        logits = rng.gamma(2.0, 1.0, (count, 1, 1)) * rng.normal(size=(count, 15, 3))
        y = (rng.random(logits.shape) < sigmoid(logits)).astype(int)
        mask = rng.random((count, 15)) < 0.9
        mask[:, 0] = True
        return as_questions(Predictions(2 * logits, y, mask, np.tile(np.arange(3), (count, 1))))

    new, found, sizes = labelled(1000), [], []
    for _ in range(100):
        calibration = fit(*labelled(60)[:3], coverage=0.9)
        sets = prediction_sets(calibration, new.logits, new.classes)
        share, size = covered(sets, new.y, new.mask)
        found.append(share.mean())
        sizes.append(size.mean())
    error = np.std(found) / np.sqrt(len(found)) + 0.003
    assert 0.9 - 2 * error <= np.mean(found) <= 0.9 + 1 / 31 + 2 * error
    assert 1 < np.mean(sizes) < 2
