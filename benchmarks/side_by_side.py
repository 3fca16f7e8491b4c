"""MAML here and MAML in PyTorch, trained alike: `python -m benchmarks.side_by_side --data PATH`.

From the same initial weights, on the same episodes in the same order, with the same inner
steps, optimiser, schedule and clipping, each by its own code; judged at their last step on the
same meta-test episodes. What is compared is what they have learnt, not how quickly. They part by
rounding, which training amplifies: hence several seeds. Norm "batch", which is PyTorch's own.
Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import machine
from benchmarks.machine import say
from benchmarks.torch_baselines import Loop, Task, in_torch_order
from benchmarks.workloads import Arrays, Workload
from medmeta_jax import config as configs, experiment as experiments, parallel, running, train
from medmeta_jax.evaluation import evaluate, sample_key
from medmeta_jax.experiment import Experiment
from medmeta_jax.losses import accuracy
from medmeta_jax.meta_gradient import make_episode_loss, of_the_mean
from medmeta_jax.metrics.intervals import over_episodes, paired_difference
from medmeta_jax.types import Episode, Examples
from medmeta_jax.weights import named

EPISODES_AT_ONCE = 25
GRADIENTS = 5  # of the first meta-steps, held against float64
FIRST_STEP_TOLERANCE = 1e-6  # of the first loss in float64


def build(given: argparse.Namespace) -> Experiment:
    """The experiment of the options: the preset for Omniglot, with norm "batch"."""
    base = configs.load("omniglot", None)
    config = dataclasses.replace(
        base, data=given.data, norm="batch", shots=given.shots, meta_steps=given.meta_steps,
        test_episodes=given.test_episodes, dispatch=1,
    )  # fmt: skip
    return experiments.build(configs.check(config))


def workload(experiment: Experiment) -> Workload:
    """The experiment in the terms of the PyTorch loop."""
    config = experiment.config
    size, channels = experiment.example_x.shape[-2:]
    return Workload(
        about="side by side", network="conv4", method="second", size=size, channels=channels,
        widths=(config.net["width"],) * config.net["depth"], ways=experiment.outputs,
        shots=config.shots, queries=config.queries, steps=config.hyper["steps"],
        inner_lr=config.hyper["inner_lr"], meta_batch=config.meta_batch,
    )  # fmt: skip


def to_arrays(episodes: Episode) -> Arrays:
    """Stacked episodes as the PyTorch loop takes them; refused where there is padding."""
    support, query = jax.tree.map(np.asarray, (episodes.support, episodes.query))
    if not (support.mask.all() and query.mask.all()):
        raise SystemExit("a class has too few images for these shots and queries")
    return Arrays(support.x, support.y, query.x, query.y)


def drawer(experiment: Experiment) -> Callable[[Any, int], Arrays]:
    """(key, step) -> the episodes of a meta-step, drawn with the keys of `train.make_step`."""
    draw = jax.jit(jax.vmap(experiment.sampler, (0, None)))
    count = experiment.config.meta_batch

    def episodes(key: Any, step: int) -> Arrays:
        keys = jax.random.split(jax.random.fold_in(key, step), count)
        return to_arrays(draw(jax.vmap(sample_key)(keys), experiment.split.pools["train"]))

    return episodes


def train_here(experiment: Experiment, step: Any) -> tuple[Any, list[float]]:
    """The parameters after the last step, and the loss of every step."""
    progress = running.initial_progress(experiment, experiment.training)
    losses: list[float] = []
    for report in train.fit(
        step, progress, experiment.split.pools["train"], steps=experiment.config.meta_steps
    ):
        losses += report.metrics.loss.tolist()
        progress = report.progress or progress
    return progress.state.params, losses


def train_torch(experiment: Experiment) -> tuple[Loop, list[float]]:
    """The PyTorch loop after the last step, and the loss of every step."""
    config, state = experiment.config, running.initial_progress(experiment, experiment.training)
    draw, key, work = drawer(experiment), state.state.key, workload(experiment)
    loop = Loop(Task(work, draw(key, 0), named(state.state.params), channels_last=False))
    leaves = list(loop.leaves.values())
    adam = torch.optim.Adam(leaves, lr=config.outer_lr)
    losses: list[float] = []
    for step in range(config.meta_steps):
        loop.task.hold(draw(key, step))
        loss, grads = loop.meta_gradient(list(range(config.meta_batch)))
        losses.append(loss)
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad * min(1.0, config.clip / norm)
        adam.param_groups[0]["lr"] = config.outer_lr * 0.5 * (
            1 + math.cos(math.pi * step / config.meta_steps)
        )  # fmt: skip
        adam.step()
    return loop, losses


def in_double(arrays: Arrays) -> Arrays:
    """Images in float64; labels as they are."""
    return Arrays(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays))


class Pair(NamedTuple):
    """The meta-gradient of the first meta-steps: here, and in PyTorch by dtype, with its loss."""

    here: Callable[[int], np.ndarray]
    torch: Callable[[int, Any], tuple[float, np.ndarray]]


def first_gradients(experiment: Experiment) -> Pair:
    """Both from the initial weights, on the episodes of a step."""
    state = running.initial_progress(experiment, experiment.training).state
    draw, work, start = drawer(experiment), workload(experiment), named(state.params)
    episode_loss = make_episode_loss(experiment.training, experiment.sampler, accuracy)
    ours = jax.jit(of_the_mean(episode_loss, 1, None))
    count, pool = experiment.config.meta_batch, experiment.split.pools["train"]

    def here(step: int) -> np.ndarray:
        keys = jax.random.split(jax.random.fold_in(state.key, step), count)
        gradient = ours(state.params, (), pool, keys, state.step)[0]
        return flat(in_torch_order(named(gradient)))

    def in_torch(step: int, dtype: Any) -> tuple[float, np.ndarray]:
        arrays = draw(state.key, step)
        cast = in_double(arrays) if dtype == np.float64 else arrays
        first = {name: value.astype(dtype) for name, value in start.items()}
        loop = Loop(Task(work, cast, first, channels_last=False))
        loss, grads = loop.meta_gradient(list(range(count)))
        return loss, flat({n: g.numpy() for n, g in zip(loop.leaves, grads, strict=True)})

    return Pair(here, in_torch)


def require_the_same(experiment: Experiment) -> None:
    """SystemExit where the loss of the first meta-step is not PyTorch's, both in float64: in
    float32 the inner steps amplify rounding within one meta-step, here as there."""
    state = running.initial_progress(experiment, experiment.training).state
    arrays = in_double(drawer(experiment)(state.key, 0))
    exact = first_gradients(experiment).torch(0, np.float64)[0]
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), state.params)

        def loss(x_s: Any, y_s: Any, x_q: Any, y_q: Any) -> Any:
            sides = (Examples(x, y, jnp.ones(len(y), bool)) for x, y in ((x_s, y_s), (x_q, y_q)))
            classes = jnp.arange(experiment.outputs)
            episode = Episode(*sides, classes, jnp.asarray(0))
            return experiment.learner.loss(params, episode, jax.random.key(0), jnp.asarray(0))[0]

        ours = float(jax.jit(jax.vmap(loss))(*map(jnp.asarray, arrays)).mean())
    gap = abs(ours - exact) / exact
    if gap > FIRST_STEP_TOLERANCE:
        raise SystemExit(f"the first meta-step differs by {gap:.1e}: not the same training")


def gradient_errors(experiment: Experiment) -> dict[str, list[float]]:
    """Relative error of the first meta-gradients in float32 against PyTorch's in float64."""
    pair = first_gradients(experiment)
    found: dict[str, list[float]] = {"medmeta_jax": [], "torch": []}
    for step in range(GRADIENTS):
        exact = pair.torch(step, np.float64)[1]
        each = {"medmeta_jax": pair.here(step), "torch": pair.torch(step, np.float32)[1]}
        for name, gradient in each.items():
            error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
            found[name].append(float(error))
    return found


def flat(gradient: dict[str, np.ndarray]) -> np.ndarray:
    """All of a gradient in one vector, by name."""
    return np.concatenate([gradient[name].ravel() for name in sorted(gradient)])


def judge_torch(experiment: Experiment, loop: Loop) -> np.ndarray:
    """Accuracy on each meta-test episode."""
    draw = jax.jit(jax.vmap(experiment.test.sampler, (0, None)))
    keys, found = jax.vmap(sample_key)(experiment.test.keys), []
    for first in range(0, len(keys), EPISODES_AT_ONCE):
        loop.task.hold(
            to_arrays(draw(keys[first : first + EPISODES_AT_ONCE], experiment.test.pool))
        )
        for i in range(len(loop.task.support_x)):
            x_s, y_s, x_q, y_q = loop.task.episode(i)
            params = loop.adapted(x_s, y_s, second=False)
            with torch.no_grad():
                hits = loop.task.logits(params, x_q).argmax(1) == y_q
            found.append(float(hits.float().mean()))
    return np.asarray(found)


class Seed(NamedTuple):
    """Both accuracies [E] of a seed, and the first step at which their losses are 1% apart."""

    ours: np.ndarray
    theirs: np.ndarray
    apart: int | None


def train_both(experiment: Experiment, step: Any) -> Seed:
    """Train and judge both with the configured seed."""
    seed, began = experiment.config.seed, time.perf_counter()
    params, losses = train_here(experiment, step)
    steps = experiment.config.hyper["steps"]
    ours = evaluate(experiment.learner, params, experiment.test, steps=steps)
    ours = ours.per_episode["accuracy"]
    say(f"seed {seed}: medmeta_jax {100 * ours.mean():.2f}, {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    loop, other = train_torch(experiment)
    theirs = judge_torch(experiment, loop)
    # The first step at which rounding has moved the loss by a hundredth of itself.
    gaps = np.abs(np.subtract(losses, other)) / np.abs(losses)
    apart = int(np.argmax(gaps > 0.01)) if (gaps > 0.01).any() else None
    say(f"seed {seed}: PyTorch {100 * theirs.mean():.2f}, "
        f"{time.perf_counter() - began:.0f} s; apart by 1% at step {apart}")  # fmt: skip
    return Seed(ours, theirs, apart)


def kept(path: Path, experiment: Experiment, step: Any) -> Seed:
    """A seed's result, from a file where it is there, since it takes a quarter of an hour."""
    if path.exists():
        say(f"seed {experiment.config.seed}: from {path}")
        with np.load(path, allow_pickle=False) as file:
            apart = int(file["apart"])
            return Seed(file["ours"], file["theirs"], None if apart < 0 else apart)
    found = train_both(experiment, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    apart = -1 if found.apart is None else found.apart
    np.savez(path, ours=found.ours, theirs=found.theirs, apart=apart)
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Train and judge both with each seed."""
    built = build(given)
    step = running.compile_step(built, built.training).step
    of_seed = [
        built._replace(config=dataclasses.replace(built.config, seed=seed))
        for seed in range(given.seeds)
    ]
    for experiment in of_seed:
        require_the_same(experiment)
    facts = running.facts(built, running.task_of(built))
    named_by = f"{facts['episodes_hash']}-{given.meta_steps}"
    seeds = [
        kept(given.out / f"side_by_side-{named_by}-seed{place}.npz", experiment, step)
        for place, experiment in enumerate(of_seed)
    ]
    ours, theirs, apart = map(list, zip(*seeds, strict=True))
    gap = paired_difference(np.mean(ours, 0), np.mean(theirs, 0))
    return {
        **machine.described(),
        **{name: facts[name] for name in ("ways", "shots", "queries", "episodes", "episodes_hash")},
        "meta_steps": built.config.meta_steps,
        "meta_batch": built.config.meta_batch,
        "seeds": [row(a, b, at) for a, b, at in zip(ours, theirs, apart, strict=True)],
        "difference": gap._asdict(),
        "difference_over_seeds": over_seeds(ours, theirs),
        "gradient_error": gradient_errors(built),
    }


def over_seeds(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, float] | None:
    """The mean difference with its interval over seeds, where there are several."""
    gaps = np.asarray([a.mean() - b.mean() for a, b in zip(ours, theirs, strict=True)])
    return over_episodes(gaps)._asdict() if len(gaps) > 1 else None


def row(ours: np.ndarray, theirs: np.ndarray, apart: int | None) -> dict[str, Any]:
    """A seed's accuracies and their paired difference."""
    return {
        "medmeta_jax": over_episodes(ours)._asdict(),
        "torch": over_episodes(theirs)._asdict(),
        "difference": paired_difference(ours, theirs)._asdict(),
        "apart_at_step": apart,
    }


def cell(estimate: dict[str, float]) -> str:
    """Per cent, to a hundredth, since the two are close."""
    return f"{100 * estimate['mean']:.2f} ± {100 * estimate['ci95']:.2f}"


def table(found: dict[str, Any]) -> str:
    """A row a seed, and the mean."""
    lines = [
        f"{found['ways']}-way {found['shots']}-shot, {found['meta_steps']} meta-steps of "
        f"{found['meta_batch']} episodes, {found['episodes']} meta-test episodes "
        f"{found['episodes_hash']}",
        "",
        "| seed | medmeta_jax | PyTorch | difference | 1% apart at step |",
        "|---|---|---|---|---|",
    ]
    for seed, of in enumerate(found["seeds"]):
        lines.append(
            f"| {seed} | {cell(of['medmeta_jax'])} | {cell(of['torch'])} "
            f"| {cell(of['difference'])} | {of['apart_at_step']} |"
        )
    lines.append(f"| mean, interval over episodes | | | {cell(found['difference'])} | |")
    if found["difference_over_seeds"]:
        lines.append(f"| over seeds | | | {cell(found['difference_over_seeds'])} | |")
    errors = {
        name: ", ".join(f"{error:.0e}" for error in each)
        for name, each in found["gradient_error"].items()
    }
    lines += [
        "",
        "Relative error of the first meta-gradients in float32, against float64: "
        f"medmeta_jax {errors['medmeta_jax']}; PyTorch {errors['torch']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse, train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.side_by_side")
    parser.add_argument("--data", required=True, help="omniglot28.npz, or another data set")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--meta-steps", type=int, default=600)
    parser.add_argument("--test-episodes", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder of the seeds that are done, which are not trained again",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    torch.set_num_threads(machine.THREADS)
    parallel.use_cpu_devices(machine.THREADS)
    found = measure(given)
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
