"""Leave one data set out, in turn: `python -m benchmarks.rotation --data FOLDER`.

Each of four medical data sets is judged once, with the next one for meta-validation and the
other two to meta-train on (or, with `--task segmentation`, each of three with masks), by the
protocol of `medmeta bench methods`: the same backbone,
budget, seeds and episodes for every method, settings chosen on meta-validation alone. The rows
are kept in a folder a data set; called again, the command goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import say
from medmeta_jax import bench, config as configs, console, plan as plans, protocol, runs, verbs
from medmeta_jax.settings import TrainConfig


class Rotation(NamedTuple):
    """Which data sets take turns, which methods are compared by default, and from what preset."""

    domains: tuple[str, ...]
    methods: tuple[str, ...]
    preset: str | None
    ways: int | None


OF = {
    "classification": Rotation(
        ("blood_cells", "brain_tumor_mri", "chest_xray", "lung_ct"),
        (
            "maml", "anil", "protonet", "protomaml", "r2d2", "scratch", "finetune",
            "linear_probe", "nearest_centroid", "raw_centroid",
        ),
        None,
        3,
    ),
    "segmentation": Rotation(
        ("wbc_seg", "nuclei_seg", "retina_vessels"),
        (
            "maml", "anil", "reptile", "panet", "alpnet", "crossblock", "pixel_ridge",
            "pixel_logistic", "scratch", "finetune", "linear_probe", "threshold",
        ),
        "segmentation",
        None,
    ),
}  # fmt: skip


def config_of(rotation: Rotation, judged: str, folder: Path) -> TrainConfig:
    """The configuration of one turn: the next data set validates, the others are trained on."""
    place = rotation.domains.index(judged)
    turned = (str(folder / name) for name in rotation.domains[place:] + rotation.domains[:place])
    test, val, first, *others = turned
    return dataclasses.replace(
        configs.load(rotation.preset, None), ways=rotation.ways, data=first, also=tuple(others),
        meta_val=val, meta_test=test,
    )  # fmt: skip


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A table a number of shots: methods by the mean over the data sets that all were judged on."""
    first = next(iter(found.values()))
    main = first[0]["columns"][0]
    ways = f"{first[0]['ways']}-way " if first[0]["labels"] == "classes" else ""
    lines: list[str] = []
    for shots in dict.fromkeys(row["shots"] for row in first):
        cells = {
            judged: {row["learner"]: row for row in rows if row["shots"] == shots}
            for judged, rows in found.items()
        }
        names = set.intersection(*(set(of) for of in cells.values()))

        def mean(name: str, cells: dict[str, dict[str, Any]] = cells) -> float:
            return sum(of[name][main]["mean"] for of in cells.values()) / len(cells)

        hashes = ", ".join(next(iter(of.values()))["episodes_hash"] for of in cells.values())
        lines += [
            f"{console.heading(main)}, {ways}{shots}-shot, {first[0]['episodes']} episodes each "
            f"({hashes})",
            "",
            f"| learner | {' | '.join(cells)} | mean |",
            f"|---|{'---|' * len(cells)}---|",
        ]
        for name in sorted(names, key=mean, reverse=True):
            scores = [console.percent(of[name][main]) for of in cells.values()]
            lines.append(f"| {name} | {' | '.join(scores)} | {100 * mean(name):.1f} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.rotation")
    every = sorted({name for rotation in OF.values() for name in rotation.domains})
    parser.add_argument("--task", choices=OF, default="classification")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, help="default: bench/rotation-TASK")
    parser.add_argument("--judged", nargs="+", choices=every, help="default: each in turn")
    parser.add_argument("--methods", nargs="+", choices=("all", *plans.methods()))
    parser.add_argument("--shots", type=int, nargs="+", default=(1, 5, 10, 20))
    parser.add_argument("--budget", choices=plans.BUDGETS, default="medium")
    parser.add_argument("--seeds", type=int, help="in place of the budget's")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    verbs.enable_compilation_cache()
    verbs.use_devices(TrainConfig())
    budget = plans.budget_of(given.budget, given.seeds)
    rotation = OF[given.task]
    wanted = plans.chosen_methods(tuple(given.methods or rotation.methods))
    out = given.out or Path("bench") / f"rotation-{given.task}"
    found = {}
    for judged in given.judged or rotation.domains:
        if judged not in rotation.domains:
            parser.error(f"--judged {judged} is not of --task {given.task}")
        say(f"judged on {judged}")
        config = config_of(rotation, judged, given.data)
        plan = plans.make_plan(config, budget, tuple(given.shots))
        mine = protocol.that_fit(plan, wanted) if "all" in (given.methods or ()) else wanted
        found[judged] = bench.bench_methods(plan, mine, out / judged, lambda: False)["results"]
    text = table(found)
    runs.write_whole(out / "rotation.md", text + "\n")
    print(json.dumps(found) if given.json else text)


if __name__ == "__main__":
    main()
