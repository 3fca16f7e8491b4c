"""One training step in the forms it can take, timed in turns: `python -m benchmarks.forms`.

Workload A at another width and a meta-batch of 4: second-order MAML, 5-way 1-shot, K = 5. The
first is what `medmeta train` uses on a CPU; the others but "first order" compute the same
meta-gradient in another form.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from typing import Any

import jax

from benchmarks import machine, report
from benchmarks.workloads import WORKLOADS, Engine, make_arrays
from medmeta_jax import parallel

FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "one device, all threads": {"devices": 1},
    "one device, 4 episodes side by side": {"devices": 1, "chunk": 4},
    "patches in place of Winograd": {"form": "patches"},
    "unrolled inner steps": {"loop": "unroll"},
    "reverse over reverse": {"order": "second"},
    "reverse over reverse, rematerialised": {"order": "second", "remat": "step"},
    "first order": {"order": "first"},
    "lax convolution": {"form": "lax"},
}


def compiled(width: int, *, devices: int | None = None, **options: Any) -> Engine:
    """The step in one form."""
    work = dataclasses.replace(WORKLOADS["A"], widths=(width,) * 4, meta_batch=4)
    mesh = None if devices is None else parallel.task_mesh(jax.devices()[:devices])
    return Engine(work, make_arrays(work), mesh=mesh, **options)


def measure(width: int, repeats: int) -> dict[str, Any]:
    """All forms, one meta-step each in turn, `repeats` times after a warm-up."""
    forms = {}
    for name, options in FORMS.items():
        machine.say(f"compiling {name}")
        forms[name] = compiled(width, **options)
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats + 1):
        for name, form in forms.items():
            rate = form.rate()
            if turn:
                rates[name].append(rate)
    return {
        **machine.described(),
        "width": width,
        "rows": [
            {
                "name": name,
                "episodes_per_s": statistics.median(rates[name]),
                "range": [min(rates[name]), max(rates[name])],
                "compile_s": form.compile_s,
                "temporary_mb": form.step.memory_analysis().temp_size_in_bytes / 2**20,
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
    print(f"{report.heading(found)}; Conv4-{found['width']}\n")
    print(
        "| form | episodes/s, median (range) | compile, s | temporaries a device, MB |\n"
        "|---|---|---|---|"
    )
    for row in found["rows"]:
        low, high = row["range"]
        print(
            f"| {row['name']} | {row['episodes_per_s']:.1f} ({low:.1f} to {high:.1f}) "
            f"| {row['compile_s']:.1f} | {row['temporary_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
