"""The protocol: every method on the same data, backbone, budget and episodes.

Every method meta-trains on the same number of the same kind of episodes, from the same
seeds, and is judged on one fixed list of meta-test episodes, at every shot: an episode of
k shots is the same list's episode with the first k support images of each class. What a
method lets one choose is chosen on meta-validation, from the settings named here. A row is
one method with one seed; it is written down when it is done, and not done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from medmeta_jax import (
    baselines,
    config as configs,
    console,
    experiment as experiments,
    learners,
    registry,
    running,
    thresholding,
)
from medmeta_jax.evaluation import Family, Scores, evaluate
from medmeta_jax.experiment import Experiment
from medmeta_jax.fitting import kind_for
from medmeta_jax.labels import Kind
from medmeta_jax.plan import RAW_CENTROID, SCRATCH, THRESHOLD, Plan, judged_at
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Backbone, MetaLearner, Params

# Rows that put one and the same pre-trained classifier to use.
CLASSIFIER = ("finetune", "linear_probe", "nearest_centroid")
# What is tried on meta-validation, where a budget searches: rates and steps at meta-test of
# what was trained once, or factors on the inner rate of what is trained with it.
AT_META_TEST: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    SCRATCH: (baselines.FINETUNE_RATES, baselines.FINETUNE_STEPS),
    "finetune": (baselines.FINETUNE_RATES, baselines.FINETUNE_STEPS),
    "linear_probe": (baselines.PROBE_RATES, baselines.PROBE_STEPS),
    "baseline_plus_plus": ((0.02, 0.1, 0.5), (20, 100)),
    "pmf": ((0.001, 0.01, 0.1), (5, 10)),
}
RATE_FACTORS = (1 / 3, 1.0, 3.0)
SEARCH_SHARE = 4  # a try trains for this part of the budget


def for_method(plan: Plan, method: str, **hyper: Any) -> Experiment:
    """The shared experiment with a method's learner, and settings over the defaults: those of the
    configuration are of its own algorithm alone."""
    if method == THRESHOLD:
        learner = thresholding.threshold()
        config = dataclasses.replace(plan.experiment.config, hyper={})
        return plan.experiment._replace(config=config, learner=learner, training=learner)
    algorithm = {SCRATCH: "finetune", RAW_CENTROID: "protonet"}.get(method, method)
    pixels = method == RAW_CENTROID
    backbone = registry.factory("backbones", "pixels")() if pixels else plan.experiment.backbone
    steps = plan.budget.meta_steps
    # Phases that are counted in meta-steps are parts of the budget.
    phases = {"multi_step": steps // 3, "pretrain_steps": steps // 2}
    config, known = plan.experiment.config, configs.options("algorithms", algorithm)
    own = config.hyper if method == config.algorithm else {}
    given = {name: value for name, value in {**own, **phases, **hyper}.items() if name in known}
    config = dataclasses.replace(config, algorithm=algorithm, hyper=given)
    config = configs.check(config)
    kind = kind_for(plan.experiment.kind, backbone, plan.experiment.example_x)
    learner = learners.make_learner(
        config, backbone, plan.experiment.outputs, len(plan.experiment.split.class_names), kind
    )
    training = learners.as_trained(config, plan.experiment.split, kind, learner)
    return plan.experiment._replace(
        config=config, backbone=backbone, learner=learner, training=training, kind=kind
    )


def that_fit(plan: Plan, methods: tuple[str, ...]) -> tuple[str, ...]:
    """Those methods that take what the plan's labels are; found by tracing, which runs nothing."""
    kept = []
    for method in methods:
        with contextlib.suppress(ConfigError):
            experiments.check_fits(for_method(plan, method))
            kept.append(method)
    return tuple(kept)


def require_fit(plan: Plan, methods: tuple[str, ...]) -> None:
    """ConfigError where one of the methods does not take what the plan's labels are; traced."""
    for method in methods:
        experiments.check_fits(for_method(plan, method))


class Trained(NamedTuple):
    """A method's parameters of one seed, its best meta-validation accuracy, and how it is set."""

    experiment: Experiment
    params: Params
    score: float
    settings: dict[str, Any]


class Trainer:
    """Trains methods of a plan, each program compiled once, each classifier trained once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.experiments: dict[Any, Experiment] = {}
        self.compiled: tuple[MetaLearner | None, Any] = (None, None)
        self.classifiers: dict[int, Trained] = {}
        self.factors: dict[str, float] = {}

    def made(self, method: str, seed: int, **hyper: Any) -> Experiment:
        """`for_method` with a seed: one learner, and so one program, for all seeds."""
        key = (method, tuple(sorted(hyper.items())))
        if key not in self.experiments:
            self.experiments[key] = for_method(self.plan, method, **hyper)
        found = self.experiments[key]
        return found._replace(config=dataclasses.replace(found.config, seed=seed))

    def train(self, method: str, seed: int) -> Trained:
        """A method from a seed, with its settings chosen where the budget searches."""
        if method in (SCRATCH, RAW_CENTROID, THRESHOLD):
            made = self.made(method, seed)
            params = running.initial_progress(made, made.learner).state.params
            return Trained(made, params, float("nan"), {})
        if method in CLASSIFIER:
            if seed not in self.classifiers:
                made = self.made(baselines.pretrained_by(self.plan.experiment.kind), seed)
                self.classifiers[seed] = self.fit(made, self.plan.budget.meta_steps)
            return self.classifiers[seed]._replace(experiment=self.made(method, seed))
        made = self.made(method, seed)
        rate = made.config.hyper.get("inner_lr")
        if not self.plan.budget.searches or rate is None or method in AT_META_TEST:
            return self.fit(made, self.plan.budget.meta_steps)
        if method not in self.factors:
            self.factors[method] = self.best_factor(method, rate)
        made = self.made(method, seed, inner_lr=rate * self.factors[method])
        settings = {
            "inner_lr": rate * self.factors[method],
            "of": {"inner_lr": [rate * factor for factor in RATE_FACTORS]},
        }
        return self.fit(made, self.plan.budget.meta_steps)._replace(settings=settings)

    def best_factor(self, method: str, rate: float) -> float:
        """The factor on the inner rate that does best on meta-validation, after short training."""
        steps = max(1, self.plan.budget.meta_steps // SEARCH_SHARE)
        tries = {}
        for factor in RATE_FACTORS:
            score = self.fit(self.made(method, 0, inner_lr=rate * factor), steps).score
            tries[factor] = score
            told = f"inner_lr {rate * factor:.3g}: {100 * score:.1f} on meta-validation"
            console.say(f"tried      {method}, {told}")
        return max(tries, key=lambda factor: tries[factor])

    def fit(self, made: Experiment, steps: int) -> Trained:
        """Train, and keep the best on meta-validation."""
        if self.compiled[0] is not made.training:
            step = running.compile_step(made, made.training).step
            self.compiled = (made.training, step)
        progress = running.fit_quietly(
            made,
            self.compiled[1],
            meta_steps=steps,
            inner_steps=made.config.hyper.get("steps"),
        )
        return Trained(made, progress.best_params, float(progress.best_score), {})


def judge(
    plan: Plan, method: str, trained: Trained, shots: int, *, counts: tuple[int, ...] = ()
) -> tuple[Scores, dict[str, Any]]:
    """A method's scores on the meta-test list at a number of shots, and how it was set; `counts`
    are the numbers of steps to choose from, if not those of `AT_META_TEST`."""
    learner, hyper = trained.experiment.learner, trained.experiment.config.hyper
    test = judged_at(plan, "test", shots)
    if method not in AT_META_TEST or not plan.budget.searches:
        scores = evaluate(learner, trained.params, test, steps=hyper.get("steps"))
        return scores, {**hyper, **trained.settings}
    rates, usual = AT_META_TEST[method]
    made = trained.experiment
    family = family_of(
        made.config.algorithm,
        tuple(sorted(hyper.items())),
        made.backbone,
        made.outputs,
        len(made.split.class_names),
        made.kind,
    )
    val = judged_at(plan, "val", shots)
    tried = counts or usual
    scores, chosen = baselines.searched(family, trained.params, val, test, rates, tried)
    return scores, {**hyper, **chosen}


@functools.lru_cache(maxsize=16)
def family_of(
    algorithm: str,
    hyper: tuple[tuple[str, Any], ...],
    backbone: Backbone,
    outputs: int,
    classes: int,
    kind: Kind,
) -> Family:
    """An algorithm as a function of its inner rate: one program serves every rate."""

    def family(rate: Any) -> MetaLearner:
        config = TrainConfig(algorithm=algorithm, hyper={**dict(hyper), "inner_lr": rate})
        return learners.make_learner(config, backbone, outputs, classes, kind)

    return family


def rows(
    plan: Plan, wanted: tuple[str, ...], done: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method with each seed that is not done yet: its name and its record."""
    trainer = Trainer(plan)
    groups = baselines.query_groups(task_of(plan))
    for method in wanted:
        # Each method compiles programs of its own; kept all, they exhaust the memory maps that
        # the system allows a process.
        jax.clear_caches()
        for seed in range(plan.budget.seeds):
            name = f"{method}-seed{seed}"
            if name in done:
                continue
            began = time.perf_counter()
            trained = trainer.train(method, seed)
            by_shots = {}
            for shots in plan.shots:
                scores, settings = judge(plan, method, trained, shots)
                by_shots[str(shots)] = {
                    "scores": {key: np.asarray(v).tolist() for key, v in scores.every().items()},
                    "over_classes": list(scores.by_classes),
                    "over_subjects": baselines.over_subjects(scores, groups),
                    "pooled": {name: v._asdict() for name, v in scores.pooled().items()},
                    "chosen": settings,
                }
            yield (
                name,
                {
                    "method": method,
                    "seed": seed,
                    "norm": trained.experiment.learner.norm,
                    "meta_validation": None if np.isnan(trained.score) else trained.score,
                    "seconds": round(time.perf_counter() - began, 2),
                    "shots": by_shots,
                },
            )


def task_of(plan: Plan) -> baselines.Task:
    """What all rows are judged on; episodes of fewer shots show a part of its support."""
    spec = dataclasses.replace(plan.experiment.spec, shots=plan.shots[-1])
    return running.task_of(plan.experiment)._replace(spec=spec)


def facts(plan: Plan) -> dict[str, Any]:
    """What the episodes are, in the fields that every result repeats."""
    return running.facts(plan.experiment, task_of(plan))
