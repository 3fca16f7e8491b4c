"""Which modalities are there: every subset of them, and one that was never trained on.

    python -m benchmarks.modalities subsets
    python -m benchmarks.modalities held-out --modality ct

Lesions of the phantom (simulated contrast and lesions on real average anatomy) are marked from
images of several modalities, each with d' = 40 by itself. Patients are on one side each; a task is
a type of lesion, or all of them, in a few images.

`subsets`: one network is trained with all modalities, one with some left out at random
(`augment/drop_modalities.py`); both are judged where each subset of them is there.

`held-out`: a network is trained without a modality, and judged where only that one is there, at 1,
5 and 10 labelled images: with a stem for each modality, of which the new one's own part starts at
zero and is moved by the inner loop like all else; with one stem for all; and from scratch. The new
modality's grey scale is that of the others' mean, since nothing of it was seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import report
from benchmarks.machine import say
from medmeta_jax import config as configs, console, plan as plans, protocol, verbs
from medmeta_jax.data.pool import Pool
from medmeta_jax.experiment import TEST_SEED, VAL_SEED
from medmeta_jax.feed import Resident
from medmeta_jax.metrics.intervals import over_episodes, paired_difference
from medmeta_jax.plan import Plan
from medmeta_jax.settings import TrainConfig
from medmeta_jax.streaming import Lists

TRAINED = ("t1", "t2", "flair")
SIDES = ("train", "val", "test")
OUTER_LR = 0.006  # chosen on meta-validation, as are hypercolumns, both for the case study
BUDGET = plans.Budget(
    width=8, meta_steps=300, meta_batch=4, seeds=1, searches=False, val_episodes=40,
    test_episodes=200,
)  # fmt: skip


def config_of(modalities: Sequence[str], augment: tuple[str, ...], **net: Any) -> TrainConfig:
    """The configuration of a network over some modalities."""
    return dataclasses.replace(
        configs.load("segmentation", None), data="phantom",
        read={"patients": 576, "types": 8, "modality": ",".join(modalities)},
        modalities=tuple(modalities), backbone="multimodal", net={"trunk": "unet", **net},
        augment=augment, outer_lr=OUTER_LR,
    )  # fmt: skip


def showing(pool: Pool, there: Sequence[bool]) -> Pool:
    """The pool with these modalities alone."""
    assert pool.present is not None
    return pool._replace(present=pool.present & jnp.asarray(there))


def unseen(pool: Pool, channel: int) -> Pool:
    """The pool with a channel on the mean grey scale of the others."""
    others = np.delete(np.arange(pool.x.shape[-1]), channel)
    shift, scale = (part.at[channel].set(part[others].mean()) for part in (pool.shift, pool.scale))
    return pool._replace(shift=shift, scale=scale)


def with_pools(plan: Plan, pools: dict[str, Pool]) -> Plan:
    """The plan on other pools, with the same episodes of them."""
    made = plan.experiment
    lists = Lists(pools, {}, made.mesh)
    experiment = made._replace(
        split=made.split._replace(pools=pools),
        feed=Resident(pools["train"]),
        lists=lists,
        val=lists.fixed("val", made.spec, VAL_SEED, made.config.val_episodes),
        test=lists.fixed("test", made.spec, TEST_SEED, made.config.test_episodes),
    )
    return plan._replace(experiment=experiment)


def subsets(count: int) -> Iterator[tuple[bool, ...]]:
    """Which of so many modalities are there: one, two, ..., all.

    >>> list(subsets(2))
    [(True, False), (False, True), (True, True)]
    """
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            yield tuple(place in chosen for place in range(count))


def over_subsets(method: str, budget: plans.Budget, shots: int) -> dict[str, Any]:
    """Dice of every subset of the modalities, with dropout in training and without: an episode's is
    the mean over the networks of all training seeds."""
    scores: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, more in (("dropout", ("drop_modalities",)), ("none", ())):
        base = configs.load("segmentation", None).augment
        config = config_of(TRAINED, (*base, *more), hypercolumns=True)
        plan = plans.make_plan(config, budget, (shots,))
        pools, trainer = plan.experiment.split.pools, protocol.Trainer(plan)
        for seed in range(budget.seeds):
            say(f"training with {name}, seed {seed}")
            trained = trainer.train(method, seed)
            for there in subsets(len(TRAINED)):
                judged = with_pools(plan, {**pools, "test": showing(pools["test"], there)})
                label = " + ".join(itertools.compress(TRAINED, there))
                found = protocol.judge(judged, method, trained, shots)[0]
                scores.setdefault(label, {}).setdefault(name, []).append(found.main)
                say(f"{label}: {100 * found.headline.mean:.1f}")
    rows = {}
    for label, of in scores.items():
        means = {name: np.mean(by_seed, 0) for name, by_seed in of.items()}
        rows[label] = {
            **{name: over_episodes(values)._asdict() for name, values in means.items()},
            "gain": paired_difference(means["dropout"], means["none"])._asdict(),
            "by_seed": {name: [one.mean() for one in by_seed] for name, by_seed in of.items()},
        }
    return {"rows": rows, **report.episodes_of(protocol.facts(plan))}


def held_out(
    modality: str, method: str, budget: plans.Budget, shots: tuple[int, ...]
) -> dict[str, Any]:
    """Dice where only a modality that was not trained on is there, by number of shots."""
    every = (*TRAINED, modality)
    new = len(TRAINED)
    scores: dict[str, dict[int, np.ndarray]] = {}
    for stems in ("own", "shared"):
        augment = (*configs.load("segmentation", None).augment, "drop_modalities")
        plan = plans.make_plan(config_of(every, augment, stems=stems), budget, shots)
        pools = {side: unseen(plan.experiment.split.pools[side], new) for side in SIDES}
        seen = [name != modality for name in every]
        shown = {side: showing(pools[side], seen) for side in ("train", "val")}
        shown["test"] = showing(pools["test"], [not here for here in seen])
        plan = with_pools(plan, shown)
        for name in (method, *([plans.SCRATCH] if stems == "own" else [])):
            label = name if name == plans.SCRATCH else f"{name}, {stems} stems"
            say(f"training {label}")
            trained = protocol.Trainer(plan).train(name, 0)
            for count in shots:
                found = protocol.judge(plan, name, trained, count)[0]
                scores.setdefault(label, {})[count] = found.main
                say(f"{label}, {count} shots: {100 * found.headline.mean:.1f}")
    return {"rows": report.compared(scores), **report.episodes_of(protocol.facts(plan))}


def subsets_table(found: dict[str, Any]) -> str:
    """A row a subset, the worst of each network told below."""
    lines = ["| there | with dropout | without | difference |", "|---|---|---|---|"]
    for label, of in found.items():
        cells = (console.percent(of[name]) for name in ("dropout", "none"))
        lines.append(
            f"| {label} | {' | '.join(cells)} | {console.percent(of['gain'], sign=True)} |"
        )
    least = {name: least_by_seed(list(found.values()), name) for name in ("dropout", "none")}
    every = {name: least_by_seed(list(found.values())[-1:], name) for name in ("dropout", "none")}
    return "\n".join(
        [*lines, "", f"The worst subset has {least['dropout']} with dropout and {least['none']} "
         f"without, by training seed; all there have {every['dropout']} and {every['none']}."]
    )  # fmt: skip


def least_by_seed(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The lowest of the rows with each training seed, per cent."""
    worst = 100 * np.min([row["by_seed"][name] for row in rows], 0)
    return ", ".join(f"{one:.1f}" for one in worst)


def main() -> None:
    """Parse, train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.modalities")
    parser.add_argument("table", choices=("subsets", "held-out"))
    parser.add_argument("--modality", choices=("ct", "pet"), default="ct", help="held out")
    parser.add_argument(
        "--method", choices=plans.methods(), help="default: pixel_logistic, or maml for held-out"
    )
    parser.add_argument("--meta-steps", type=int, default=BUDGET.meta_steps)
    parser.add_argument("--seeds", type=int, default=BUDGET.seeds, help="of training, in subsets")
    parser.add_argument("--shots", type=int, nargs="+", help="default: 5, or 1 5 10")
    parser.add_argument("--test-episodes", type=int, default=BUDGET.test_episodes)
    report.add_file(parser)
    given = parser.parse_args()
    verbs.enable_compilation_cache()
    verbs.use_devices(TrainConfig())
    budget = dataclasses.replace(
        BUDGET, meta_steps=given.meta_steps, seeds=given.seeds, test_episodes=given.test_episodes
    )
    if given.table == "subsets":
        method = given.method or "pixel_logistic"
        found = over_subsets(method, budget, (given.shots or [5])[0])
        text = subsets_table(found["rows"])
    else:
        shots = tuple(given.shots or (1, 5, 10))
        found = held_out(given.modality, given.method or "maml", budget, shots)
        text = report.by_shots(found["rows"])
    report.leave(given, found, text)


if __name__ == "__main__":
    main()
