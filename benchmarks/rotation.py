"""Leave one data set out, in turn: `python -m benchmarks.rotation --data FOLDER`.

Each of four medical data sets is judged once, with the next one for meta-validation and the
other two to meta-train on, by the protocol of `medmeta bench methods`: the same backbone,
budget, seeds and episodes for every method, settings chosen on meta-validation alone. The rows
are kept in a folder a data set; called again, the command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.machine import say
from medmeta_jax import bench, console, plan as plans, runs, verbs
from medmeta_jax.config import TrainConfig

DOMAINS = ("blood_cells", "brain_tumor_mri", "chest_xray", "lung_ct")
METHODS = (
    "maml", "anil", "protonet", "protomaml", "r2d2", "scratch", "finetune", "linear_probe",
    "nearest_centroid", "raw_centroid",
)  # fmt: skip
WAYS = 3


def config_of(judged: str, folder: Path) -> TrainConfig:
    """The configuration of one turn: the next data set validates, the other two are trained on."""
    place = DOMAINS.index(judged)
    turned = (str(folder / name) for name in DOMAINS[place:] + DOMAINS[:place])
    test, val, first, second = turned
    return TrainConfig(ways=WAYS, data=first, also=(second,), meta_val=val, meta_test=test)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A table a number of shots: methods by the mean over the data sets that all were judged on."""
    first = next(iter(found.values()))
    lines: list[str] = []
    for shots in dict.fromkeys(row["shots"] for row in first):
        cells = {
            judged: {row["learner"]: row for row in rows if row["shots"] == shots}
            for judged, rows in found.items()
        }
        names = set.intersection(*(set(of) for of in cells.values()))

        def mean(name: str, cells: dict[str, dict[str, Any]] = cells) -> float:
            return sum(of[name]["accuracy"]["mean"] for of in cells.values()) / len(cells)

        hashes = ", ".join(next(iter(of.values()))["episodes_hash"] for of in cells.values())
        lines += [
            f"{WAYS}-way {shots}-shot, {first[0]['episodes']} episodes each ({hashes})",
            "",
            f"| learner | {' | '.join(cells)} | mean |",
            f"|---|{'---|' * len(cells)}---|",
        ]
        for name in sorted(names, key=mean, reverse=True):
            scores = [console.percent(of[name]["accuracy"]) for of in cells.values()]
            lines.append(f"| {name} | {' | '.join(scores)} | {100 * mean(name):.1f} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.rotation")
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {', '.join(DOMAINS)}")
    parser.add_argument("--out", type=Path, default=Path("bench/rotation"))
    parser.add_argument("--judged", nargs="+", choices=DOMAINS, default=DOMAINS)
    parser.add_argument("--methods", nargs="+", choices=("all", *plans.methods()), default=METHODS)
    parser.add_argument("--shots", type=int, nargs="+", default=(1, 5, 10, 20))
    parser.add_argument("--budget", choices=plans.BUDGETS, default="medium")
    parser.add_argument("--seeds", type=int, help="in place of the budget's")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    verbs.enable_compilation_cache()
    verbs.use_devices(TrainConfig())
    budget = plans.budget_of(given.budget, given.seeds)
    wanted = plans.chosen_methods(tuple(given.methods))
    found = {}
    for judged in given.judged:
        say(f"judged on {judged}")
        plan = plans.make_plan(config_of(judged, given.data), budget, tuple(given.shots))
        out = given.out / judged
        found[judged] = bench.bench_methods(plan, wanted, out, lambda: False)["results"]
    text = table(found)
    runs.write_whole(given.out / "rotation.md", text + "\n")
    print(json.dumps(found) if given.json else text)


if __name__ == "__main__":
    main()
