"""MAML against fine-tuning on types of lesions never seen: `python -m benchmarks.held_out_types`.

Binary masks of the phantom's lesions (simulated contrast and lesions on real average anatomy; d' =
40 over T1-, T2- and FLAIR-like channels): eight types and "any of them" to meta-train on, four
others for meta-validation, four for meta-test; an image that shows a held-out type is on its side.
One U-Net, meta-trained by MAML, or trained jointly on all structures of the meta-train side for as
many steps of as many episodes and then fine-tuned, each at MAML's number of inner steps and at
four times as many; the same from no training. Rates are chosen on meta-validation, MAML's by
hand, once, and the others' for every number of steps and shots.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from benchmarks import report
from benchmarks.machine import say
from medmeta_jax import config as configs, plan as plans, protocol, verbs
from medmeta_jax.settings import TrainConfig

TYPES, HELD_OUT = 16, 4
STEPS, MORE = 5, 4  # of MAML's inner loop; the factor of the rows that take more
BUDGET = plans.Budget(
    width=8, meta_steps=400, meta_batch=4, seeds=2, searches=True, val_episodes=50,
    test_episodes=200,
)  # fmt: skip


def config_of() -> TrainConfig:
    """The configuration that all rows share."""
    numbers = [str(number) for number in range(1, TYPES + 1)]
    return dataclasses.replace(
        configs.load("segmentation", None), data="phantom",
        read={"patients": 1600, "types": TYPES, "modality": "t1+t2+flair"}, image_size=32,
        algorithm="maml", hyper={"steps": STEPS, "inner_lr": 0.4}, outer_lr=0.006,
        val_classes=tuple(numbers[-2 * HELD_OUT : -HELD_OUT]),
        test_classes=tuple(numbers[-HELD_OUT:]),
    )  # fmt: skip


def scored(plan: plans.Plan) -> dict[str, dict[int, np.ndarray]]:
    """Dice [E] of each row by number of shots, an episode's the mean over training seeds."""
    trainer, found = protocol.Trainer(plan), {}
    for seed in range(plan.budget.seeds):
        say(f"seed {seed}")
        made = trainer.made("maml", seed)
        rows = [("maml", "maml", trainer.fit(made, plan.budget.meta_steps), STEPS)]
        for method in ("finetune", plans.SCRATCH):
            trained = trainer.train(method, seed)
            rows += [(f"{method}, {n} steps", method, trained, n) for n in (STEPS, MORE * STEPS)]
        for name, method, trained, steps in rows:
            for shots in plan.shots:
                scores = protocol.judge(plan, method, trained, shots, counts=(steps,))[0]
                found.setdefault(name, {}).setdefault(shots, []).append(scores.main)
                say(f"{name}, {shots} shots: {100 * scores.headline.mean:.1f}")
    return {
        name: {shots: np.mean(by_seed, 0) for shots, by_seed in of.items()}
        for name, of in found.items()
    }


def main() -> None:
    """Parse, train, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m benchmarks.held_out_types"
    )
    parser.add_argument("--meta-steps", type=int, default=BUDGET.meta_steps)
    parser.add_argument("--seeds", type=int, default=BUDGET.seeds, help="of training")
    parser.add_argument("--shots", type=int, nargs="+", default=(1, 3, 5))
    report.add_file(parser)
    given = parser.parse_args()
    verbs.enable_compilation_cache()
    verbs.use_devices(TrainConfig())
    budget = dataclasses.replace(BUDGET, meta_steps=given.meta_steps, seeds=given.seeds)
    plan = plans.make_plan(config_of(), budget, tuple(given.shots))
    rows = report.compared(scored(plan))
    found = {"rows": rows, **report.episodes_of(protocol.facts(plan))}
    report.leave(given, found, report.by_shots(rows))


if __name__ == "__main__":
    main()
