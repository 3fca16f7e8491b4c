"""`medmeta eval RUN --shots 1 5 10`: what more images a class are worth.

One list of episodes at every number of shots: an episode of k shots is that of the most, with the
first k support images of each class. So rows are paired by episode, and queries are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from medmeta_jax import baselines, console, running
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.experiment import Experiment
from medmeta_jax.plan import at_shots
from medmeta_jax.runs import Run, RunError, write_json
from medmeta_jax.tables import aligned
from medmeta_jax.types import Params


def judge_at(experiment: Experiment, params: Params, shots: Sequence[int]) -> list[dict[str, Any]]:
    """Every row at every number of shots, fewest first, as `summary.json` holds rows.

    Raises DataError where a class has too few images for the most of them.
    """
    spec = dataclasses.replace(experiment.spec, shots=max(shots))
    for side in ("val", "test"):
        classes = experiment.split.classes[side]
        check_pool(experiment.split.pools[side], spec, classes, f"meta-{side}")
    task = running.task_of(experiment)._replace(spec=spec)
    facts, groups = running.facts(experiment, task), baselines.query_groups(task)
    results = []
    for count in shots:
        val, test = (at_shots(experiment, shots, side, count) for side in ("val", "test"))
        first = None
        for row in running.judge(experiment._replace(val=val, test=test), params):
            first = first or row
            results.append(baselines.result(row, first, {**facts, "shots": count}, groups))
            main = console.percent(results[-1][experiment.kind.columns[0]])
            console.say(f"evaluated  {count}-shot {row.learner}: {main}")
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """The main score, a row for each learner and a column for each number of shots."""
    main, every = results[0]["columns"][0], sorted({row["shots"] for row in results})
    names = list(dict.fromkeys(row["learner"] for row in results))
    cells = {(row["learner"], row["shots"]): console.percent(row[main]) for row in results}
    lines = [("learner", *(f"{count}-shot" for count in every))]
    lines += [(name, *(cells[name, count] for count in every)) for name in names]
    row = results[0]
    return "\n".join([
        *aligned(lines),
        f"{console.heading(main)}, per cent, mean ± 95% interval over {row['episodes']} meta-test "
        f"episodes {row['episodes_hash']}, the same at every number of shots.",
    ])  # fmt: skip


def judge(experiment: Experiment, run: Run, params: Params, shots: Sequence[int]) -> dict[str, Any]:
    """{"results", "table", "run"}; kept in the run, where its report finds it."""
    results = judge_at(experiment, params, shots)
    try:
        write_json(run.by_shots, {"results": results})
    except OSError as error:
        raise RunError(f"{run.by_shots}: cannot be written ({error.strerror})") from None
    console.say(f"by shots   {run.by_shots}; drawn by: medmeta report {run.folder}")
    return {"results": results, "table": table(results), "run": str(run.folder)}
