"""A trained learner judged: its table beside its baselines', and what it leaves in its run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from medmeta_jax import baselines, console, overlays, processes, running, runs, sheets, uncertainty
from medmeta_jax.console import percent
from medmeta_jax.details import by_patient, details, shown
from medmeta_jax.experiment import Experiment
from medmeta_jax.labels import LESIONS, MASKS
from medmeta_jax.report import _make as report
from medmeta_jax.runs import Run

Stop = Callable[[], bool]


class Stopped(Exception):
    """Training was told to stop and has saved; `run` can be resumed."""


class RunFailed(Exception):
    """The run met something it cannot go on from. The message says where it stands."""


def stop_if_told(stop: Stop, run: Run | None) -> None:
    """Raise Stopped where a signal has come; training is saved by then."""
    if stop():
        again = f"saved; go on with: medmeta train --resume {run.folder}" if run else "stopped"
        raise Stopped("" if console.Voice.muted else again)


class Judged(NamedTuple):
    """The rows as results, the learner's own first; of each row its main score [E], and of patients
    its means; the first row itself."""

    results: list[dict[str, Any]]
    scores: dict[str, np.ndarray]
    means: dict[str, np.ndarray]
    first: baselines.Row


def judge_rows(experiment: Experiment, run: Run | None, params: Any, told_to_stop: Stop) -> Judged:
    """Judge every row, saying how each does."""
    task = running.task_of(experiment)
    facts, groups = running.facts(experiment, task), baselines.query_groups(task)
    results: list[dict[str, Any]] = []
    first, scores, means = None, {}, {}
    for row in running.judge(experiment, params, told_to_stop):
        first = first or row
        scores[row.learner] = row.scores.main
        if groups is not None and experiment.config.task == "patient":
            means[row.learner] = baselines.patient_means(row.scores, groups)
        results.append(baselines.result(row, first, facts, groups))
        main = percent(results[-1][experiment.kind.columns[0]])
        console.say(f"evaluated  {row.learner}: {main}")
        stop_if_told(told_to_stop, run)
    assert first is not None  # `judge` yields the learner's own row, whatever else
    return Judged(results, scores, means, first)


def evaluate_run(
    experiment: Experiment,
    run: Run | None,
    params: Any,
    seconds: dict[str, float],
    told_to_stop: Stop = lambda: False,
) -> dict[str, Any]:
    """The table of a trained learner; written into the run where one is given."""
    began = time.perf_counter()
    judged = judge_rows(experiment, run, params, told_to_stop)
    scores = judged.first.scores
    honest = uncertainty.of_run(experiment, params, scores.predictions)
    seconds = {**seconds, "eval": time.perf_counter() - began}
    summary = {
        "results": judged.results,
        "calibration": honest,
        **details(experiment, scores),
        "patients": by_patient(judged.means),
        "policy": running.by_policy(experiment, params),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_mb": runs.peak_mb(),
        "device": jax.devices()[0].device_kind,
        "versions": runs.versions(),
        "run": str(run.folder) if run else None,
    }
    if not processes.is_first():
        return {}
    if run is not None:
        leave(experiment, run, judged, summary)
    return summary


def leave(experiment: Experiment, run: Run, judged: Judged, summary: dict[str, Any]) -> None:
    """Write what a run came to: last its summary, by which it is complete, and its report."""
    scores = judged.first.scores
    try:
        runs.write_json(run.calibration, summary["calibration"])
        runs.write_csv(run.scores, judged.scores)
        if experiment.kind in (MASKS, LESIONS):
            page = overlays.of_shown(shown(experiment, scores.predictions))
            overlays.save(page, run.overlays)
            console.say(f"overlays   {run.overlays}")
        if (page := sheets.of_episodes(experiment, scores)) is not None:
            overlays.save(page, run.episodes)
        runs.write_json(run.summary, summary)
    except OSError as error:
        raise RunFailed(f"{run.folder}: cannot be written ({error.strerror})") from None
    where, _ = report.make([str(run.folder)])
    console.say(f"report     {where}")
