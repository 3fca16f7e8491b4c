"""`medmeta bench methods`: run the protocol into a folder, one row at a time, and tabulate.

The folder holds plan.json, rows/, and after every row results.json, results.csv, results.md and
results.png. Called again with the same plan it goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax import (
    config as configs,
    console,
    experiment as experiments,
    plan as plans,
    protocol,
    standings,
    verbs,
)
from medmeta_jax.plan import Plan
from medmeta_jax.runs import RunError, portable, write_json, write_whole
from medmeta_jax.settings import ConfigError, TrainConfig


def plan_facts(plan: Plan) -> dict[str, Any]:
    """What makes rows of two calls comparable: all but which methods were asked for."""
    plain = configs.to_plain(plan.experiment.config)
    for name in ("seed", "baselines", "devices", "chunk", "tensorboard"):
        del plain[name]
    if plain["hyper"] == configs.options("algorithms", plain["algorithm"]):
        del plain["algorithm"], plain["hyper"]  # with nothing of its own it is one of the rows
    return {
        "config": json.loads(json.dumps(plain)),
        "budget": vars(plan.budget),
        "shots": list(plan.shots),
        "data": experiments.identity(plan.experiment),
    }


def open_folder(folder: Path, plan: Plan) -> Path:
    """The folder of rows, made or found; refused where it holds another plan (ConfigError)."""
    rows, file, facts = folder / "rows", folder / "plan.json", plan_facts(plan)
    try:
        rows.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_json(file, facts)
            return rows
        before = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror}); give another --out"
        ) from None
    except ValueError:
        raise ConfigError(f"out: {file} is not JSON; give another --out") from None
    changed = [name for name in facts if before.get(name) != facts[name]]
    if changed:
        raise ConfigError(
            f"out: {folder} holds rows of another plan ({', '.join(changed)} differ); "
            "give another --out"
        )
    return rows


def kept_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows that are done, by name (RunError for one that cannot be read)."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error}); delete it to do it again") from None
    return found


def tabulate(folder: Path, found: list[dict[str, Any]], reference: str) -> None:
    """Write the results so far in each form."""
    write_json(folder / "results.json", {"results": found})
    write_whole(folder / "results.csv", standings.as_csv(found, reference))
    write_whole(folder / "results.md", standings.markdown(found, reference) + "\n")
    standings.plot(found, folder / "results.png")


def bench_methods(
    plan: Plan, wanted: tuple[str, ...], folder: Path, told_to_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Run the rows that are missing; the results of all that were asked for."""
    rows = open_folder(folder, plan)
    records = kept_rows(rows)
    facts, reference, found = protocol.facts(plan), wanted[0], []
    names = [f"{method}-seed{seed}" for method in wanted for seed in range(plan.budget.seeds)]
    left = [name for name in names if name not in records]
    console.say(f"rows       {len(names) - len(left)} of {len(names)} are done, in {rows}")
    fresh = protocol.rows(plan, wanted, set(records))
    while True:
        mine = [records[name] for name in names if name in records]
        if mine:
            found = standings.results(mine, facts, plan.shots, reference)
            tabulate(folder, found, reference)
        if told_to_stop() or (done := next(fresh, None)) is None:
            break
        name, record = done
        write_json(rows / f"{name}.json", record)
        records[name] = record
        main = facts["columns"][0]
        means = {shots: np.mean(of["scores"][main]) for shots, of in record["shots"].items()}
        shown = "  ".join(f"{shots}-shot {100 * mean:.1f}" for shots, mean in means.items())
        console.say(f"row        {name}: {shown}  ({record['seconds']:.0f} s)")
    table = standings.markdown(found, reference) if found else "no row is done"
    return {"results": found, "out": str(folder), "table": table}


def config_of(given: Any) -> TrainConfig:
    """The configuration of the command line's options; how large the network is, and how long it
    trains, the budget says, and every algorithm has its defaults."""
    base = configs.load(given.preset, None)
    same = (
        "data", "also", "meta_val", "meta_test", "val_classes", "test_classes", "task", "backbone",
        "ways", "image_size", "norm",
    )  # fmt: skip
    asked = {name: getattr(given, name) for name in same}
    net = {name: value for name, value in base.net.items() if name != "width"}
    set_ = {name: value for name, value in asked.items() if value is not None}
    # Settings that a preset has for its own algorithm would favour it.
    return dataclasses.replace(base, net=net, hyper={}, **set_)


def run(given: Any, told_to_stop: Callable[[], bool]) -> dict[str, Any]:
    """`bench_methods` of the command line's options."""
    verbs.enable_compilation_cache()
    wanted = plans.chosen_methods(given.methods)
    budget = plans.budget_of(given.budget, given.seeds)
    config = config_of(given)
    verbs.use_devices(config)
    plan = plans.make_plan(config, budget, given.shots)
    if "all" in given.methods:
        wanted = protocol.that_fit(plan, wanted)
    else:
        protocol.require_fit(plan, wanted)
    named = portable(f"{Path(config.data).stem}-{given.budget}")
    folder = Path(given.out or Path("bench") / named)
    return bench_methods(plan, wanted, folder, told_to_stop)
