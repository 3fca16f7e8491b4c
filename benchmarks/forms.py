"""One training step in the forms it can take, timed in turns: `python -m benchmarks.forms`.

Second-order MAML, 5-way 1-shot, 15 queries a class, K = 5, Conv4 on 28 x 28 noise (the
arithmetic does not depend on what the pixels show). The first is what `medmeta train` uses
on a CPU; the others but "first order" compute the same meta-gradient in another form.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medmeta_jax import parallel
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.backbones.conv4 import conv4
from medmeta_jax.losses import accuracy
from medmeta_jax.train import init_state, make_step
from medmeta_jax.types import Episode, Examples

WAYS, QUERIES, SIZE, META_BATCH, STEPS = 5, 15, 28, 4, 2
FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "one device, all threads": {"devices": 1},
    "one device, 4 episodes side by side": {"devices": 1, "chunk": 4},
    "patches in place of Winograd": {"form": "patches"},
    "unrolled inner steps": {"loop": "unroll"},
    "reverse over reverse": {"order": "second"},
    "reverse over reverse, rematerialised": {"order": "second", "remat": True},
    "first order": {"order": "first"},
    "lax convolution": {"form": "lax"},
}


def sampler(key: jax.Array, pool: jax.Array) -> Episode:
    """Images of the pool at random, under fixed labels."""
    x = pool[jax.random.randint(key, (WAYS * (1 + QUERIES),), 0, pool.shape[0])]

    def side(images: jax.Array, per_class: int) -> Examples:
        y = jnp.repeat(jnp.arange(WAYS), per_class)
        return Examples(images, y, jnp.ones(y.shape, bool))

    return Episode(side(x[:WAYS], 1), side(x[WAYS:], QUERIES), jnp.arange(WAYS))


class Form:
    """One compiled form with its state."""

    def __init__(
        self, width: int, *, devices: int | None = None, chunk: int = 1, form: str = "auto",
        **inner: Any,
    ) -> None:  # fmt: skip
        count = devices or parallel.largest_share(META_BATCH, jax.device_count())
        mesh = parallel.task_mesh(jax.devices()[:count])
        learner = maml(conv4(width=width, norm="batch", form=form), outputs=WAYS, steps=5, **inner)
        optimiser = optax.adam(1e-3)
        self.pool = jax.random.normal(jax.random.key(1), (64, SIZE, SIZE, 1))
        example = jnp.zeros((WAYS, SIZE, SIZE, 1))
        self.state = init_state(learner, optimiser, jax.random.key(0), example)
        self.state, self.pool = parallel.replicate((self.state, self.pool), mesh)
        step = make_step(
            learner, sampler, optimiser, accuracy,
            meta_batch=META_BATCH, chunk=chunk, dispatch=STEPS, mesh=mesh,
        )  # fmt: skip
        self.count = np.asarray(STEPS, np.int32)
        began = time.perf_counter()
        self.step = step.lower(self.state, self.pool, self.count).compile()
        self.compile_s = time.perf_counter() - began
        self.temporary_mb = self.step.memory_analysis().temp_size_in_bytes / 2**20

    def time(self) -> float:
        """Episodes a second of one dispatch."""
        began = time.perf_counter()
        self.state, _ = self.step(self.state, self.pool, self.count)
        jax.block_until_ready(self.state.params)
        return META_BATCH * STEPS / (time.perf_counter() - began)


def measure(width: int, repeats: int) -> dict[str, Any]:
    """All forms, one dispatch each in turn, `repeats` times after a warm-up."""
    forms = {}
    for name, options in FORMS.items():
        print(f"compiling {name}", file=sys.stderr)
        forms[name] = Form(width, **options)
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats + 1):
        for name, form in forms.items():
            rate = form.time()
            if turn:
                rates[name].append(rate)
    return {
        "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}",
        "width": width,
        "rows": [
            {
                "name": name,
                "episodes_per_s": statistics.median(rates[name]),
                "range": [min(rates[name]), max(rates[name])],
                "compile_s": form.compile_s,
                "temporary_mb": form.temporary_mb,
            }
            for name, form in forms.items()
        ],
    }


def main() -> None:
    """Parse, measure, print a Markdown table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    parallel.use_cpu_devices(parallel.cores())
    found = measure(given.width, given.repeats)
    if given.json:
        print(json.dumps(found))
        return
    print(f"{found['machine']}; Conv4-{found['width']}\n")
    print("| form | episodes/s, median (range) | compile, s | temporaries, MB |\n|---|---|---|---|")
    for row in found["rows"]:
        low, high = row["range"]
        print(
            f"| {row['name']} | {row['episodes_per_s']:.1f} ({low:.1f} to {high:.1f}) "
            f"| {row['compile_s']:.1f} | {row['temporary_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
