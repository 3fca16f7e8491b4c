"""How far a run's probabilities can be trusted: fitted on meta-validation, judged elsewhere.

The tasks of calibration are of the meta-validation classes, and not those that chose the
checkpoint. The promise of the sets holds for new tasks of these classes; how far it holds for
the meta-test classes, which are another distribution, is measured and reported.

Where images have several labels, each label of an image is a question of two answers, absent
and present, and the temperature and the sets are of these: a set of both abstains. Where they have
values, there is an interval about the prediction in place of a set.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medmeta_jax.evaluation import (
    FixedEpisodes,
    Predictions,
    predict_episodes,
)
from medmeta_jax.experiment import Experiment
from medmeta_jax.labels import OF_LESIONS, OF_PIXELS, SEVERAL, VALUES
from medmeta_jax.metrics import calibration as sets, multi_label
from medmeta_jax.metrics.calibration import Calibration
from medmeta_jax.metrics.intervals import over_episodes
from medmeta_jax.metrics.pooled import over_blocks, probability_scores, softmax
from medmeta_jax.metrics.values import errors
from medmeta_jax.types import Params

CALIBRATION_SEED = 3_000_003
COVERAGE = 0.9


def calibrate(experiment: Experiment, params: Params, *, coverage: float = COVERAGE) -> Calibration:
    """Fit the temperature and the sets' quantile on tasks of the meta-validation classes.

    >>> from medmeta_jax.experiment import build
    >>> from medmeta_jax.settings import TrainConfig
    >>> small = {"image_size": 12, "net": {"width": 2, "depth": 1}, "augment": ()}
    >>> few = {"meta_steps": 2, "val_episodes": 2, "test_episodes": 2, "baselines": "none"}
    >>> made = build(TrainConfig(algorithm="protonet", **small, **few))
    >>> from medmeta_jax.running import initial_progress
    >>> calibrate(made, initial_progress(made, made.learner).state.params).tasks
    (1, 1)
    """
    count = experiment.config.val_episodes
    tasks = as_questions(validation_tasks(experiment, params, CALIBRATION_SEED, count))
    return sets.fit(tasks.logits, tasks.y, tasks.mask, coverage=coverage)


def validation_tasks(experiment: Experiment, params: Params, seed: int, count: int) -> Predictions:
    """Predictions of the experiment's learner on so many tasks of the meta-validation classes."""
    tasks = experiment.lists.fixed("val", experiment.spec, seed, count)
    return predicted(experiment, params, tasks)


def predicted(experiment: Experiment, params: Params, episodes: FixedEpisodes) -> Predictions:
    """Predictions of the experiment's learner after its own number of inner steps."""
    steps = experiment.config.hyper.get("steps")
    return predict_episodes(experiment.learner, params, episodes, steps=steps)


def as_questions(predictions: Predictions) -> Predictions:
    """Several labels as questions of two ways, absent and present; single labels as they are.

    logits: [E, n, ways] -> [E, n * ways, 2], with the softmax of each the label's sigmoid; y and
    mask: [E, n * ways]; classes: [E, 2], 0 and 1.
    """
    logits, y, mask, _ = predictions
    if y.ndim != 3:
        return predictions
    flat = logits.reshape(len(logits), -1)
    return Predictions(
        np.stack([np.zeros_like(flat), flat], -1),
        (y.reshape(flat.shape) > 0).astype(np.int32),
        np.repeat(mask, y.shape[-1], axis=1),
        np.tile(np.arange(2), (len(logits), 1)),
    )


def judged(calibration: Calibration, predictions: Predictions) -> dict[str, Any]:
    """What a calibration does to predictions that it was not fitted on (of several labels: to
    their questions).

    Returns "ece", "nll" and "brier" with and without the temperature, "covered", the share of
    queries whose set holds the truth, and "set_size", its mean number of ways; each with
    "mean" and "ci95" over episodes.

    >>> logits, y, mask = np.zeros((2, 3, 4)), np.zeros((2, 3), int), np.ones((2, 3), bool)
    >>> told = Predictions(logits, y, mask, np.tile(np.arange(4), (2, 1)))
    >>> judged(Calibration(1.0, 0.8, 0.9, (1, 1)), told)["set_size"]["mean"]
    4.0
    """
    logits, y, mask, classes = as_questions(predictions)
    held = sets.prediction_sets(calibration, logits, classes)
    covered, size = sets.covered(held, y, mask)
    found: dict[str, Any] = {
        "covered": over_episodes(covered)._asdict(),
        "set_size": over_episodes(size)._asdict(),
    }
    for name, temperature in (("as_is", 1.0), ("calibrated", calibration.temperature)):
        scores = over_blocks(probability_scores, softmax(logits, temperature), y, mask)
        found[name] = {key: estimate._asdict() for key, estimate in scores.items()}
    return found


def threshold_report(
    experiment: Experiment, params: Params, predictions: Predictions
) -> dict[str, Any]:
    """Where images have several labels: the threshold of the highest F1 on meta-validation
    tasks, and recall and F1 with it on predictions that it was not chosen on."""
    count = experiment.config.val_episodes
    tasks = validation_tasks(experiment, params, CALIBRATION_SEED, count)
    threshold = multi_label.best_threshold(multi_label.sigmoid(tasks.logits), tasks.y, tasks.mask)
    p = multi_label.sigmoid(predictions.logits)
    found: dict[str, Any] = {"threshold": threshold, "threshold_tasks": count, "meta_test": {}}
    for name, at in (("at_half", 0.5), ("at_threshold", threshold)):
        scores = multi_label.label_scores(p, predictions.y, predictions.mask, at)
        found["meta_test"][name] = {
            key: over_episodes(scores[key])._asdict() for key in ("recall", "f1")
        }
    return found


def interval_report(
    experiment: Experiment, params: Params, predictions: Predictions, *, coverage: float = COVERAGE
) -> dict[str, Any]:
    """Where images have values: the half-width of an interval about the prediction that holds the
    truth, fitted on meta-validation tasks as the sets of classes are, and how often it does on
    predictions that it was not fitted on. In standard deviations of the values."""
    count = experiment.config.val_episodes
    tasks = validation_tasks(experiment, params, CALIBRATION_SEED, count)
    half = sets.pooled_quantile(np.abs(errors(tasks.logits, tasks.y)), tasks.mask, coverage)
    held = (np.abs(errors(predictions.logits, predictions.y)) <= half) & predictions.mask
    covered = held.sum(1) / predictions.mask.sum(1)
    return {
        "half_width": None if np.isinf(half) else half,
        "coverage": coverage,
        "tasks": count,
        "meta_test": {"covered": over_episodes(covered)._asdict()},
    }


def of_run(experiment: Experiment, params: Params, predictions: Predictions) -> dict[str, Any]:
    """What is fitted on meta-validation for a run, and how it does on meta-test predictions; by
    what the labels are."""
    if experiment.kind in (*OF_PIXELS, *OF_LESIONS):
        return {}  # a mask's pixels resemble each other: what holds for images does not for them
    if experiment.kind is VALUES:
        return interval_report(experiment, params, predictions)
    found = report(calibrate(experiment, params), predictions)
    if experiment.kind is not SEVERAL:
        return found
    labels = threshold_report(experiment, params, predictions)
    return {**found, **labels, "meta_test": found["meta_test"] | labels["meta_test"]}


def report(calibration: Calibration, predictions: Predictions) -> dict[str, Any]:
    """A calibration and what it does to a run's meta-test predictions, as JSON can hold it."""
    plain = calibration._asdict()
    # JSON has no infinity: without a quantile the set is every way.
    plain["quantile"] = None if np.isinf(calibration.quantile) else calibration.quantile
    logits, y, mask, _ = as_questions(predictions)
    plain["reliability"] = {
        name: sets.reliability(softmax(logits, temperature), y, mask)
        for name, temperature in (("as_is", 1.0), ("calibrated", calibration.temperature))
    }
    return {**plain, "meta_test": judged(calibration, predictions)}
