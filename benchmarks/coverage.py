"""Do sets that promise to hold the truth hold it: `python -m benchmarks.coverage RUN`.

A run's temperature and quantile are fitted on its calibration tasks of the meta-validation
classes, and judged on 1,000 other tasks of the same classes, where the promise holds, and on
tasks of the meta-test classes, where nothing was promised. The promise is on average over
calibrations too: it is fitted anew on each of several lists of tasks.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import numpy as np

from benchmarks.machine import say
from medmeta_jax import (
    config as configs,
    console,
    experiment as experiments,
    parallel,
    running,
    runs,
    uncertainty,
)
from medmeta_jax.metrics import calibration as sets
from medmeta_jax.metrics.intervals import over_episodes

JUDGED_SEED = 4_000_003


def measure(folder: str, tasks: int, calibrations: int, coverage: float) -> dict[str, Any]:
    """Coverage and set size on new tasks of the same classes, and on meta-test's."""
    run = runs.existing(folder)
    config = configs.load(None, str(run.config))
    experiment = experiments.build(config)
    params = running.restore_progress(experiment, run).best_params
    per = config.val_episodes
    say(f"{calibrations} calibrations on {per} tasks, {tasks} tasks to judge")
    fitted_on = uncertainty.validation_tasks(
        experiment, params, uncertainty.CALIBRATION_SEED, per * calibrations
    )
    new = uncertainty.validation_tasks(experiment, params, JUDGED_SEED, tasks)
    test = uncertainty.predicted(experiment, params, experiment.test)
    found: dict[str, Any] = {"promised": coverage, "calibration_tasks": per}
    for name, judged in (("same_classes", new), ("meta_test", test)):
        shares, sizes = [], []
        for i in range(calibrations):
            part = slice(i * per, (i + 1) * per)
            fitted = sets.fit(
                fitted_on.logits[part], fitted_on.y[part], fitted_on.mask[part], coverage=coverage
            )
            held = sets.prediction_sets(fitted, judged.logits, judged.classes)
            share, size = sets.covered(held, judged.y, judged.mask)
            shares.append(share)
            sizes.append(size.mean())
        # Two sources of chance: which tasks were judged, and which fitted on.
        of_tasks = over_episodes(np.mean(shares, 0)).ci95
        means = [share.mean() for share in shares]
        of_fits = over_episodes(np.asarray(means)).ci95 if calibrations > 1 else 0.0
        found[name] = {
            "tasks": len(judged.y),
            "covered": {"mean": float(np.mean(means)), "ci95": math.hypot(of_tasks, of_fits)},
            "worst_tenth_of_tasks": float(np.quantile(np.mean(shares, 0), 0.1)),
            "set_size": float(np.mean(sizes)),
        }
    return found


def table(found: dict[str, Any]) -> str:
    """A row a distribution."""
    lines = [
        f"Promised {100 * found['promised']:.0f}%, fitted on {found['calibration_tasks']} tasks",
        "",
        "| tasks of | how many | truth in the set | worst tenth, at most | ways in the set |",
        "|---|---|---|---|---|",
    ]
    for name, words in (("same_classes", "the same classes"), ("meta_test", "meta-test's classes")):
        of = found[name]
        lines.append(
            f"| {words} | {of['tasks']} | {console.percent(of['covered'])} | "
            f"{100 * of['worst_tenth_of_tasks']:.1f} | {of['set_size']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print; fail where the promise is broken beyond chance."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.coverage")
    parser.add_argument("run", help="a run directory of medmeta train")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--calibrations", type=int, default=5)
    parser.add_argument("--coverage", type=float, default=uncertainty.COVERAGE)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    parallel.use_cpu_devices(parallel.cores())
    found = measure(given.run, given.tasks, given.calibrations, given.coverage)
    print(json.dumps(found) if given.json else table(found))
    same = found["same_classes"]["covered"]
    if same["mean"] + same["ci95"] < given.coverage:
        raise SystemExit("the promise is broken")


if __name__ == "__main__":
    main()
