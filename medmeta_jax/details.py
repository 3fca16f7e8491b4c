"""What a run's predictions on meta-test come to, beyond their means: by class, by thing measured,
by structure, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medmeta_jax import overlays
from medmeta_jax.baselines import GLOBAL, places_of
from medmeta_jax.evaluation import Predictions, Scores
from medmeta_jax.experiment import Experiment
from medmeta_jax.labels import (
    MASKS,
    OBJECTS,
    OF_LESIONS,
    OF_ONE_WAY,
    SEVERAL,
    VALUES,
    each_mask,
    guesses,
)
from medmeta_jax.metrics.classification import confusion, pool_confusion, quadratic_kappa
from medmeta_jax.metrics.objects import curve_over_groups
from medmeta_jax.metrics.pooled import over_blocks
from medmeta_jax.metrics.values import errors


def details(experiment: Experiment, scores: Scores) -> dict[str, Any]:
    """What follows from what the labels are: "confusion", "values", "structures", "objects"."""
    predictions = scores.predictions
    return {
        "confusion": by_class(experiment, predictions),
        "values": by_value(experiment, predictions),
        "structures": by_structure(experiment, predictions),
        "objects": by_object(experiment, scores),
    }


def by_patient(means: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What rows are to patients: "patients", their number, and by row "worst_decile", the mean of
    the lowest tenth, and "made_worse", the share whose mean is below that by the one model for all,
    with "mean_loss", by how much on average.

    means: of each row, its `patient_means`. Empty where there is no row of one model.
    """
    if GLOBAL not in means:
        return {}
    count = len(means[GLOBAL])
    found: dict[str, Any] = {"patients": count, "rows": {}}
    for name, own in means.items():
        lost = np.maximum(means[GLOBAL] - own, 0)
        found["rows"][name] = {
            "worst_decile": float(np.sort(own)[: max(1, count // 10)].mean()),
            "made_worse": float((lost > 0).mean()),
            "mean_loss": float(lost.mean()),
        }
    return found


def by_value(experiment: Experiment, predictions: Predictions) -> dict[str, Any]:
    """For each thing that was measured, in its own units: "mean_absolute_error" and "rmse" over all
    predictions together, and "sd", the standard deviation of the meta-test images' values.

    Empty where labels are no values.
    """
    if experiment.kind is not VALUES:
        return {}
    pool = experiment.split.pools["test"]
    found = {}
    for name, label, sd in zip(
        experiment.split.classes["test"], np.asarray(pool.labels), np.asarray(pool.spread),
        strict=True,
    ):  # fmt: skip
        own = predictions.classes[:, 0] == label
        if own.any():
            off = errors(predictions.logits, predictions.y)[own][predictions.mask[own]] * float(sd)
            found[name] = {
                "mean_absolute_error": float(np.abs(off).mean()),
                "rmse": float(np.sqrt((off**2).mean())),
                "sd": float(sd),
            }
    return found


def by_class(experiment: Experiment, predictions: Predictions) -> dict[str, Any]:
    """Which meta-test class the queries of each were taken for, over all episodes together:
    "classes", "counts" [true][predicted] and "absent", how many were taken for a way that their
    episode does not have; for grades "quadratic_kappa" too.

    Empty where images have several labels, values, masks or objects, which are not taken for one
    another.
    """
    if experiment.kind in (SEVERAL, *OF_ONE_WAY):
        return {}
    ways = predictions.logits.shape[-1]
    labels = np.asarray(experiment.split.pools["test"].labels)
    order = np.argsort(labels)
    places = order[np.searchsorted(labels, predictions.classes, sorter=order)]
    places = np.where(predictions.classes < 0, -1, places)

    def table(guess: Any, y: Any, mask: Any, classes: Any) -> np.ndarray:
        return pool_confusion(confusion(guess, y, mask, ways), classes, len(labels))

    if experiment.kind in OF_LESIONS:  # whose answers are 0 for none, which is the last way
        told, truth = experiment.kind.read(*predictions)[:2]
        guess, y = ((of.astype(int) - 1) % ways for of in (told[..., 0], truth))
    else:
        guess, y = guesses(predictions.logits, predictions.y), predictions.y
    arrays = (guess, y, predictions.mask, places)
    counts = table(*arrays)
    found: dict[str, Any] = {
        "classes": list(experiment.split.classes["test"]),
        "counts": counts.tolist(),
        "absent": int(predictions.mask.sum() - counts.sum()),
    }
    if experiment.config.ordered:
        kappa = over_blocks(lambda *some: {"kappa": quadratic_kappa(table(*some))}, *arrays)
        found["quadratic_kappa"] = kappa["kappa"]._asdict()
    return found


def by_object(experiment: Experiment, scores: Scores) -> dict[str, Any]:
    """Where objects are found, the FROC curve over all meta-test images together, with its interval
    when patients are resampled (`metrics/objects.curve_over_groups`); else empty."""
    if experiment.kind is not OBJECTS:
        return {}
    matched, _, mask, _ = scores.read
    images = np.asarray(places_of(experiment.test, experiment.spec).query)
    return curve_over_groups(matched, mask, np.asarray(experiment.test.pool.group)[images])


def shown(experiment: Experiment, predictions: Predictions) -> list[overlays.Shown]:
    """Some meta-test queries, from the worst marked to the best."""
    split = experiment.split
    labels = np.asarray(split.pools["test"].labels).tolist()
    names = dict(zip(labels, split.classes["test"], strict=True))
    return overlays.look_up(experiment.test, predictions, names, split.scaling)


def by_structure(experiment: Experiment, predictions: Predictions) -> dict[str, Any]:
    """For each structure of meta-test that was to be marked: "dice", the mean over its queries, and
    "queries", their number. Empty where labels are no masks."""
    if experiment.kind is not MASKS:
        return {}
    each, label = each_mask(*predictions)
    labels = np.asarray(experiment.split.pools["test"].labels).tolist()
    return {
        name: {"dice": float(each[label == one].mean()), "queries": int((label == one).sum())}
        for name, one in zip(experiment.split.classes["test"], labels, strict=True)
        if (label == one).any()
    }
