"""Whether a learned augmentation finds what it is needed for: `python -m benchmarks.nuisance`.

Supports are clean; every query, in meta-training, meta-validation and meta-test, is changed by one
op of a known magnitude: by default made brighter by a number uniform in ± so many times the op's
own default. Beside the learner alone stand the same with copies of its support images that are
changed

    fixed    by each op, or none, as often, at the ops' own defaults,
    learned  by the policy that meta-training learns (`augment/_policy.py`), from the same ops.

Of these ops one is the nuisance, and the other is not. The table says which magnitude was learned
and how often it is drawn, and how the rows do on the same meta-test episodes with the same changes
of their queries; at magnitude 0 there is no nuisance, and learning must do no harm. Built-in
anatomy; scores are means over training seeds, their intervals over episodes.

Features are `fixed`, as those of a network that is used as it came (here the pixels themselves,
with R2D2's ridge regression), or `learned` (MAML on a Conv4 of few channels), which meta-training
on changed queries can teach by itself to look past the nuisance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import machine, report
from medmeta_jax import console, registry, running, verbs
from medmeta_jax.augment._ops import augment_examples
from medmeta_jax.augment._policy import magnitude_parameter
from medmeta_jax.config import check
from medmeta_jax.evaluation import evaluate
from medmeta_jax.experiment import Experiment
from medmeta_jax.metrics.intervals import over_episodes, paired_difference
from medmeta_jax.settings import TrainConfig
from medmeta_jax.types import Array, Episode, MetaLearner, Params

SETTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"algorithm": "r2d2", "backbone": "pixels", "norm": "none", "outer_lr": 3e-3},
    "learned": {"algorithm": "maml", "hyper": {"steps": 3}, "net": {"width": 16}},
}
ROWS = ("none", "fixed", "learned")
QUERY = 77  # folded into an episode's key, for what its queries are changed by


class Row(NamedTuple):
    """A row at one strength: accuracies [seeds, episodes], what each seed's policy became, and of
    which episodes."""

    scores: np.ndarray
    policies: list[dict[str, Any]]
    of: dict[str, Any]


def disturbed(sampler: Callable[[Array, Any], Episode], op: str, magnitude: float) -> Any:
    """The sampler, with each query changed by an op; the support is as it was."""
    made = registry.factory("augment", op)(magnitude=magnitude)

    def sample(key: Array, pool: Any) -> Episode:
        episode = sampler(key, pool)
        changed = augment_examples([made], jax.random.fold_in(key, QUERY), episode.query)
        return episode._replace(query=changed)

    return sample


def held_fixed(learner: MetaLearner) -> MetaLearner:
    """A learner with a policy that stays as an undecided one: each op as often, at its default."""

    def init(key: Array, x: Any) -> Params:
        params = learner.init(key, x)
        magnitude = jax.tree.map(lambda _: magnitude_parameter(1.0), params["policy"]["magnitude"])
        return {**params, "policy": {**params["policy"], "magnitude": magnitude}}

    def loss(params: Params, *given: Any) -> Any:
        policy = jax.lax.stop_gradient(params["policy"])
        return learner.loss({**params, "policy": policy}, *given)

    return learner._replace(init=init, loss=loss)


def build(given: argparse.Namespace, row: str, strength: float) -> Experiment:
    """The experiment of a row, its queries disturbed everywhere."""
    config = check(
        TrainConfig(
            image_size=28, augment=(), meta_steps=given.meta_steps,
            validate_every=max(1, given.meta_steps // 4), val_episodes=60,
            test_episodes=given.episodes, baselines="none",
            **({} if row == "none" else {"policy": given.ops, "policy_copies": given.copies}),
            **SETTINGS[given.features],
        )
    )  # fmt: skip
    made = verbs.build(config)
    if strength:
        magnitude = strength * registry.defaults("augment", given.ops[0])["magnitude"]
        sampler, val, test = (
            disturbed(of, given.ops[0], magnitude)
            for of in (made.sampler, made.val.sampler, made.test.sampler)
        )
        made = made._replace(
            sampler=sampler,
            val=made.val._replace(sampler=val),
            test=made.test._replace(sampler=test),
        )
    if row == "fixed":
        learner = held_fixed(made.learner)
        made = made._replace(learner=learner, training=learner)
    return made


def measure(given: argparse.Namespace, row: str, strength: float) -> Row:
    """Train and judge a row with every seed; compiled once."""
    made = build(given, row, strength)
    inner_steps = made.config.hyper.get("steps")
    step = running.compile_step(made, made.training).step
    scores, policies = [], []
    for seed in range(given.seeds):
        own = made._replace(config=dataclasses.replace(made.config, seed=seed))
        params = running.fit_quietly(own, step, inner_steps=inner_steps).best_params
        scores.append(evaluate(own.learner, params, own.test, steps=inner_steps).main)
        policies.append(running.by_policy(own, params))
        mean = console.percent(over_episodes(scores[-1])._asdict())
        machine.say(f"{strength:g} x {given.ops[0]}, {row}, seed {seed}: {mean} {policies[-1]}")
    of = report.episodes_of(running.facts(made, running.task_of(made)))
    return Row(np.stack(scores), policies, of)


def over_seeds(policies: Sequence[dict[str, Any]], part: str, op: str) -> str:
    """Mean and range over seeds of an op's magnitude, in its defaults, or of its share."""
    of = [one[part][op] / (one["default"][op] if part == "magnitude" else 0.01) for one in policies]
    digits = 2 if part == "magnitude" else 0
    low, high = (f"{value:.{digits}f}" for value in (min(of), max(of)))
    return f"{np.mean(of):.{digits}f} ({low} to {high})"


def table(found: dict[float, dict[str, Row]], ops: Sequence[str]) -> str:
    """A line a strength."""
    heads = [f"{op}: magnitude | % of copies" for op in ops]
    lines = [
        f"| {ops[0]} of queries | none | fixed | learned | learned minus none | learned minus "
        f"fixed | {' | '.join(heads)} |",
        "|" + "---|" * (6 + 2 * len(ops)),
    ]
    for strength, rows in found.items():
        means = {name: row.scores.mean(0) for name, row in rows.items()}
        cells = [console.percent(over_episodes(means[name])._asdict()) for name in ROWS]
        for other in ("none", "fixed"):
            gap = paired_difference(means["learned"], means[other])._asdict()
            cells.append(console.percent(gap, sign=True))
        for op in ops:
            policies = rows["learned"].policies
            cells += [over_seeds(policies, part, op) for part in ("magnitude", "share")]
        lines.append(f"| {strength:g} | {' | '.join(cells)} |")
    told = {report.which(row.of) for rows in found.values() for row in rows.values()}
    return "\n".join([*lines, "", *sorted(told)])


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.nuisance")
    parser.add_argument("--ops", nargs="+", default=("brighten", "noise"), help="nuisance first")
    parser.add_argument("--strengths", type=float, nargs="+", default=(0.0, 1.0, 3.0))
    parser.add_argument("--features", choices=SETTINGS, default="fixed")
    parser.add_argument("--copies", type=int, default=5, help="of each support image")
    parser.add_argument("--meta-steps", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    given.ops = tuple(given.ops)
    verbs.enable_compilation_cache()
    found = {
        strength: {row: measure(given, row, strength) for row in ROWS}
        for strength in given.strengths
    }
    if given.json:
        plain = {
            str(strength): {
                name: {"accuracy": row.scores.mean(1).tolist(), "policies": row.policies, **row.of}
                for name, row in rows.items()
            }
            for strength, rows in found.items()
        }
        print(json.dumps(plain))
    else:
        print(table(found, given.ops))


if __name__ == "__main__":
    main()
