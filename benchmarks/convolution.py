"""One convolution of three taps an axis, in the forms of `ops/conv.py`, and in integers.

Run by `python -m benchmarks.convolution`.

Forward, on shapes of workloads A and B and of one image that is told, inside a loop, as training
runs it: buffers are warm there, and XLA leaves a convolution in a loop as it finds it.

"int8" is what an artefact with int8 activations does: images and kernel are brought to their grids
in the loop.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import jax

from benchmarks import machine
from medmeta_jax.ops.conv import Form, conv
from medmeta_jax.types import Array

SHAPES = {
    "A, query, block 2": (75, 14, 14, 64),
    "A, support, block 2": (5, 14, 14, 64),
    "B, support, block 2": (25, 42, 42, 32),
    "B, support, block 3": (25, 21, 21, 32),
    "one image, block 2": (1, 42, 42, 32),
    "3-D patch": (5, 16, 16, 16, 32),
}
FORMS: dict[int, tuple[Form, ...]] = {
    4: ("lax", "patches", "winograd", "int8"),
    5: ("lax", "patches", "int8"),
}


def milliseconds(form: Form, shape: tuple[int, ...], repeats: int) -> float:
    """The best of several runs of a loop of eight convolutions, for one of them."""
    x = jax.random.normal(jax.random.key(0), shape)
    taps = (3,) * (len(shape) - 2)
    kernel = jax.random.normal(jax.random.key(1), (*taps, shape[-1], shape[-1])) / shape[-1]
    count = 8

    @jax.jit
    def loop(x: Array) -> Array:
        return jax.lax.fori_loop(
            0, count, lambda i, c: 0.5 * c + 0.01 * conv(c, kernel, form=form), x
        )

    loop(x).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        loop(x).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 1e3 * best / count


def main() -> None:
    """Parse, measure, print a Markdown table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.convolution")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    rows = [
        {
            "name": name,
            "shape": list(shape),
            "ms": {form: milliseconds(form, shape, given.repeats) for form in FORMS[len(shape)]},
        }
        for name, shape in SHAPES.items()
    ]
    found: dict[str, Any] = {**machine.described(), "rows": rows}
    if given.json:
        print(json.dumps(found))
        return
    forms = FORMS[4]
    print(f"| ms | {' | '.join(forms)} |\n|---{'|---' * len(forms)}|")
    for row in found["rows"]:
        cells = " | ".join(f"{row['ms'][form]:.2f}" if form in row["ms"] else "-" for form in forms)
        print(f"| {row['name']}, {' x '.join(map(str, row['shape']))} | {cells} |")


if __name__ == "__main__":
    main()
