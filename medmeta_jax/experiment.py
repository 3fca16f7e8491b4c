"""From a configuration to a trained, judged learner: the parts put together, once.

`build` makes every value of a run, `train_run` trains and checkpoints, `judge` evaluates.
The command line and the notebooks call these; nothing here prints.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from medmeta_jax import baselines, config as configs, parallel, processes, registry, train, weights
from medmeta_jax.augment._ops import augmented
from medmeta_jax.checkpoint import Checkpoints
from medmeta_jax.config import ConfigError, TrainConfig
from medmeta_jax.data import sources
from medmeta_jax.data.episodes import EpisodeSpec, bounds, check_pool, pool_hash, sample
from medmeta_jax.data.samples import DataError, Samples
from medmeta_jax.data.splits import SIDES, Split, make_split
from medmeta_jax.evaluation import FixedEpisodes, episode_keys, evaluate
from medmeta_jax.losses import (
    accuracy,
    balanced_binary_cross_entropy,
    label_accuracy,
    ranked_probability,
)
from medmeta_jax.objectives import Objective, cvar, tr_maml
from medmeta_jax.runs import Run, existing
from medmeta_jax.types import Array, Backbone, MetaLearner, Params

VAL_SEED, TEST_SEED = 1_000_003, 2_000_003  # the same episodes for every run of a data set


class Experiment(NamedTuple):
    """Every value of a run, made from its configuration.

    learner adapts and predicts; training is the same with augmentation in its loss.
    outputs is the number of ways the head has; val and test are fixed lists of episodes;
    weights, by name, take the place of the learner's own at the start.
    """

    config: TrainConfig
    split: Split
    spec: EpisodeSpec
    sampler: Callable[[Array, Any], Any]
    backbone: Backbone
    learner: MetaLearner
    training: MetaLearner
    optimiser: optax.GradientTransformation
    objective: Objective | None
    example_x: Array
    outputs: int
    val: FixedEpisodes
    test: FixedEpisodes
    mesh: Mesh
    weights: Mapping[str, np.ndarray]


def load_split(config: TrainConfig) -> Split:
    """Read the configured data and split its classes (DataError)."""

    def load(source: str) -> Samples:
        return sources.load(source, image_size=config.image_size)

    others = {"val": config.meta_val, "test": config.meta_test}
    return make_split(
        {name: load(source) for name, source in domain_names(config).items()},
        mixing=config.mixing,
        **{side: load(source) for side, source in others.items() if source is not None},
    )


def domain_names(config: TrainConfig) -> dict[str, str]:
    """The data sets to meta-train on by a short name of each: that of its file or folder.

    Raises ConfigError where two have the same.
    """
    found: dict[str, str] = {}
    for source in (config.data, *config.also):
        name = Path(source).stem
        if name in found:
            raise ConfigError(f"also: two data sets are named {name!r}; rename a folder or file")
        found[name] = source
    return found


def episode_spec(config: TrainConfig, split: Split) -> EpisodeSpec:
    """The configured episodes, with defaults that follow from the data, checked on it."""
    disjoint = config.disjoint
    if disjoint == "auto":
        disjoint = "group" if split.grouped else "image"
    if config.disjoint == "group" and split.ungrouped:
        raise DataError(
            f"{split.ungrouped[0]}: names no groups (groups.csv, or an array groups), "
            "so --disjoint group cannot be kept; use image"
        )
    within = config.within
    if within == "auto":
        within = "domain" if config.also else "any"
    spec = EpisodeSpec(
        ways=config.ways if config.ways is not None else min(5, fewest_classes(split, within)),
        shots=config.shots,
        queries=config.queries,
        disjoint=disjoint,
        balance=config.balance,
        within=within,
        shuffle=config.shuffle_labels and not config.ordered,
    )
    for side in SIDES:
        check_pool(split.pools[side], spec, split.classes[side], f"meta-{side}")
    return spec


def fewest_classes(split: Split, within: str) -> int:
    """The most ways that every side's episodes can have."""
    if within == "any":
        return min(len(split.classes[side]) for side in SIDES)
    domains = [np.asarray(split.pools[side].domain) for side in SIDES]
    return min(int(np.bincount(one[one >= 0], minlength=1).min()) for one in domains)


def outer_optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """The configured optimiser, with its schedule and clipping."""
    rate: Any = config.outer_lr
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(config.outer_lr, config.meta_steps)
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    makers: dict[str, Callable[[Any], optax.GradientTransformation]] = {
        "adam": optax.adam,
        "adamw": optax.adamw,
        "sgd": functools.partial(optax.sgd, momentum=0.9),
    }
    return optax.chain(clip, makers[config.optimiser](rate))


def several(split: Split) -> bool:
    """Whether images have several labels."""
    return split.pools["train"].shown is not None


def by_labels(config: TrainConfig, several: bool) -> dict[str, Any]:
    """Arguments of every learner that follow from what a label is: none for plain classes."""
    if several:
        return {"loss": balanced_binary_cross_entropy}
    return {"loss": ranked_probability} if config.ordered else {}


def make_learner(
    config: TrainConfig, backbone: Backbone, outputs: int, classes: int, *, several: bool = False
) -> MetaLearner:
    """The configured algorithm over a backbone (ConfigError for a refused argument)."""
    factory = registry.factory("algorithms", config.algorithm)
    arguments = dict(config.hyper)
    if registry.takes("algorithms", config.algorithm, "loss"):
        arguments |= by_labels(config, several)
    if "pool_classes" in registry.defaults("algorithms", config.algorithm):
        if several:
            raise ConfigError(
                f"algorithm: {config.algorithm} pre-trains a classifier of one label an image, and "
                "these images have several; take another, such as protonet or maml"
            )
        arguments["pool_classes"] = classes
    try:
        return factory(backbone, outputs=outputs, **arguments)
    except ValueError as error:
        raise ConfigError(f"hyper: {error}") from None


def make_backbone(config: TrainConfig) -> Backbone:
    """The configured backbone (ConfigError for a refused argument)."""
    try:
        return registry.factory("backbones", config.backbone)(norm=config.norm, **config.net)
    except ValueError as error:
        raise ConfigError(f"net: {error}") from None


def make_objective(config: TrainConfig, split: Split, spec: EpisodeSpec) -> Objective | None:
    """The configured objective, None for the mean (ConfigError for one that cannot be)."""
    try:
        if config.objective == "cvar":
            return cvar(share=config.worst_share)
        if config.objective == "tr_maml":
            if spec.within != "domain" or split.domains < 2:
                raise ConfigError(
                    "objective: tr_maml weighs domains, and needs two or more that episodes are "
                    "drawn within (also, or data with domains and within 'domain')"
                )
            return tr_maml(rate=config.domain_rate)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        field = "worst_share" if config.objective == "cvar" else "domain_rate"
        raise ConfigError(f"{field}: {error}") from None
    return None


def with_augmentation(config: TrainConfig, learner: MetaLearner) -> MetaLearner:
    """The learner as it is trained: on episodes augmented as configured."""
    ops = [registry.factory("augment", name)() for name in config.augment]
    if not ops:
        return learner
    sides = ("support", "query") if config.augment_on == "both" else (config.augment_on,)
    return augmented(learner, **dict.fromkeys(sides, ops))


def with_devices(config: TrainConfig) -> tuple[TrainConfig, Mesh]:
    """The configuration with its number of devices, and the mesh of them (ConfigError)."""
    by_process = parallel.devices_by_process()
    most, several = min(map(len, by_process)), len(by_process)
    shares = config.meta_batch // (config.chunk or 1)
    if (config.devices or shares) % several:
        raise ConfigError(
            f"{'devices' if config.devices else 'meta_batch'}: must be a multiple of the {several} "
            f"processes, got {config.devices or config.meta_batch}"
        )
    count = config.devices or several * parallel.largest_share(shares // several, most)
    if count > several * most:
        raise ConfigError(
            f"devices: {count} asked for, there are {several * most}; a run goes on bit-equal on "
            "as many as it began with"
        )
    if config.precision != "float32" and jax.default_backend() == "cpu":
        raise ConfigError(
            f"precision: {config.precision} is for GPUs and TPUs; a CPU has float32 alone"
        )
    config = configs.check(dataclasses.replace(config, devices=count))
    return config, parallel.mesh_over_processes(count)


def build(config: TrainConfig) -> Experiment:
    """Everything a run needs. Raises ConfigError or DataError before anything compiles."""
    config, mesh = with_devices(configs.check(config))
    backbone = make_backbone(config)
    split = load_split(config)
    split = split._replace(pools=parallel.replicate(split.pools, mesh))
    spec = episode_spec(config, split)
    if several(split) and config.baselines == "all":
        raise ConfigError(
            "baselines: 'all' pre-trains a classifier of one label an image, and these images have "
            "several; take 'some'"
        )
    outputs = bounds(spec.ways)[1]
    try:
        of_training = dataclasses.replace(spec, rotate=config.rotate_classes)
    except ValueError as error:
        raise ConfigError(f"rotate_classes: {error}") from None
    learner = make_learner(
        config, backbone, outputs, len(split.class_names), several=several(split)
    )
    sampler = functools.partial(sample, spec=of_training)
    example = jax.eval_shape(
        lambda pool: sampler(jax.random.key(0), pool).support.x, split.pools["train"]
    )

    example_x = jnp.zeros(example.shape, example.dtype)
    start = start_weights(config.init_from, learner, example_x)

    judged = functools.partial(sample, spec=spec)

    def fixed(side: str, seed: int, count: int) -> FixedEpisodes:
        keys = parallel.replicate(episode_keys(seed, count), mesh)
        return FixedEpisodes(judged, split.pools[side], keys, mesh)

    return Experiment(
        config=config,
        split=split,
        spec=spec,
        sampler=sampler,
        backbone=backbone,
        learner=learner,
        training=with_augmentation(config, learner),
        optimiser=outer_optimiser(config),
        objective=make_objective(config, split, spec),
        example_x=example_x,
        outputs=outputs,
        val=fixed("val", VAL_SEED, config.val_episodes),
        test=fixed("test", TEST_SEED, config.test_episodes),
        mesh=mesh,
        weights=start,
    )


def start_weights(
    source: str | None, learner: MetaLearner, example_x: Array
) -> dict[str, np.ndarray]:
    """The weights of a run or a file that the learner takes, by name (WeightsError)."""
    if source is None:
        return {}
    path = Path(source)
    given = run_weights(existing(source)) if path.is_dir() else weights.read(path)
    like = jax.eval_shape(learner.init, jax.random.key(0), example_x)
    return {name: given[name] for name in weights.taken(like, given, source)}


def run_weights(run: Run) -> dict[str, np.ndarray]:
    """The best parameters of a run, by name, from its latest checkpoint (CheckpointError)."""
    checkpoints = Checkpoints(run.checkpoints, read_only=True)
    try:
        saved = checkpoints.load()[1]
    finally:
        checkpoints.close()
    return {
        "/".join(re.findall(r"\['?([^\]']+)'?\]", path)): array
        for path, array in saved.items()
        if path.startswith(".best_params")
    }


def identity(experiment: Experiment) -> dict[str, Any]:
    """What a run was trained and judged on, side by side: class names and a hash of the images."""
    split = experiment.split
    return {
        side: {"classes": list(split.classes[side]), "images": pool_hash(split.pools[side])}
        for side in SIDES
    }


def initial_progress(experiment: Experiment, learner: MetaLearner) -> train.Progress:
    """Training before its first step, from the configured seed."""
    key = jax.random.key(experiment.config.seed)
    mixing, objective = experiment.split.pools["train"].mixing, experiment.objective
    carried = () if objective is None else objective.init(mixing)
    state = train.init_state(learner, experiment.optimiser, key, experiment.example_x, carried)
    if experiment.weights:
        state = state._replace(params=weights.put(state.params, experiment.weights))
    return jax.jit(train.start, out_shardings=parallel.everywhere(experiment.mesh))(state)


class Compiled(NamedTuple):
    """A compiled training step, how many episodes a device runs side by side in it (its others
    follow one another), and the seconds that compiling took."""

    step: train.Step
    chunk: int
    seconds: float


def compile_step(experiment: Experiment, learner: MetaLearner) -> Compiled:
    """The compiled training step of a learner, with the most episodes side by side that a
    device has memory for, where the configuration leaves it open."""
    config, began = experiment.config, time.perf_counter()
    state = jax.eval_shape(lambda: initial_progress(experiment, learner).state)
    count = jax.ShapeDtypeStruct((), jnp.int32)

    def compile_at(chunk: int) -> Any:
        step = train.make_step(
            learner,
            experiment.sampler,
            experiment.optimiser,
            label_accuracy if several(experiment.split) else accuracy,
            meta_batch=config.meta_batch,
            chunk=chunk,
            dispatch=config.dispatch,
            mesh=experiment.mesh,
            objective=experiment.objective,
        )
        return step.lower(state, experiment.split.pools["train"], count).compile()

    share = config.meta_batch // experiment.mesh.size
    most = config.chunk or parallel.default_chunk(share)
    chunks = [n for n in range(most, 0, -1) if share % n == 0] if config.chunk is None else [most]
    limit = parallel.memory_limit(experiment.mesh.local_devices[0])
    chunk, step = train.first_that_fits(compile_at, chunks, limit)
    return Compiled(step, chunk, time.perf_counter() - began)


def validation(
    experiment: Experiment, learner: MetaLearner, steps: int | None = None
) -> Callable[[Params], float]:
    """Mean accuracy (AUROC, of several labels) on the fixed meta-validation episodes.

    A learner with inner steps is told their number, since then the final evaluation, which
    varies it, is the same program.
    """

    def validate(params: Params) -> float:
        return evaluate(learner, params, experiment.val, steps=steps).headline.mean

    return validate


def train_run(
    experiment: Experiment,
    step: train.Step,
    run: Run,
    *,
    resume: bool = False,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> Iterator[train.Report]:
    """Train into a run directory: metrics at each dispatch, a checkpoint at each rest."""
    config = experiment.config
    checkpoints = Checkpoints(run.checkpoints)
    progress = initial_progress(experiment, experiment.training)
    try:
        if resume:
            at, progress = checkpoints.restore(progress)
            progress = parallel.replicate(progress, experiment.mesh)
            if processes.is_first():
                run.rewind(at)
        for report in train.fit(
            step,
            progress,
            experiment.split.pools["train"],
            steps=config.meta_steps,
            dispatch=config.dispatch,
            validate=validation(experiment, experiment.learner, config.hyper.get("steps")),
            validate_every=config.validate_every,
            patience=config.patience,
            told_to_stop=told_to_stop,
        ):
            if processes.is_first():
                run.log(record_of(report, config))
            if report.progress is not None:
                checkpoints.save(report.step, report.progress)
            yield report
    finally:
        checkpoints.close()


def record_of(report: train.Report, config: TrainConfig) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    steps = len(report.metrics.loss)
    return {
        "step": report.step,
        "loss": float(report.metrics.loss.mean()),
        "accuracy": float(report.metrics.score.mean()),
        "grad_norm": float(report.metrics.grad_norm.mean()),
        "valid_accuracy": report.valid,
        "episodes_per_s": steps * config.meta_batch / report.seconds,
    }


def restore_progress(experiment: Experiment, run: Run) -> train.Progress:
    """The progress that a run's latest checkpoint holds (CheckpointError)."""
    checkpoints = Checkpoints(run.checkpoints, read_only=True)
    try:
        like = initial_progress(experiment, experiment.training)
        progress: train.Progress = checkpoints.restore(like)[1]
        return parallel.replicate(progress, experiment.mesh)
    finally:
        checkpoints.close()


def task_of(
    experiment: Experiment, told_to_stop: Callable[[], bool] = lambda: False
) -> baselines.Task:
    """What the rows of this experiment's table are judged on and made from."""
    return baselines.Task(
        config=experiment.config,
        spec=experiment.spec,
        backbone=experiment.backbone,
        outputs=experiment.outputs,
        pool_classes=len(experiment.split.class_names),
        example_x=experiment.example_x,
        val=experiment.val,
        test=experiment.test,
        pretrain=functools.partial(pretrain, experiment, told_to_stop),
        given=by_labels(experiment.config, several(experiment.split)),
    )


def facts(experiment: Experiment, task: baselines.Task) -> dict[str, Any]:
    """What a task's episodes are, and what its meta-test side shares with what was trained on."""
    split = experiment.split
    return {
        **baselines.task_facts(task, split.about),
        "shared_groups": split.shared_groups,
        "shared_images": split.shared_images,
        "ungrouped": list(split.ungrouped) if task.spec.disjoint == "group" else [],
    }


def judge(
    experiment: Experiment, params: Params, told_to_stop: Callable[[], bool] = lambda: False
) -> Iterator[baselines.Row]:
    """The learner's row on the meta-test episodes, then the baselines', one at a time."""
    untrained = initial_progress(experiment, experiment.learner).state.params
    yield from baselines.rows(
        task_of(experiment, told_to_stop), experiment.learner, params, untrained
    )


def pretrain(
    experiment: Experiment, told_to_stop: Callable[[], bool], learner: MetaLearner
) -> Params:
    """Pre-train with the run's own sampler, optimiser, augmentation and budget of images.

    The best checkpoint is picked on meta-validation, as the learner's own is.
    """
    training = with_augmentation(experiment.config, learner)
    made = experiment._replace(learner=learner, training=training)
    step = compile_step(made, training).step
    return fit_quietly(made, step, told_to_stop=told_to_stop).best_params


def fit_quietly(
    experiment: Experiment,
    step: train.Step,
    *,
    meta_steps: int | None = None,
    inner_steps: int | None = None,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> train.Progress:
    """Train the experiment's learner without a run directory, for the configured meta-steps or
    so many; validate it at its own number of inner steps or at so many."""
    config = experiment.config
    progress = initial_progress(experiment, experiment.training)
    for report in train.fit(
        step,
        progress,
        experiment.split.pools["train"],
        steps=config.meta_steps if meta_steps is None else meta_steps,
        dispatch=config.dispatch,
        validate=validation(experiment, experiment.learner, inner_steps),
        validate_every=config.validate_every,
        told_to_stop=told_to_stop,
    ):
        progress = report.progress or progress
    return progress
