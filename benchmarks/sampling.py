"""What drawing episodes costs inside a training step: `python -m benchmarks.sampling`.

The step of `medmeta train` on the built-in data, and beside it, in turns, its episodes alone:
drawn, gathered and scaled from the pool as in the step, without augmentation or learner.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import jax
import numpy as np

from benchmarks import machine, report
from medmeta_jax import config as configs, parallel, running, verbs


def measure(repeats: int) -> dict[str, Any]:
    """Seconds of a step, and of drawing its episodes on as many devices."""
    experiment = verbs.build(configs.load(configs.DEFAULT_PRESET, None))
    config, mesh = experiment.config, experiment.mesh
    step = running.compile_step(experiment, experiment.training).step
    state = running.initial_progress(experiment, experiment.training).state
    pool, count = experiment.split.pools["train"], np.asarray(config.dispatch, np.int32)

    def draw(keys: Any, pool: Any) -> Any:
        return jax.lax.map(lambda key: experiment.sampler(key, pool), keys)

    spread = parallel.spread(
        draw, mesh, (parallel.BY_TASK, parallel.EVERYWHERE), parallel.BY_TASK
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), config.dispatch * config.meta_batch)
    alone = jax.jit(spread, compiler_options=parallel.compiler_options(mesh))
    seconds: dict[str, list[float]] = {"step": [], "sampling": []}
    for turn in range(repeats + 1):
        began = time.perf_counter()
        state, metrics = step(state, pool, count)
        jax.block_until_ready((state, metrics))
        middle = time.perf_counter()
        jax.block_until_ready(alone(keys, pool))
        if turn:
            seconds["step"].append((middle - began) / config.dispatch)
            seconds["sampling"].append((time.perf_counter() - middle) / config.dispatch)
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    return {
        **machine.described(),
        "step_ms": milliseconds["step"],
        "sampling_ms": milliseconds["sampling"],
        "share": milliseconds["sampling"] / milliseconds["step"],
    }


def main() -> None:
    """Parse, measure, print a line or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.sampling")
    parser.add_argument("--repeats", type=int, default=5, help="timed dispatches")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    found = measure(given.repeats)
    if given.json:
        print(json.dumps(found))
        return
    print(
        f"{report.heading(found)}\nA step takes {found['step_ms']:.1f} ms, drawing its episodes "
        f"{found['sampling_ms']:.2f} ms: {100 * found['share']:.1f}%."
    )


if __name__ == "__main__":
    main()
