"""The protocol: every method on the same data, backbone, budget and episodes.

Every method meta-trains on the same number of the same kind of episodes, from the same
seeds, and is judged on one fixed list of meta-test episodes, at every shot: an episode of
k shots is the same list's episode with the first k support images of each class. What a
method lets one choose is chosen on meta-validation, from the settings named here. A row is
one method with one seed; it is written down when it is done, and not done again.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from medmeta_jax import baselines, config as configs, experiment as experiments, registry
from medmeta_jax.config import ConfigError, TrainConfig
from medmeta_jax.data.episodes import bounds, check_pool, sample
from medmeta_jax.evaluation import Family, FixedEpisodes, Scores, evaluate
from medmeta_jax.experiment import Experiment
from medmeta_jax.types import Array, Backbone, Episode, MetaLearner, Params

SCRATCH = "scratch"
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


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every method gets alike.

    width: channels of the backbone. meta_steps of meta_batch episodes: meta-training. seeds: of
    training. searches: whether settings are chosen on meta-validation, or are the defaults.
    """

    width: int
    meta_steps: int
    meta_batch: int
    seeds: int
    searches: bool
    val_episodes: int
    test_episodes: int


BUDGETS = {
    "small": Budget(8, 40, 4, 1, False, 50, 100),
    "medium": Budget(32, 400, 4, 3, False, 100, 600),
    "full": Budget(64, 2000, 4, 3, True, 200, 600),
}


class Plan(NamedTuple):
    """What is compared: the experiment all methods share, and the shots to judge at."""

    experiment: Experiment
    budget: Budget
    shots: tuple[int, ...]


def methods() -> tuple[str, ...]:
    """All rows there are: every algorithm, and the untrained network fine-tuned.

    >>> len(methods()) >= 20
    True
    """
    return (*registry.names("algorithms"), SCRATCH)


def chosen_methods(names: tuple[str, ...]) -> tuple[str, ...]:
    """The methods asked for ("all" are all), the reference first (ConfigError)."""
    known = methods()
    for name in names:
        if name != "all" and name not in known:
            raise ConfigError(f"methods: no {name!r}{configs.suggest(name, known)}")
    asked = known if "all" in names else tuple(dict.fromkeys(names))
    first = "maml" if "maml" in asked else asked[0]
    return (first, *(name for name in asked if name != first))


def make_plan(config: TrainConfig, budget: Budget, shots: tuple[int, ...]) -> Plan:
    """The experiment of a budget: data, episodes and backbone, as every method gets them.

    Training draws the shots of an episode from the range that is judged, up to 5.
    """
    if not shots or min(shots) < 1:
        raise ConfigError(f"shots: must be one or more numbers >= 1, got {shots}")
    shots = tuple(sorted(set(shots)))
    low, high = shots[0], max(shots[0], min(shots[-1], 5))
    config = dataclasses.replace(
        config,
        shots=low if low == high else (low, high),
        net={"width": budget.width, **config.net},
        meta_steps=budget.meta_steps,
        meta_batch=budget.meta_batch,
        validate_every=max(1, budget.meta_steps // 4),
        dispatch=min(25, budget.meta_steps),
        val_episodes=budget.val_episodes,
        test_episodes=budget.test_episodes,
    )
    experiment = experiments.build(config)
    spec = dataclasses.replace(experiment.spec, shots=shots[-1])
    for side in ("val", "test"):
        classes = experiment.split.classes[side]
        check_pool(experiment.split.pools[side], spec, classes, f"meta-{side}")
    return Plan(experiment, budget, shots)


def first_shots(key: Array, pool_and_shots: Any, *, spec: Any) -> Episode:
    """The episode of a key, with the first so many support images of each class."""
    pool, shots = pool_and_shots
    episode = sample(key, pool, spec)
    most = bounds(spec.shots)[1]
    rank = jnp.arange(episode.support.mask.shape[0]) % most
    mask = episode.support.mask & (rank < shots)
    return episode._replace(support=episode.support._replace(mask=mask))


@functools.lru_cache(maxsize=8)
def shots_sampler(spec: Any) -> Callable[..., Episode]:
    """`first_shots` of a spec; the same object for the same spec, for compiled programs."""
    return functools.partial(first_shots, spec=spec)


def judged_at(plan: Plan, side: str, shots: int) -> FixedEpisodes:
    """The fixed list of a side, at a number of shots; one program serves all of them."""
    episodes = plan.experiment.test if side == "test" else plan.experiment.val
    spec = dataclasses.replace(plan.experiment.spec, shots=plan.shots[-1])
    pool = (episodes.pool, np.asarray(shots, np.int32))
    return episodes._replace(sampler=shots_sampler(spec), pool=pool)


def for_method(plan: Plan, method: str, **hyper: Any) -> Experiment:
    """The shared experiment with a method's learner, and settings over the defaults."""
    algorithm = "finetune" if method == SCRATCH else method
    steps = plan.budget.meta_steps
    # Phases that are counted in meta-steps are parts of the budget.
    phases = {"multi_step": steps // 3, "pretrain_steps": steps // 2}
    known = configs.options("algorithms", algorithm)
    given = {name: value for name, value in {**phases, **hyper}.items() if name in known}
    config = dataclasses.replace(plan.experiment.config, algorithm=algorithm, hyper=given)
    config = configs.check(config)
    learner = experiments.make_learner(
        config,
        plan.experiment.backbone,
        plan.experiment.outputs,
        len(plan.experiment.split.class_names),
        several=experiments.several(plan.experiment.split),
    )
    training = experiments.with_augmentation(config, learner)
    return plan.experiment._replace(config=config, learner=learner, training=training)


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
        if method == SCRATCH:
            made = self.made(method, seed)
            params = experiments.initial_progress(made, made.learner).state.params
            return Trained(made, params, float("nan"), {})
        if method in CLASSIFIER:
            if seed not in self.classifiers:
                centroid = self.made("nearest_centroid", seed)
                self.classifiers[seed] = self.fit(centroid, self.plan.budget.meta_steps)
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
        tries = {
            factor: self.fit(self.made(method, 0, inner_lr=rate * factor), steps).score
            for factor in RATE_FACTORS
        }
        return max(tries, key=lambda factor: tries[factor])

    def fit(self, made: Experiment, steps: int) -> Trained:
        """Train, and keep the best on meta-validation."""
        if self.compiled[0] is not made.training:
            step = experiments.compile_step(made, made.training).step
            self.compiled = (made.training, step)
        progress = experiments.fit_quietly(
            made,
            self.compiled[1],
            meta_steps=steps,
            inner_steps=made.config.hyper.get("steps"),
        )
        return Trained(made, progress.best_params, float(progress.best_score), {})


def judge(plan: Plan, method: str, trained: Trained, shots: int) -> tuple[Scores, dict[str, Any]]:
    """A method's scores on the meta-test list at a number of shots, and how it was set."""
    learner, hyper = trained.experiment.learner, trained.experiment.config.hyper
    test = judged_at(plan, "test", shots)
    if method not in AT_META_TEST or not plan.budget.searches:
        scores = evaluate(learner, trained.params, test, steps=hyper.get("steps"))
        return scores, {**hyper, **trained.settings}
    rates, counts = AT_META_TEST[method]
    made = trained.experiment
    family = family_of(
        made.config.algorithm,
        tuple(sorted(hyper.items())),
        made.backbone,
        made.outputs,
        len(made.split.class_names),
        experiments.several(made.split),
    )
    val = judged_at(plan, "val", shots)
    scores, chosen = baselines.searched(family, trained.params, val, test, rates, counts)
    return scores, {**hyper, **chosen}


@functools.lru_cache(maxsize=16)
def family_of(
    algorithm: str,
    hyper: tuple[tuple[str, Any], ...],
    backbone: Backbone,
    outputs: int,
    classes: int,
    several: bool,
) -> Family:
    """An algorithm as a function of its inner rate: one program serves every rate."""

    def family(rate: Any) -> MetaLearner:
        config = TrainConfig(algorithm=algorithm, hyper={**dict(hyper), "inner_lr": rate})
        return experiments.make_learner(config, backbone, outputs, classes, several=several)

    return family


def rows(
    plan: Plan, wanted: tuple[str, ...], done: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method with each seed that is not done yet: its name and its record."""
    trainer = Trainer(plan)
    for method in wanted:
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
                    "scores": {
                        key: np.asarray(v).tolist() for key, v in scores.per_episode.items()
                    },
                    "accuracy_over_classes": list(scores.by_classes),
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


def facts(plan: Plan) -> dict[str, Any]:
    """What the episodes are, in the fields that every result repeats."""
    spec = dataclasses.replace(plan.experiment.spec, shots=plan.shots[-1])
    return experiments.facts(
        plan.experiment, experiments.task_of(plan.experiment)._replace(spec=spec)
    )
