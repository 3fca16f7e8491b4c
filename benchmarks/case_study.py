"""The user's case: 1,000 images, ten types of lesions as tasks: `python -m benchmarks.case_study`.

The protocol, written down and committed before any learner was run on it, and never changed after:

- **Images**: 1,000 patients of the phantom (simulated contrast and lesions on real average anatomy:
  nothing here is a clinical result), one image of 48 x 48 pixels each, T1-, T2- and FLAIR-like as
  its three channels; the phantom's first ten types of lesions, and none, about 91 images each.
- **Difficulty**: an ideal observer that knows everything but whether the lesion is there has d' =
  40 on every image, over its three channels together. It is fixed by that alone, and not by what a
  learner makes of it.
- **Types held out by rotation**: five turns. In turn k types 2k and 2k + 1, in the phantom's order,
  are meta-test, the next two meta-validation, the other six meta-train. A patient has one image,
  and is on one side; images without a lesion are dealt out by patient.
- **A task**: two types and none, 5 images of each as support, with masks; 10 of each as queries, of
  other patients. 200 tasks a turn, the same for all rows.
- **Scores**: accuracy, recall and F1 of which lesion an image shows, if any (`metrics/lesions.py`);
  recall and F1 are means over the two types and none. Dice over the images with a lesion.
- **Chosen on meta-validation**: the checkpoint; the inner rate of what is meta-trained, of three;
  the rate and steps of rows that fine-tune.
- **Goal**, of the source text: accuracy 90, recall 85, F1 88, on types that were held out.
- **Twice**: `--data-seed 0` and `--data-seed 1`, other patients and other training seeds.

The source's own network, two convolutional layers and a softmax, stands in the same table: trained
its way, by the inner and outer loop of MAML on whole images, and on the support set alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import plenty
from benchmarks.machine import say
from medmeta_jax import bench, config as configs, console, plan as plans, runs, verbs
from medmeta_jax.data.phantom_lesions import TYPES
from medmeta_jax.plan import Plan
from medmeta_jax.settings import TrainConfig

GOAL = {"accuracy": 0.90, "recall": 0.85, "f1": 0.88}
TURNS, HELD_OUT = 5, 2
SHOTS = 5
BUDGET = plans.Budget(
    width=8, meta_steps=400, meta_batch=4, seeds=1, searches=True, val_episodes=50,
    test_episodes=200,
)  # fmt: skip


class Network(NamedTuple):
    """A backbone with its arguments, the methods that are run on it, and what rows say of it."""

    backbone: str
    net: dict[str, Any]
    methods: tuple[str, ...]
    name: str


NETWORKS = {
    "unet": Network(
        "unet", {"hypercolumns": True},
        ("pixel_logistic", "pixel_ridge", "maml", "anil", "panet", "alpnet", "crossblock",
         "finetune", "linear_probe", "scratch", "raw_centroid"),
        "",
    ),
    "source": Network("conv4", {"depth": 2}, ("maml", "scratch"), "two layers, "),
}  # fmt: skip


def config_of(network: Network, turn: int, data_seed: int) -> TrainConfig:
    """The configuration of one turn on one network."""
    base = configs.load("case-study", None)
    types = list(TYPES)[: base.read["types"]]
    turned = types[HELD_OUT * turn :] + types[: HELD_OUT * turn]
    first = network.methods[0]
    ours = first == base.algorithm
    return dataclasses.replace(
        base,
        algorithm=first,
        hyper=base.hyper if ours else {},
        augment=base.augment if ours else TrainConfig.augment,
        read={**base.read, "seed": data_seed},
        test_classes=tuple(turned[:HELD_OUT]),
        val_classes=tuple(turned[HELD_OUT : 2 * HELD_OUT]),
        backbone=network.backbone,
        net=network.net,
        seed=data_seed,
    )


def table(found: Mapping[int, dict[str, dict[str, Any]]]) -> str:
    """Rows by their mean accuracy over the turns, with what each is short of the goal by.

    found: by turn, the results by row's name.
    """
    names = set.intersection(*map(set, found.values()))
    columns = ("accuracy", "recall", "f1", "dice", "presence_accuracy")

    def mean(name: str, column: str) -> float:
        values = [turn[name][column]["mean"] for turn in found.values() if column in turn[name]]
        return 100 * float(np.mean(values)) if values else float("nan")

    heads = [*map(console.heading, columns[:-1]), "presence"]
    turns = [f"turn {turn}" for turn in found]
    lines = [
        f"| learner | {' | '.join(heads)} | goal | {' | '.join(turns)} |",
        f"|---|{'---|' * (len(heads) + 1 + len(turns))}",
    ]
    for name in sorted(names, key=lambda name: -mean(name, "accuracy")):
        own = {column: mean(name, column) for column in columns}
        short = [
            f"{console.heading(column)} {own[column] - 100 * goal:+.1f}"
            for column, goal in GOAL.items()
            if own[column] < 100 * goal
        ]
        cells = ["-" if np.isnan(value) else f"{value:.1f}" for value in own.values()]
        each = [console.percent(turn[name]["accuracy"]) for turn in found.values()]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {', '.join(short) or 'reached'} "
            f"| {' | '.join(each)} |"
        )
    hashes = ", ".join(next(iter(turn.values()))["episodes_hash"] for turn in found.values())
    return "\n".join([*lines, "", f"Episodes: {hashes}."])


def supervised(plan: Plan, folder: Path) -> dict[str, Any]:
    """The row of `plenty`, kept in a turn's folder."""
    file = folder / "supervised.json"
    if not file.exists():
        say("training with many examples")
        runs.write_json(file, plenty.row(plan, SHOTS))
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.case_study")
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--turns", type=int, nargs="+", default=range(TURNS), choices=range(TURNS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", help="of those above, in place of all")
    parser.add_argument("--supervised", action="store_true", help="the row of many examples too")
    parser.add_argument("--meta-steps", type=int, default=BUDGET.meta_steps)
    parser.add_argument("--out", type=Path, default=Path("bench/case-study"))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    verbs.enable_compilation_cache()
    verbs.use_devices(TrainConfig())
    budget = dataclasses.replace(BUDGET, meta_steps=given.meta_steps)
    found = {}
    for turn in given.turns:
        rows: dict[str, dict[str, Any]] = {}
        for key in given.networks:
            network = NETWORKS[key]
            wanted = tuple(m for m in network.methods if m in (given.methods or network.methods))
            if not wanted:
                continue
            config = config_of(network, turn, given.data_seed)
            say(f"turn {turn} on {key}: judged on {' and '.join(config.test_classes)}")
            plan = plans.make_plan(config, budget, (SHOTS,))
            folder = given.out / f"data-seed-{given.data_seed}" / f"turn-{turn}" / key
            results = bench.bench_methods(plan, wanted, folder, lambda: False)["results"]
            rows |= {network.name + row["learner"]: row for row in results}
            if given.supervised and key == "unet":
                hash_ = results[0]["episodes_hash"]
                rows["supervised"] = {**supervised(plan, folder), "episodes_hash": hash_}
        found[turn] = rows
    text = table(found)
    runs.write_whole(given.out / f"case-study-{given.data_seed}.md", text + "\n")
    print(json.dumps(found) if given.json else text)


if __name__ == "__main__":
    main()
