"""Peak memory against the number of inner steps: `python -m benchmarks.memory`.

One episode of workload B. Each cell is a process of its own: it compiles (or, PyTorch,
computes once at one step), gives back what it can, and then says by how much its resident
size rises at most during one meta-step. "torch loop" is `create_graph`, as learn2learn does.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine, memory_use, report
from benchmarks.machine import say
from benchmarks.workloads import WORKLOADS, Engine, make_arrays

TORCH = "torch loop"
ORDERS: dict[str, dict[str, Any]] = {
    "mixed": {"order": "mixed"},
    "second": {"order": "second"},
    "second, step rematerialised": {"order": "second", "remat": "step"},
    "second, products kept": {"order": "second", "remat": "products"},
    "first": {"order": "first"},
    TORCH: {},
}
STEPS = (1, 2, 5, 10, 20)


def cell(order: str, steps: int) -> float:
    """MiB of one meta-step, measured in this process."""
    work = dataclasses.replace(WORKLOADS["B"], meta_batch=1, steps=steps)
    arrays = make_arrays(work)
    if order == TORCH:
        return torch_cell(work, arrays)
    return peak_mb(Engine(work, arrays, **ORDERS[order]).run)


def torch_cell(work: Any, arrays: Any) -> float:
    """The same in PyTorch."""
    from benchmarks import torch_baselines as baselines

    baselines.torch.set_num_threads(machine.THREADS)
    start = Engine(dataclasses.replace(work, steps=0), arrays).parameters()

    def loop(steps: int) -> baselines.Loop:
        some = dataclasses.replace(work, steps=steps)
        return baselines.Loop(baselines.Task(some, arrays, start, channels_last=False))

    loop(1).run([0])
    row = loop(work.steps)
    return peak_mb(lambda: row.run([0]))


def peak_mb(run: Callable[[], object]) -> float:
    """`memory_use.peak_mb`, or the end where the system cannot tell."""
    found = memory_use.peak_mb(run)
    if found is None:
        raise SystemExit("this system does not let a process reset its peak; Linux does")
    return found


def in_child(order: str, steps: int) -> float:
    """`cell` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--cell", order, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        raise SystemExit(f"{order}, {steps} steps: {said[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


def table(found: dict[str, Any]) -> str:
    """Orders down, steps across."""
    rows = found["rows"]
    steps = sorted({row["steps"] for row in rows})
    orders = list(dict.fromkeys(row["order"] for row in rows))
    cells = {(row["order"], row["steps"]): row["peak_mb"] for row in rows}
    lines = [
        report.heading(found), "",
        "| MB at | " + " | ".join(f"K = {k}" for k in steps) + " |",
        "|---" * (len(steps) + 1) + "|",
    ]  # fmt: skip
    for order in orders:
        lines.append(f"| {order} | " + " | ".join(f"{cells[order, k]:.0f}" for k in steps) + " |")
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """A line an order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    ax = figure.subplots()
    styles = ["-", "--", "-.", ":", (0, (1, 4))]
    for order, style in zip(dict.fromkeys(r["order"] for r in found["rows"]), styles, strict=False):
        of = [row for row in found["rows"] if row["order"] == order]
        ax.plot(
            [r["steps"] for r in of], [r["peak_mb"] for r in of],
            marker="o", linestyle=style, label=order,
        )  # fmt: skip
    ax.set(xlabel="inner steps K", ylabel="peak memory of a meta-step, MB", ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse, measure, write table and plot, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.memory")
    parser.add_argument("--orders", default=";".join(ORDERS), help="separated by ;")
    parser.add_argument("--steps", default=",".join(map(str, STEPS)), help="e.g. 1,20")
    report.add_output(parser)
    parser.add_argument("--cell", nargs=2, metavar=("ORDER", "STEPS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell:
        print(cell(given.cell[0], int(given.cell[1])))
        return
    orders, steps = given.orders.split(";"), [int(k) for k in given.steps.split(",")]
    for order in orders:
        if order not in ORDERS:
            parser.error(f"--orders: no {order!r}; there are {'; '.join(ORDERS)}")
    found: dict[str, Any] = {**machine.described(), "rows": []}
    for order in orders:
        for count in steps:
            peak = in_child(order, count)
            say(f"{order}, K = {count}: {peak:.0f} MB")
            found["rows"].append({"order": order, "steps": count, "peak_mb": peak})
    lines = table(found)
    report.save(given.out, "memory", found, lines, plot)
    report.show(given, found, lines)


if __name__ == "__main__":
    main()
