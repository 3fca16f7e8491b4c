"""`medmeta compress RUN`: a run of a smaller network, taught by the whole one.

Channels are scored (`compress/scores.py`), the best ones kept in one proportion of all widths, as
many as a share of the operations of telling an image allows, and the rest taken out for good
(`compress/slicing.py`). What is left is trained on, drawn to the whole network's answers
(`compress/distil.py`), and judged on the episodes that the whole was judged on. It is an ordinary
training run with `net.widths`, `init_from` and `teacher` set, and is resumed as one.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import config as configs, console, learners, running, runs, verbs
from medmeta_jax.compress import scores
from medmeta_jax.compress.channels import Channels, channels_of, widths_of
from medmeta_jax.compress.slicing import best, fewer, flops, sliced
from medmeta_jax.experiment import Experiment
from medmeta_jax.options import Compress
from medmeta_jax.report import _loaded as loaded
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Params
from medmeta_jax.weights import name_of, named

MARGIN = 0.01  # of the score that rows are compared by: less is not inferior
EPISODES = 50  # that sensitivity is measured on


def compress(given: Compress, told_to_stop: Callable[[], bool]) -> dict[str, Any]:
    """Score, slice, train on and judge.

    Returns the new run's summary with "compression": widths, parameters and MFLOP of telling an
    image, before and after, and the score less that of the whole, paired by episode. Raises
    RunError where the run is not complete, and ConfigError where its network cannot be made
    smaller.
    """
    if not 0 < given.share < 1:
        raise ConfigError(f"share: must be > 0 and < 1, got {given.share:g}")
    if given.steps is not None and given.steps < 1:
        raise ConfigError(f"steps: must be >= 1, got {given.steps}")
    verbs.enable_compilation_cache()
    whole = loaded.read(given.run)
    config = configs.load(None, str(whole.run.config))
    made = verbs.build(dataclasses.replace(config, devices=None, chunk=None, teacher=None))
    verbs.check_same_data(made, whole.run)
    params = running.restore_progress(made, whole.run).best_params
    channels = channels_in(made, params)
    widths = widths_for(made, params, given.share)
    smaller = with_widths(made, widths)
    like = jax.eval_shape(smaller.learner.init, jax.random.key(0), made.example_x)
    kept = best(channels, scored(made, params, channels, given), widths)
    try:
        start = sliced(params, channels, kept, like)
    except ValueError as error:
        raise ConfigError(f"algorithm: {config.algorithm}: {error}") from None
    about: dict[str, Any] = {
        "of": str(whole.run.folder.absolute()), "share": given.share, "by": given.by,
        "widths": [list(widths_in(made, params)), list(widths)],
        "parameters": [count(params), count(start)],
        "mflops": [telling_flops(made) / 1e6, telling_flops(smaller) / 1e6],
    }  # fmt: skip
    console.say(f"taken out  {in_words(about)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "start.npz"
        np.savez(path, **named(start))  # type: ignore[arg-type]
        asked = of_smaller(config, widths, path, about["of"], given.steps)
        found = verbs.train(asked, resume=None, told_to_stop=told_to_stop, like=whole.run)
    return {**found, "compression": compared(about, whole, found["run"])}


def of_smaller(
    config: TrainConfig, widths: tuple[int, ...], start: Path, teacher: str, steps: int | None
) -> TrainConfig:
    """What the smaller network is trained by."""
    return dataclasses.replace(
        config,
        net={**config.net, "widths": widths},
        init_from=str(start),
        teacher=teacher,
        meta_steps=max(1, config.meta_steps // 2) if steps is None else steps,
        baselines="none",
        devices=None,
        chunk=None,
    )


def widths_in(made: Experiment, params: Params) -> tuple[int, ...]:
    """The widths of an experiment's backbone (ConfigError where it has none to make smaller)."""
    shapes = {name_of(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
    try:
        return widths_of(made.config.backbone, shapes)
    except ValueError as error:
        raise ConfigError(f"backbone: {error}") from None


def channels_in(made: Experiment, params: Params) -> list[Channels]:
    """The channels of an experiment's backbone (ConfigError where they cannot be taken out)."""
    config, widths = made.config, widths_in(made, params)
    if config.policy or config.mix != "none":
        other = "policy" if config.policy else "mix"
        raise ConfigError(f"{other}: a network that was trained with it cannot be made smaller")
    net = {name: value for name, value in config.net.items() if name != "widths"}
    try:
        return channels_of(config.backbone, widths, config.norm, **net)
    except ValueError as error:
        raise ConfigError(f"norm: {error}") from None


def with_widths(made: Experiment, widths: tuple[int, ...]) -> Experiment:
    """An experiment with a network of other widths."""
    config = dataclasses.replace(made.config, net={**made.config.net, "widths": widths})
    backbone = learners.make_backbone(config)
    classes = len(made.split.class_names)
    learner = learners.make_learner(config, backbone, made.outputs, classes, made.kind)
    training = learners.as_trained(config, made.split, made.kind, learner)
    return made._replace(config=config, backbone=backbone, learner=learner, training=training)


def telling_flops(made: Experiment) -> float:
    """Of the compiled program that tells one image."""
    key, x = jax.random.key(0), made.example_x[:1]
    episode = jax.eval_shape(lambda key: made.sampler(key, made.feed.like), key)
    params = jax.eval_shape(made.learner.init, key, x)
    adapted = jax.eval_shape(made.learner.adapt, params, episode.support, key)
    return flops(made.learner.predict, adapted, x, jnp.ones(1, bool))


def widths_for(made: Experiment, params: Params, share: float) -> tuple[int, ...]:
    """The largest widths in one proportion whose operations are at most a share of the whole's
    (ConfigError where there are none). More channels are never fewer operations."""
    whole, most = widths_in(made, params), share * telling_flops(made)
    low, high = 0, whole[0]  # the first is below, and the last above
    while high - low > 1:
        middle = (low + high) // 2
        tried = with_widths(made, fewer(whole, middle / whole[0]))
        low, high = (middle, high) if telling_flops(tried) <= most else (low, middle)
    if low == 0:
        raise ConfigError(f"share: a network of one channel has more than {share:g}")
    return fewer(whole, low / whole[0])


def scored(
    made: Experiment, params: Params, channels: list[Channels], given: Compress
) -> scores.Scores:
    """How much each channel is worth, as asked for."""
    key = jax.random.key(given.seed)
    if given.by == "magnitude":
        return scores.magnitude(params, channels)
    if given.by == "random":
        return scores.random(key, channels)
    pool = made.split.pools["train"]
    return scores.sensitivity(
        made.learner, params, channels, lambda key: made.sampler(key, pool), key, episodes=EPISODES
    )


def count(params: Params) -> int:
    """How many numbers parameters hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def in_words(about: dict[str, Any]) -> str:
    """What became smaller, in a line."""
    before, after = (", ".join(map(str, widths)) for widths in about["widths"])
    shares = [f"{100 * about[name][1] / about[name][0]:.0f}%" for name in ("mflops", "parameters")]
    return (
        f"widths {before} -> {after}: {shares[0]} of the operations of telling an image, "
        f"{shares[1]} of the parameters"
    )


def compared(about: dict[str, Any], whole: loaded.Loaded, folder: str) -> dict[str, Any]:
    """The compression with what it costs, said, and kept in the new run."""
    small = loaded.read(folder)
    gap = loaded.difference(small, whole)
    about |= {"minus_whole": gap, "margin": MARGIN}
    if gap is not None:
        about["not_inferior"] = gap["mean"] - gap["ci95"] > -MARGIN
        words = "not inferior" if about["not_inferior"] else "not shown to be not inferior"
        points = f"{100 * gap['mean']:+.1f} ± {100 * gap['ci95']:.1f}"
        console.say(
            f"compared   {points} points of {small.main} to the whole: {words} by "
            f"{100 * MARGIN:g} point"
        )
    runs.write_json(small.run.compression, about)
    return about
