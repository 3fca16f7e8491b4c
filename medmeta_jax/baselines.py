"""The rows that stand beside a learner's own, on the same episodes.

Whatever a baseline lets one choose (rate, steps) is chosen on meta-validation episodes,
from the grids below, and written into its row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from medmeta_jax import registry, thresholding
from medmeta_jax.data.episodes import EpisodeSpec, Indices, episodes_hash, sample_indices
from medmeta_jax.evaluation import (
    Family,
    FixedEpisodes,
    Scores,
    evaluate,
    sample_key,
    score_predictions,
)
from medmeta_jax.fitting import kind_for
from medmeta_jax.labels import LESIONS, OBJECTS, OF_ONE_WAY, OF_PIXELS, SEVERAL, VALUES, Kind
from medmeta_jax.metrics.intervals import (
    Estimate,
    over_episodes,
    paired_difference,
    subject_means,
)
from medmeta_jax.personal import Both, careful, unadapted
from medmeta_jax.settings import TrainConfig
from medmeta_jax.types import Array, Backbone, MetaLearner, Params

FINETUNE_RATES = (0.05, 0.2, 0.8)
FINETUNE_STEPS = (5, 20)
PROBE_RATES = (0.1, 1.0, 10.0)
PROBE_STEPS = (20, 100)
SELECTION_EPISODES = 50
GLOBAL = "global"  # the row of one model for all patients
CURVE_EPISODES = 100  # of the meta-test list, for accuracy by inner step


class Task(NamedTuple):
    """What every row of a table is judged on and made from.

    pretrain: (learner) -> params, ordinary training on the meta-train classes.
    kind: what the labels are.
    patients: whether all images of meta-test say which group they are of.
    """

    config: TrainConfig
    spec: EpisodeSpec
    backbone: Backbone
    outputs: int
    pool_classes: int
    example_x: Array
    val: FixedEpisodes
    test: FixedEpisodes
    pretrain: Callable[[MetaLearner], Params]
    kind: Kind
    patients: bool


class Row(NamedTuple):
    """A learner's scores, how it was set, and where it has inner steps its main score after
    0, 1, ... of them, on the first `CURVE_EPISODES` episodes."""

    learner: str
    norm: str
    scores: Scores
    chosen: dict[str, Any]
    by_step: tuple[Estimate, ...] = ()


def rows(task: Task, learner: MetaLearner, params: Params, untrained: Params) -> Iterator[Row]:
    """The learner's own row, then the baselines that the configuration asks for."""
    name = task.config.algorithm
    steps = task.config.hyper.get("steps")
    by_step: tuple[Estimate, ...] = ()
    if steps is None:
        scores = evaluate(learner, params, task.test)
    else:
        scores = evaluate(learner, params, task.test, steps=steps)
        some = task.test._replace(keys=task.test.keys[:CURVE_EPISODES])
        every = (evaluate(learner, params, some, steps=k) for k in range(steps + 1))
        by_step = tuple(s.estimate(s.kind.columns[0]) for s in every)
    yield Row(name, learner.norm, scores, dict(task.config.hyper), by_step)
    if task.config.baselines == "none":
        return
    if task.config.task == "patient" and steps is not None:
        yield from of_patients(task, learner, params)
    scores = evaluate(learner, untrained, task.test, steps=steps)
    yield Row(f"{name}-untrained", learner.norm, scores, dict(task.config.hyper))
    yield scratch(task)
    if task.kind is VALUES:
        yield support_mean(scores)
    else:
        yield threshold(task) if task.kind in OF_PIXELS else raw_centroid(task)
    if task.config.baselines == "all":
        yield from pretrained(task)


def of_patients(task: Task, learner: MetaLearner, params: Params) -> Iterator[Row]:
    """One model for all patients, and the learner whose adaptation the support may switch off."""
    name, hyper = task.config.algorithm, dict(task.config.hyper)
    one = unadapted(learner, loss=task.kind.loss)
    theta = task.pretrain(one)
    yield Row(GLOBAL, learner.norm, evaluate(one, theta, task.test), {})
    watched = careful(learner, loss=task.kind.loss)
    scores = evaluate(watched, Both(params, theta), task.test, steps=hyper["steps"])
    yield Row(f"{name}-careful", learner.norm, scores, hyper)


def made(task: Task, name: str, backbone: Backbone | None = None, **arguments: Any) -> MetaLearner:
    """An algorithm over the task's backbone or another, told of labels as their kind is."""
    backbone = backbone or task.backbone
    kind = kind_for(task.kind, backbone, task.example_x)
    if registry.takes("algorithms", name, "loss"):
        arguments["loss"] = kind.loss
    factory = registry.factory("algorithms", name)
    return kind.told(factory(backbone, outputs=task.outputs, **arguments), task.outputs)


def scratch(task: Task) -> Row:
    """The network trained on the support set alone, from its initialisation."""

    def family(rate: Any) -> MetaLearner:
        return made(task, "finetune", inner_lr=rate)

    params = family(1.0).init(jax.random.key(task.config.seed), task.example_x)
    return tuned(task, "scratch", family, params, FINETUNE_RATES, FINETUNE_STEPS)


def raw_centroid(task: Task) -> Row:
    """Nearest class mean of the pixels themselves."""
    learner = made(task, "protonet", registry.factory("backbones", "pixels")())
    return Row("raw-centroid", learner.norm, evaluate(learner, {"body": {}}, task.test), {})


def support_mean(scores: Scores) -> Row:
    """The mean of the support's values, whatever the image: 0 as values are measured."""
    predictions = scores.predictions
    flat = predictions._replace(logits=np.zeros_like(predictions.logits))
    return Row("support-mean", "none", score_predictions(flat), {})


def threshold(task: Task) -> Row:
    """The intensity that parts the support's structure from the rest best."""
    learner = thresholding.threshold()
    return Row("threshold", learner.norm, evaluate(learner, {}, task.test), {})


def pretrained_by(kind: Kind) -> str:
    """The algorithm that pre-trains for all that use it, and by whose scores on meta-validation
    the best checkpoint is chosen: the cheapest to adapt that takes such labels."""
    return "linear_probe" if kind in (*OF_PIXELS, LESIONS) else "nearest_centroid"


def pretrained(task: Task) -> Iterator[Row]:
    """An ordinary classifier of the meta-train classes, or a net that marks all their structures,
    put to use in three ways, or two."""
    make = functools.partial(made, task, pool_classes=task.pool_classes)
    first = make(pretrained_by(task.kind))
    params = task.pretrain(first)
    if pretrained_by(task.kind) == "nearest_centroid":
        yield Row("pretrained-centroid", first.norm, evaluate(first, params, task.test), {})
    yield tuned(
        task,
        "pretrained-probe",
        lambda rate: make("linear_probe", inner_lr=rate),
        params,
        PROBE_RATES,
        PROBE_STEPS,
    )
    yield tuned(
        task,
        "pretrained-finetune",
        lambda rate: make("finetune", inner_lr=rate),
        params,
        FINETUNE_RATES,
        FINETUNE_STEPS,
    )


def tuned(
    task: Task,
    name: str,
    family: Family,
    params: Params,
    rates: tuple[float, ...],
    steps: tuple[int, ...],
) -> Row:
    """A row whose rate and steps are the best on the first meta-validation episodes."""
    scores, chosen = searched(family, params, task.val, task.test, rates, steps)
    return Row(name, task.backbone.norm, scores, chosen)


def searched(
    family: Family,
    params: Params,
    val: FixedEpisodes,
    test: FixedEpisodes,
    rates: tuple[float, ...],
    steps: tuple[int, ...],
) -> tuple[Scores, dict[str, Any]]:
    """Scores on `test` at the rate and steps that are best on the first episodes of `val`, and
    these settings with what they were chosen from."""
    some = val._replace(keys=val.keys[:SELECTION_EPISODES])

    def at(rate: float, count: int, episodes: FixedEpisodes) -> Scores:
        return evaluate(family, params, episodes, steps=count, settings=(rate,))

    found = {
        (rate, count): at(rate, count, some).headline.mean for rate in rates for count in steps
    }
    rate, count = max(found, key=lambda setting: found[setting])
    chosen = {"inner_lr": rate, "steps": count, "of": {"inner_lr": rates, "steps": steps}}
    return at(rate, count, test), chosen


def patient_means(scores: Scores, groups: np.ndarray) -> np.ndarray:
    """The main score of each group's queries, in the order of the groups' numbers."""
    each, mask = scores.kind.each(*scores.read)[0], scores.predictions.mask
    values = np.full(mask.shape, np.nan)
    values[mask] = each.reshape(int(mask.sum()), -1).mean(1)
    return subject_means(values, mask, groups)


def over_subjects(scores: Scores, groups: np.ndarray | None) -> dict[str, Any] | None:
    """The main score by subject: the mean of their means, its interval, and "subjects", their
    number; None where queries are of no groups (`query_groups`), or of one alone."""
    if groups is None or scores.kind is OBJECTS:  # whose scores are of several images together
        return None
    means = patient_means(scores, groups)
    return {"subjects": len(means), **over_episodes(means)._asdict()} if len(means) > 1 else None


def result(
    row: Row, first: Row, task_facts: dict[str, Any], groups: np.ndarray | None = None
) -> dict[str, Any]:
    """A row as `summary.json` holds it; `first` is the learner that it is compared with, groups
    those of the queries."""
    scores, kind = row.scores, row.scores.kind
    main = kind.columns[0]
    found: dict[str, Any] = {"learner": row.learner, **task_facts, "norm": row.norm}
    for name, values in scores.every().items():
        found[name] = over_episodes(values)._asdict()
    found[f"{main}_over_classes"] = list(scores.by_classes)
    found[f"{main}_over_subjects"] = over_subjects(scores, groups)
    found["pooled"] = {name: value._asdict() for name, value in scores.pooled().items()}
    if row is not first:
        against = paired_difference(scores.main, first.scores.main)
        found[f"minus_{first.learner}"] = against._asdict()
    if row.by_step:
        found[f"{main}_by_step"] = {
            "episodes": min(CURVE_EPISODES, len(scores.main)),
            "mean": [estimate.mean for estimate in row.by_step],
            "ci95": [estimate.ci95 for estimate in row.by_step],
        }
    found["chosen"] = row.chosen
    return found


@functools.partial(jax.jit, static_argnames="spec")
def drawn(keys: Array, pool: Any, spec: EpisodeSpec) -> Indices:
    """The places in a pool of the images of the keys' episodes; one program for all who ask."""
    return jax.vmap(lambda key: sample_indices(sample_key(key), pool, spec))(keys)


def places_of(episodes: FixedEpisodes, spec: EpisodeSpec) -> Indices:
    """Where the images of a fixed list's episodes are in its pool: [E, ...]."""
    return drawn(episodes.keys, episodes.pool, spec)


def query_groups(task: Task) -> np.ndarray | None:
    """The group of each query [E, n] of the meta-test list; None where groups are not known."""
    if task.spec.disjoint == "image" or not task.patients:
        return None
    return np.asarray(task.test.pool.group)[np.asarray(places_of(task.test, task.spec).query)]


def task_facts(task: Task, data: str) -> dict[str, Any]:
    """What the episodes of a table are, in the fields every row repeats."""
    spec, episodes = task.spec, task.test
    places = places_of(episodes, spec)
    there, ways = np.asarray(places.query) >= 0, np.asarray(places.query_y)
    if task.kind is SEVERAL:  # 1 or 0 for each way
        each = (there[..., None] & (ways > 0)).sum(1)
    elif task.kind in OF_ONE_WAY:  # of the one way there is
        each = there.sum(1)[:, None]
    else:
        every = range(places.classes.shape[1])
        each = np.stack([(there & (ways == way)).sum(1) for way in every], 1)
    each = each[np.asarray(places.classes) >= 0]

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return {
        "data": data,
        "labels": task.kind.name,
        "columns": list(task.kind.columns),
        "split": "meta-test",
        "ways": plain(spec.ways),
        "shots": plain(spec.shots),
        "queries": spec.queries,
        "queries_mean": round(float(each.mean()), 2),
        "ways_without_query": int((each == 0).sum()),
        "disjoint": spec.disjoint,
        "episodes": int(np.shape(episodes.keys)[0]),
        "episodes_hash": episodes_hash(episodes.pool, places),
    }
