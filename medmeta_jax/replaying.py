"""`medmeta replay RUN --step N`: a meta-step again, by episode, and what is not finite in it.

Training goes on from the last checkpoint before the step, by the run's own program and its own
keys, so that on the same devices the parameters are those that the run had, to the last bit. Then
each episode of the step is looked at by itself: its images, its loss, its gradient, and the first
inner step after which its predictions are no longer numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import (
    config as configs,
    console,
    overlays,
    parallel,
    running,
    runs,
    sheets,
    train,
    verbs,
)
from medmeta_jax.checkpoint import Checkpoints
from medmeta_jax.experiment import Experiment
from medmeta_jax.judging import RunFailed
from medmeta_jax.meta_gradient import make_episode_loss, step_keys
from medmeta_jax.runs import Run
from medmeta_jax.settings import ConfigError
from medmeta_jax.train import NonFiniteError, Progress
from medmeta_jax.types import Episode, Examples
from medmeta_jax.weights import named


def replay(folder: str, step: int) -> dict[str, Any]:
    """Look at a meta-step's episodes; of those that are not finite, leave a picture.

    Args:
      step: counted from 0, as `NonFiniteError` counts.

    Returns {"ok", "step", "from_checkpoint", "parameters_not_finite", "episodes", "picture"};
    "ok" where all of it is finite. Raises ConfigError for a step that the run does not have.
    """
    verbs.enable_compilation_cache()
    run = runs.existing(folder)
    config = configs.load(None, str(run.config))
    if not 0 <= step < config.meta_steps:
        raise ConfigError(f"step: must be in 0 to {config.meta_steps - 1}, got {step}")
    # What is streamed is the same in memory, where one episode can be drawn by itself.
    experiment = verbs.build(dataclasses.replace(config, stream="never"))
    verbs.check_same_data(experiment, run)
    at, progress = state_before(experiment, run, step)
    lost = not_finite(progress.state.params)
    if lost:
        console.say(f"parameters not finite already: {', '.join(lost)}")
    found, pictured = [], []
    for place, (episode, facts) in enumerate(episodes_of(experiment, progress)):
        found.append({"episode": place, **facts})
        console.say(line_of(place, facts))
        if not facts["finite"]:
            pictured.append((place, episode))
    picture = save_pictures(experiment, run, step, pictured) if pictured else None
    if picture:
        console.say(f"pictures   {picture}")
    return {
        "ok": not lost and not pictured, "step": step, "from_checkpoint": at,
        "parameters_not_finite": lost, "episodes": found, "picture": picture,
    }  # fmt: skip


def state_before(experiment: Experiment, run: Run, step: int) -> tuple[int | None, Progress]:
    """The checkpoint that it went on from, None for the start, and the progress before a step."""
    progress, at = running.initial_progress(experiment, experiment.training), None
    if run.checkpoints.is_dir():
        checkpoints = Checkpoints(run.checkpoints, read_only=True)
        with contextlib.closing(checkpoints):
            before = [saved for saved in checkpoints.steps() if saved <= step]
            if before:
                at, progress = checkpoints.restore(progress, before[-1])
    start = f"the checkpoint of step {at}" if at is not None else "the initialisation"
    console.say(f"replaying  step {step}, from {start}")
    done = int(progress.state.step)
    if done == step:
        return at, progress
    compiled = running.compile_step(experiment, experiment.training).step
    progress = parallel.replicate(progress, experiment.mesh)
    try:
        for report in train.fit(
            compiled, progress, experiment.feed, steps=step, dispatch=experiment.config.dispatch
        ):
            progress = report.progress or progress
    except NonFiniteError as error:
        raise RunFailed(f"{error} already: replay that one") from None
    return at, progress


def not_finite(tree: Any) -> list[str]:
    """The names of the arrays that hold what is no finite number."""
    return [name for name, leaf in named(tree).items() if not np.isfinite(leaf).all()]


def episodes_of(
    experiment: Experiment, progress: Progress
) -> Iterator[tuple[Episode, dict[str, Any]]]:
    """Each episode of the next step, and what was found of it.

    The facts are "finite", "key" (what draws it, as raw uint32), "classes", "images_not_finite",
    "loss", "gradient_norm", "gradient_not_finite" (of which parameters) and "inner_step", the first
    after which its support adapts to what does not predict in numbers.
    """
    state, pool = progress.state, experiment.split.pools["train"]
    loss = make_episode_loss(experiment.training, experiment.sampler, experiment.kind.score)
    if experiment.through is not None:
        loss = experiment.through(loss)
    draw, predict = jax.jit(experiment.sampler), predictor(experiment)
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    names = experiment.split.class_names
    for key in step_keys(state.key, state.step, experiment.config.meta_batch):
        draw_key, learner_key = jax.random.split(key)  # as `make_episode_loss` does
        episode = draw(draw_key, pool)
        (value, _), grads = gradient(state.params, key, pool, state.step)
        facts: dict[str, Any] = {
            "key": jax.random.key_data(key).tolist(),
            "classes": [names[c] for c in np.asarray(episode.classes).tolist() if c >= 0],
            "images_not_finite": sum(map(spoilt, (episode.support, episode.query))),
            "loss": number(value),
            "gradient_norm": number(np.sqrt(sum((g**2).sum() for g in named(grads).values()))),
            "gradient_not_finite": not_finite(grads),
            "inner_step": first_lost(
                functools.partial(predict, state.params, episode, learner_key),
                experiment.config.hyper.get("steps"),
                np.asarray(episode.query.mask),
            ),
        }
        fine = facts["loss"] is not None and not facts["gradient_not_finite"]
        yield episode, {"finite": fine, **facts}


def spoilt(examples: Examples) -> int:
    """How many numbers of the images are not finite. A channel that is NaN throughout is a modality
    or a covariate that is missing, and is not one of them; nor is padding."""
    count = 0
    for leaf in jax.tree.leaves(examples.x):
        held = np.asarray(leaf)[np.asarray(examples.mask)]
        of_a_channel = tuple(range(1, held.ndim - 1))
        missing = np.isnan(held).all(of_a_channel, keepdims=True) & (held.shape[-1] > 1)
        count += int((~np.isfinite(held) & ~missing).sum())
    return count


def number(value: Any) -> float | None:
    """A number, None where it is none, which JSON has no word for."""
    return float(value) if np.isfinite(value) else None


def first_lost(predict: Callable[[Any], Any], steps: int | None, mask: np.ndarray) -> int | None:
    """The first number of inner steps after which predictions are not finite; None where they are
    after all of them. Without inner steps, 0 stands for adapting at all."""
    for count in range(1 if steps is None else steps + 1):
        told = np.asarray(predict(None if steps is None else jnp.asarray(count)))
        if not np.isfinite(told[mask]).all():
            return count
    return None


def predictor(experiment: Experiment) -> Callable[..., Any]:
    """(params, episode, key, steps) -> logits of the queries, by images as they are, without
    augmentation."""

    def logits(params: Any, episode: Episode, key: Any, steps: Any) -> Any:
        adapted = experiment.learner.adapt(params, episode.support, key, steps)
        return experiment.learner.predict(adapted, episode.query.x, episode.query.mask)

    return jax.jit(logits)


def line_of(place: int, facts: dict[str, Any]) -> str:
    """An episode in a line."""
    if facts["finite"]:
        return (
            f"episode {place:2d} loss {facts['loss']:.3f}, gradient {facts['gradient_norm']:.3g}, "
            f"of {', '.join(facts['classes'])}"
        )
    parts = [f"episode {place:2d} NOT FINITE, of {', '.join(facts['classes'])}"]
    if facts["images_not_finite"]:
        parts.append(f"{facts['images_not_finite']} numbers of its images")
    if facts["inner_step"] is not None:
        parts.append(f"its predictions after {facts['inner_step']} inner steps")
    if facts["loss"] is None:
        parts.append("its loss")
    if facts["gradient_not_finite"]:
        shown = facts["gradient_not_finite"][:3]
        more = len(facts["gradient_not_finite"]) - len(shown)
        parts.append(f"its gradient by {', '.join(shown)}" + (f" and {more} more" if more else ""))
    return "; ".join(parts)


def save_pictures(
    experiment: Experiment, run: Run, step: int, episodes: list[tuple[int, Episode]]
) -> str | None:
    """The images of some episodes, into the run; None where an image is no picture."""
    lines = [sheets.Line(f"step {step}: episodes that are not finite")]
    names = experiment.split.class_names
    for place, episode in episodes:
        for side in ("support", "query"):
            examples = getattr(episode, side)
            if not isinstance(examples.x, jax.Array) or examples.x.ndim != 4:
                return None
            held = np.flatnonzero(examples.mask)[: sheets.QUERIES]
            tiles = [sheets.Tile(as_picture(np.asarray(examples.x[slot]))) for slot in held]
            lines.append(sheets.Line(f"{place}: {side}", tiles))
        classes = [names[c] for c in np.asarray(episode.classes).tolist() if c >= 0]
        lines.append(sheets.Line(f"{place}: {', '.join(classes)}"))
    where: Path = run.plots / f"replay-{step}.png"
    where.parent.mkdir(exist_ok=True)
    overlays.save(sheets.page(lines), where)
    return str(where)


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image of any numbers from black to white, what is no number black."""
    known = image[np.isfinite(image)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    scaled = np.nan_to_num((image - low) / max(high - low, 1e-12), posinf=0, neginf=0)
    return (255 * scaled.clip(0, 1)).astype(np.uint8)
