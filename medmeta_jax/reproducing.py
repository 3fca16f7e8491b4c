"""`medmeta reproduce RUN`: the run's configuration again, and whether it comes to the same.

The same seed on the same device with the same versions is the same to the last bit: the metrics of
every step, the best parameters, the score of every row on every episode. On another device, or with
another version of JAX, sums are taken in another order, and what differs is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from medmeta_jax import config as configs, console, learners, runs, verbs
from medmeta_jax.report import _loaded as loaded
from medmeta_jax.report._loaded import Loaded

OF_THE_MACHINE = {"episodes_per_s"}  # fields of a record that are never the same twice


def reproduce(folder: str, told_to_stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Train and judge a complete run again, in a new run directory, and compare.

    Returns {"ok", "differences", "run"}. Raises RunError where the run is not complete, and
    DataError where its data are no longer what they were.
    """
    before = loaded.read(folder)
    for line in elsewhere(before):
        console.say(f"caution    {line}")
    config = configs.load(None, str(before.run.config))
    found = verbs.train(config, resume=None, told_to_stop=told_to_stop, like=before.run)
    again = loaded.read(found["run"])
    differences = [*of_metrics(before, again), *of_scores(before, again), *of_params(before, again)]
    for line in differences:
        console.say(f"differs    {line}")
    if not differences:
        steps, rows = before.metrics[-1]["step"], len(before.scores)
        episodes = len(next(iter(before.scores.values()), ()))
        console.say(
            f"the same   to the last bit: {steps} steps, the best parameters, {rows} rows on "
            f"{episodes} episodes"
        )
    return {"ok": not differences, "differences": differences, "run": found["run"]}


def elsewhere(before: Loaded) -> Iterator[str]:
    """How the run was made otherwise than one is now."""
    then, now = before.environment, runs.environment()
    for name, version in then["versions"].items():
        if version != now["versions"].get(name):
            yield f"{name} was {version}, and is {now['versions'].get(name)}"
    for field in ("device_kind", "xla_flags", "git"):
        if then[field] != now[field]:
            yield f"{field} was {then[field]!r}, and is {now[field]!r}"


def of_metrics(before: Loaded, again: Loaded) -> Iterator[str]:
    """The first record whose numbers differ."""
    if len(before.metrics) != len(again.metrics):
        yield f"{len(before.metrics)} records of metrics, and {len(again.metrics)}"
    for one, other in zip(before.metrics, again.metrics, strict=False):
        for name in one.keys() - OF_THE_MACHINE:
            if one[name] != other.get(name):
                yield f"{name} at step {one['step']}: {one[name]!r}, and {other.get(name)!r}"
                return


def of_scores(before: Loaded, again: Loaded) -> Iterator[str]:
    """Of each row, on how many episodes its score differs, and its mean by how much."""
    for name in before.scores.keys() | again.scores.keys():
        one, other = before.scores.get(name), again.scores.get(name)
        if one is None or other is None or one.shape != other.shape:
            yield f"the row {name} is not in both, on as many episodes"
        elif (one != other).any():
            gap = 100 * (other.mean() - one.mean())
            yield f"{name} on {(one != other).sum()} of {len(one)} episodes, {gap:+.2f} points"


def of_params(before: Loaded, again: Loaded) -> Iterator[str]:
    """The first of the best parameters that differs, and by how much."""
    one, other = (learners.run_weights(run.run) for run in (before, again))
    if one.keys() != other.keys():
        yield f"parameters: {sorted(one.keys() ^ other.keys())[0]} is not in both"
        return
    for name in sorted(one):
        if not np.array_equal(one[name], other[name]):
            most = np.abs(one[name] - other[name]).max()
            yield f"parameters: {name} by up to {most:.3g}"
            return
