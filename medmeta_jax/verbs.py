"""What each verb of the command line does. Each returns its `--json` object."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medmeta_jax import (
    config as configs,
    console,
    events,
    experiment as experiments,
    overlays,
    parallel,
    processes,
    running,
    runs,
    sheets,
    shots,
)
from medmeta_jax.checkpoint import SaveError
from medmeta_jax.data.anatomy import cache_folder
from medmeta_jax.data.samples import DataError
from medmeta_jax.data.splits import SIDES
from medmeta_jax.deploy.model import model_facts
from medmeta_jax.experiment import Experiment
from medmeta_jax.judging import RunFailed, Stop, evaluate_run, stop_if_told
from medmeta_jax.options import Eval
from medmeta_jax.runs import Run
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.train import NonFiniteError

# JAX's names; its own default on a GPU is tf32.
PRECISION = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}


def enable_compilation_cache() -> None:
    """Keep compiled programs, so that a second start is quick: in the user's cache folder, unless
    JAX was told of another (`JAX_COMPILATION_CACHE_DIR`)."""
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def train(
    config: TrainConfig,
    *,
    resume: str | None,
    told_to_stop: Stop,
    distributed: bool = False,
    like: Run | None = None,
) -> dict[str, Any]:
    """Train, evaluate, and leave a run directory; only on the data of the run `like`, if given.

    Of several processes, the first returns the summary, the others nothing.
    """
    enable_compilation_cache()
    if distributed or processes.launched() > 1:
        try:
            processes.join()
        except processes.JoinError as error:
            raise ConfigError(str(error)) from None
    if resume is not None:
        run = runs.existing(resume)
        if run.summary.exists():
            raise ConfigError(f"resume: {resume} is complete; start a new run to train further")
        config = configs.load(None, str(run.config))
    if config.tensorboard:
        events.require()
    began = time.perf_counter()
    experiment = build(config)
    seconds = {"data": time.perf_counter() - began}
    told_to_stop = processes.any_process(told_to_stop)
    console.Voice.muted = not processes.is_first()
    describe(experiment)
    if like is not None:
        check_same_data(experiment, like)
    if resume is None:
        run = new_run(experiment)
    else:
        check_same_data(experiment, run)
    console.say(f"run        {run.folder}")
    compiled = running.compile_step(experiment, experiment.training)
    seconds["compile"] = compiled.seconds
    console.say(f"compiled   in {compiled.seconds:.1f} s, {side_by_side(compiled.chunk)}")
    if resume is None and processes.is_first():
        keep_choices(run, experiment, compiled.chunk)
    began = time.perf_counter()
    train_loop(experiment, compiled.step, run, resume is not None, told_to_stop)
    seconds["train"] = time.perf_counter() - began
    progress = running.restore_progress(experiment, run)
    console.say(
        f"best       step {int(progress.best_step)}, "
        f"meta-validation {console.heading(experiment.kind.chosen_by)} "
        f"{100 * float(progress.best_score):.1f}"
    )
    return evaluate_run(experiment, run, progress.best_params, seconds, told_to_stop)


def new_run(experiment: Experiment) -> Run:
    """A new run directory, made by the first process and known to all."""
    config, folder = experiment.config, ""
    identity = experiments.identity(experiment)
    if processes.is_first():
        made = runs.create(f"{config.algorithm}-{Path(config.data).stem}", plain_config(config))
        runs.write_json(made.split, identity)
        runs.write_json(made.data, experiments.counts(experiment))
        runs.write_json(made.model, model_facts(experiment))
        if (page := sheets.of_data(experiment.split)) is not None:
            overlays.save(page, made.sheet)
        folder = str(made.folder)
    return Run(Path(processes.text_from_first(folder)))


def keep_choices(run: Run, experiment: Experiment, chunk: int) -> None:
    """Write down what the configuration left open or named elsewhere, so that a resumed run
    computes the same."""
    config = dataclasses.replace(experiment.config, chunk=chunk)
    try:
        if experiment.weights:
            np.savez(run.weights, **experiment.weights)  # type: ignore[arg-type]
            config = dataclasses.replace(config, init_from=str(run.weights.absolute()))
        runs.write_config(run, plain_config(config))
    except OSError as error:
        raise RunFailed(f"{run.config}: cannot be written ({error.strerror})") from None


def use_devices(config: TrainConfig) -> None:
    """Compute in the configured precision, on as many devices as are asked for; on a CPU by
    default one a core."""
    here = parallel.cores()
    if config.devices is not None:
        here = max(1, config.devices // processes.launched())
    jax.config.update("jax_default_matmul_precision", PRECISION[config.precision])
    # Where JAX runs already (a notebook, a test), there are the devices that it began with.
    with contextlib.suppress(RuntimeError):
        parallel.use_cpu_devices(here)


def build(config: TrainConfig) -> Experiment:
    """The experiment, on the devices that it asks for."""
    config = configs.check(config)
    use_devices(config)
    return experiments.build(config)


def plain_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration as a run keeps it: paths absolute, to be found from anywhere."""
    plain = configs.to_plain(config)
    for name in ("data", "meta_val", "meta_test", "split", "covariates", "init_from", "teacher"):
        plain[name] = absolute(plain[name])
    plain["also"] = [absolute(source) for source in plain["also"]]
    return plain


def absolute(source: str | None) -> str | None:
    """The path of a source that is one; its name where it is built in."""
    return str(Path(source).absolute()) if source and Path(source).exists() else source


def check_same_data(experiment: Experiment, run: Run) -> None:
    """Refuse to go on with, or judge, a run whose data are no longer what they were."""
    if not run.split.exists():
        raise DataError(f"{run.split}: missing; the run does not say which classes it trained on")
    before, now = (
        json.loads(run.split.read_text(encoding="utf-8")),
        experiments.identity(experiment),
    )
    for side, facts in before.items():
        if facts != now[side]:
            raise DataError(
                f"{experiment.config.data}: the meta-{side} images or classes are not those of "
                f"{run.folder}; bring the data back as they were, or start a new run"
            )


def describe(experiment: Experiment) -> None:
    """What is about to be trained, in a few lines."""
    split, spec = experiment.split, experiment.spec
    console.say(f"data       {split.about}")
    counts = ", ".join(
        f"meta-{side} {len(split.classes[side])} classes {len(split.pools[side].same)} images"
        for side in SIDES
    )
    console.say(f"split      {counts}; support and query share no {spec.disjoint}")
    if split.stored:
        ahead = experiment.feed.ahead / 2**20
        console.say(f"images     stay in their files; a device holds {ahead:.1f} MB twice")
    for one in split.skipped:
        console.say(f"left out   {one.reason}")
    if split.covariates:
        console.say(f"covariates {', '.join(split.covariates)} of each patient, as channels")
    if spec.within == "domain":
        console.say(f"episodes   each of one of {split.domains} domains")
    config = experiment.config
    net = {name: value for name, value in config.net.items() if value != ()}
    console.say(
        f"learner    {config.algorithm} {dict(config.hyper)} on {config.backbone} {net}, "
        f"norm {config.norm}"
    )
    if config.teacher is not None:
        console.say(f"teacher    {config.teacher}")
    if experiment.weights:
        console.say(f"start      {len(experiment.weights)} parameters from {config.init_from}")
    mesh = experiment.mesh
    console.say(
        f"devices    {mesh.size} x {mesh.devices.flat[0].device_kind}, "
        f"{config.meta_batch // mesh.size} episodes of a meta-step on each"
    )


def side_by_side(chunk: int) -> str:
    """How a device runs its episodes, in words."""
    return "one episode after another" if chunk == 1 else f"{chunk} episodes side by side"


def checkpoints_of(run: Run) -> list[int]:
    """The steps whose checkpoints are there, oldest first."""
    return sorted(int(path.name) for path in run.checkpoints.glob("*") if path.name.isdigit())


def train_loop(experiment: Experiment, step: Any, run: Run, resume: bool, stop: Stop) -> None:
    """Train with a bar on a terminal, and a line at each meta-validation."""
    config, main = experiment.config, experiment.kind.in_training
    reports = running.train_run(experiment, step, run, resume=resume, told_to_stop=stop)
    at = max(checkpoints_of(run), default=0) if resume else 0
    wanted = config.tensorboard and processes.is_first()
    try:
        with (
            console.bar("training", config.meta_steps) as advance,
            events.writer(run, after=at, wanted=wanted) as log,
        ):
            for report in reports:
                record = running.record_of(report, experiment)
                log(record)
                text = f"loss {record['loss']:.3f}  {record['episodes_per_s']:.0f} episodes/s"
                advance(report.step, text)
                if report.valid is not None:
                    console.say(
                        f"step {report.step:5d}  {text}  train {100 * record[main]:.1f}  "
                        f"meta-validation {100 * report.valid:.1f}"
                    )
    except NonFiniteError as error:
        steps = checkpoints_of(run)
        kept = f"the checkpoint of step {steps[-1]} is kept in {run.checkpoints}" if steps else ""
        raise RunFailed(
            f"{error}; {kept or 'there was no checkpoint yet'}. Lower outer_lr or hyper.inner_lr, "
            f"or set clip. Which episode it was: medmeta replay {run.folder} --step {error.step}"
        ) from None
    except OSError as error:
        raise RunFailed(f"{run.folder}: cannot be written ({error.strerror or error})") from None
    except SaveError as error:
        raise RunFailed(str(error)) from None
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise RunFailed(
            f"another process was lost ({str(error).splitlines()[0][:120]}); go on from the last "
            f"checkpoint with: train --resume {run.folder}, in as many processes"
        ) from None
    stop_if_told(stop, run)


def evaluate(given: Eval) -> dict[str, Any]:
    """Judge a run's best parameters again; at another number of shots or several, if given."""
    enable_compilation_cache()
    run = runs.existing(given.run)
    config = configs.load(None, str(run.config))
    changes: dict[str, Any] = {"baselines": given.baselines}
    if min(given.shots, default=1) < 1:
        raise ConfigError(f"shots: must be >= 1, got {min(given.shots)}")
    if len(given.shots) == 1:
        changes["shots"] = given.shots[0]
    if given.episodes is not None:
        changes["test_episodes"] = given.episodes
    # Scores depend neither on how episodes are spread nor on a teacher: take the devices that are
    # here, and do without the teacher's run.
    changes |= {"devices": None, "chunk": None, "teacher": None}
    began = time.perf_counter()
    experiment = build(configs.from_mapping(changes, config, "eval"))
    seconds = {"data": time.perf_counter() - began}
    describe(experiment)
    check_same_data(experiment, run)
    params = running.restore_progress(experiment, run).best_params
    if len(given.shots) > 1:
        return shots.judge(experiment, run, params, sorted(set(given.shots)))
    return evaluate_run(experiment, None, params, seconds)


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """Build and compile everything, and say what a step will cost, without training."""
    enable_compilation_cache()
    experiment = build(config)
    describe(experiment)
    compiled = running.compile_step(experiment, experiment.training)
    progress = running.initial_progress(experiment, experiment.training)
    cost = compiled.step.cost_analysis() or {}
    sizes = [leaf.size for leaf in jax.tree.leaves(progress.state.params)]
    found = {
        "parameters": int(sum(sizes)),
        "compile_seconds": round(compiled.seconds, 2),
        # On each device: data set, state and temporaries, by the compiler's account.
        "predicted_mb": round(
            (parallel.needed_bytes(compiled.step) + experiment.feed.ahead) / 2**20, 1
        ),
        # XLA counts the body of a loop once, whatever its length.
        "flops_counting_loops_once": cost.get("flops"),
        "devices": [str(device) for device in experiment.mesh.devices.flat],
        "episodes_side_by_side": compiled.chunk,
        "config": configs.to_plain(experiment.config),
    }
    for name in (
        "parameters", "devices", "episodes_side_by_side", "compile_seconds", "predicted_mb",
        "flops_counting_loops_once",
    ):  # fmt: skip
        console.say(f"{name:26s} {found[name]}")
    return found
