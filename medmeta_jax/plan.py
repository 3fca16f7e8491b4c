"""What methods are compared on: one budget, one experiment, one list of episodes at every shot."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import experiment as experiments, registry
from medmeta_jax.data.episodes import EpisodeSpec, bounds, sample
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import Pool
from medmeta_jax.evaluation import FixedEpisodes
from medmeta_jax.experiment import Experiment
from medmeta_jax.hints import suggest
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Array, Episode

# Rows that no algorithm's file stands for: the untrained network fine-tuned on the support set,
# the nearest class mean of the pixels themselves, and, of masks, the best threshold of intensity.
SCRATCH, RAW_CENTROID, THRESHOLD = "scratch", "raw_centroid", "threshold"
# Training draws up to as many shots, and up to as many are judged by one program.
FEW_SHOTS = 5


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
    "medium": Budget(16, 400, 4, 3, True, 50, 200),
    "full": Budget(64, 2000, 4, 3, True, 200, 600),
}


def budget_of(name: str, seeds: int | None) -> Budget:
    """A budget by name, with so many training seeds if given (ConfigError)."""
    if seeds is None:
        return BUDGETS[name]
    if seeds < 1:
        raise ConfigError(f"seeds: must be >= 1, got {seeds}")
    return dataclasses.replace(BUDGETS[name], seeds=seeds)


class Plan(NamedTuple):
    """What is compared: the experiment all methods share, and the shots to judge at."""

    experiment: Experiment
    budget: Budget
    shots: tuple[int, ...]


def methods() -> tuple[str, ...]:
    """All rows there are: every algorithm, and the three that train on nothing.

    >>> len(methods()) >= 20
    True
    """
    return (*registry.names("algorithms"), SCRATCH, RAW_CENTROID, THRESHOLD)


def chosen_methods(names: tuple[str, ...]) -> tuple[str, ...]:
    """The methods asked for ("all" are all), the reference first (ConfigError)."""
    known = methods()
    for name in names:
        if name != "all" and name not in known:
            raise ConfigError(f"methods: no {name!r}{suggest(name, known)}")
    asked = known if "all" in names else tuple(dict.fromkeys(names))
    first = "maml" if "maml" in asked else asked[0]
    return (first, *(name for name in asked if name != first))


def make_plan(config: TrainConfig, budget: Budget, shots: tuple[int, ...]) -> Plan:
    """The experiment of a budget: data, episodes and backbone, as every method gets them.

    Training draws the shots of an episode from the range that is judged, up to `FEW_SHOTS`.
    """
    if not shots or min(shots) < 1:
        raise ConfigError(f"shots: must be one or more numbers >= 1, got {shots}")
    shots = tuple(sorted(set(shots)))
    low, high = shots[0], max(shots[0], min(shots[-1], FEW_SHOTS))
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


class Judged(NamedTuple):
    """What a sampler of `judged_at` draws from. shots: [], the support images of each class."""

    pool: Pool
    shots: Array


def first_shots(key: Array, judged: Judged, *, spec: EpisodeSpec, slots: int) -> Episode:
    """The episode of a key with the first `judged.shots` support images of each class alone, in
    as many slots."""
    episode = sample(key, judged.pool, spec)
    count, most = episode.support.mask.shape[0], bounds(spec.shots)[1]
    place = np.arange(count) % most
    kept = np.flatnonzero(place < slots)
    support = jax.tree.map(lambda leaf: leaf[kept], episode.support)
    mask = support.mask & (place[kept] < judged.shots)
    return episode._replace(support=support._replace(mask=mask))


@functools.lru_cache(maxsize=32)
def shots_sampler(spec: EpisodeSpec, slots: int) -> Callable[..., Episode]:
    """`first_shots` of a spec; the same object for the same spec, for compiled programs."""
    return functools.partial(first_shots, spec=spec, slots=slots)


def at_shots(experiment: Experiment, every: Sequence[int], side: str, shots: int) -> FixedEpisodes:
    """The fixed list of a side, at a number of shots out of `every` that it is judged at.

    Few shots share a program, padded to the most of them: to compile one more takes longer
    than the padding. Each number beyond has one of its own.
    """
    episodes = experiment.test if side == "test" else experiment.val
    spec = dataclasses.replace(experiment.spec, shots=max(every))
    slots = max([shots, *(few for few in every if few <= FEW_SHOTS)])
    pool = experiment.lists.pool(side, spec, episodes.keys)
    judged = Judged(pool, jnp.asarray(shots))
    return episodes._replace(sampler=shots_sampler(spec, slots), pool=judged)


def judged_at(plan: Plan, side: str, shots: int) -> FixedEpisodes:
    """`at_shots` of a plan."""
    return at_shots(plan.experiment, plan.shots, side, shots)
