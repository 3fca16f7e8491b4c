"""An experiment set going: compiled, trained into a run, validated, judged. Nothing here prints."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import baselines, parallel, processes, train, weights
from medmeta_jax.augment._policy import magnitudes, shares
from medmeta_jax.checkpoint import Checkpoints
from medmeta_jax.evaluation import evaluate
from medmeta_jax.experiment import Experiment
from medmeta_jax.learners import policy_ops, with_augmentation
from medmeta_jax.runs import Run
from medmeta_jax.types import MetaLearner, Params


def initial_progress(experiment: Experiment, learner: MetaLearner) -> train.Progress:
    """Training before its first step, from the configured seed."""
    key = jax.random.key(experiment.config.seed)
    mixing, objective = experiment.split.pools["train"].mixing, experiment.objective
    carried = () if objective is None else objective.init(mixing)
    state = train.init_state(learner, experiment.optimiser, key, experiment.example_x, carried)
    if experiment.weights:
        state = state._replace(params=weights.put(state.params, experiment.weights))
    return jax.jit(train.start, out_shardings=parallel.everywhere(experiment.mesh))(state)


def make_step(experiment: Experiment, learner: MetaLearner, chunk: int) -> train.Step:
    """The training step of a learner as the experiment takes it, so many episodes side by side."""
    return train.make_step(
        learner,
        experiment.sampler,
        experiment.optimiser,
        experiment.kind.score,
        meta_batch=experiment.config.meta_batch,
        chunk=chunk,
        dispatch=experiment.config.dispatch,
        mesh=experiment.mesh,
        objective=experiment.objective,
        through=experiment.through,
        held=experiment.feed.held,
    )


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
        step = make_step(experiment, learner, chunk)
        return step.lower(state, experiment.feed.like, count).compile()

    share = config.meta_batch // experiment.mesh.size
    most = config.chunk or parallel.default_chunk(share)
    chunks = [n for n in range(most, 0, -1) if share % n == 0] if config.chunk is None else [most]
    limit = parallel.memory_limit(experiment.mesh.local_devices[0])
    limit = limit and limit - experiment.feed.ahead
    chunk, step = train.first_that_fits(compile_at, chunks, limit)
    return Compiled(step, chunk, time.perf_counter() - began)


def validation(
    experiment: Experiment, learner: MetaLearner, steps: int | None = None
) -> Callable[[Params], float]:
    """The mean of `Kind.chosen_by` on the fixed meta-validation episodes.

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
    """Train into a run directory: metrics at each dispatch, a checkpoint at each rest.

    >>> from medmeta_jax.experiment import build
    >>> from medmeta_jax.settings import TrainConfig
    >>> small = {"image_size": 12, "net": {"width": 2, "depth": 1}, "augment": ()}
    >>> few = {"meta_steps": 2, "val_episodes": 2, "test_episodes": 2, "baselines": "none"}
    >>> made = build(TrainConfig(algorithm="protonet", **small, **few))
    >>> import tempfile
    >>> from pathlib import Path
    >>> step = compile_step(made, made.training).step
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [report.step for report in train_run(made, step, Run(Path(folder)))]
    [2]
    """
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
            experiment.feed,
            steps=config.meta_steps,
            dispatch=config.dispatch,
            validate=validation(experiment, experiment.learner, config.hyper.get("steps")),
            validate_every=config.validate_every,
            patience=config.patience,
            told_to_stop=told_to_stop,
        ):
            if processes.is_first():
                run.log(record_of(report, experiment))
            if report.progress is not None:
                checkpoints.save(report.step, report.progress)
            yield report
    finally:
        checkpoints.close()


def record_of(report: train.Report, experiment: Experiment) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    steps, kind = len(report.metrics.loss), experiment.kind
    learned = {}
    if experiment.config.policy and report.progress is not None:
        learned = {"policy": by_policy(experiment, report.progress.state.params)}
    return {
        "step": report.step,
        "loss": float(report.metrics.loss.mean()),
        kind.in_training: float(report.metrics.score.mean()),
        "grad_norm": float(report.metrics.grad_norm.mean()),
        f"valid_{kind.chosen_by}": report.valid,
        "episodes_per_s": steps * experiment.config.meta_batch / report.seconds,
        **learned,
    }


def by_policy(experiment: Experiment, params: Params) -> dict[str, Any]:
    """A learned augmentation: "share", how often each op is drawn, and "none", and "magnitude", of
    each op, with its "default"; of one by step, of "noise 1", "noise 2" and so on. Empty where none
    was learned."""
    if not experiment.config.policy:
        return {}
    ops, policy = policy_ops(experiment.config), params["policy"]
    sizes = magnitudes(policy, ops)
    defaults = {name: np.full(np.shape(size), ops[name].default) for name, size in sizes.items()}
    of: dict[str, dict[str, Any]] = {
        "share": shares(policy), "magnitude": sizes, "default": defaults,
    }  # fmt: skip
    return {part: each_number(found) for part, found in of.items()}


def each_number(found: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name, those of a list by name and place from 1.

    >>> each_number({"flip": np.asarray(0.5), "noise": np.asarray([1, 2])})
    {'flip': 0.5, 'noise 1': 1.0, 'noise 2': 2.0}
    """
    return {
        f"{name} {place}" if np.ndim(array) else name: float(number)
        for name, array in found.items()
        for place, number in enumerate(np.ravel(array), 1)
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
        kind=experiment.kind,
        patients=experiment.split.patients,
    )


def facts(experiment: Experiment, task: baselines.Task) -> dict[str, Any]:
    """What a task's episodes are, and what its meta-test side shares with what was trained on."""
    split = experiment.split
    return {
        **baselines.task_facts(task, split.about),
        "shared_groups": split.shared_groups,
        "copies": split.copies,
        "standardised": split.standardised,
        "ungrouped": list(split.ungrouped) if task.spec.disjoint == "group" else [],
        "skipped": [one.name for one in split.skipped],
    }


def judge(
    experiment: Experiment, params: Params, told_to_stop: Callable[[], bool] = lambda: False
) -> Iterator[baselines.Row]:
    """The learner's row on the meta-test episodes, then the baselines', one at a time.

    >>> from medmeta_jax.experiment import build
    >>> from medmeta_jax.settings import TrainConfig
    >>> small = {"image_size": 12, "net": {"width": 2, "depth": 1}, "augment": ()}
    >>> few = {"meta_steps": 2, "val_episodes": 2, "test_episodes": 2, "baselines": "none"}
    >>> made = build(TrainConfig(algorithm="protonet", **small, **few))
    >>> params = initial_progress(made, made.learner).state.params
    >>> [row.learner for row in judge(made, params)]
    ['protonet']
    """
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
    training = with_augmentation(experiment.config, experiment.split, learner)
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
        experiment.feed,
        steps=config.meta_steps if meta_steps is None else meta_steps,
        dispatch=config.dispatch,
        validate=validation(experiment, experiment.learner, inner_steps),
        validate_every=config.validate_every,
        told_to_stop=told_to_stop,
    ):
        progress = report.progress or progress
    return progress
