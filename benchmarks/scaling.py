"""Episodes a second against devices and processes: `python -m benchmarks.scaling`.

Workload A, its meta-batch of 32 spread over 1, 2, 4, ... devices of one process and of two.
Each cell is a job of its own, started as `medmeta launch` does. On a CPU a device is a core,
with one thread where there are several; a single device has all threads to itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.machine import say
from benchmarks.workloads import WORKLOADS, Engine, make_arrays
from medmeta_jax import launch, parallel, processes

LONGEST_S = 600


def cell(devices: int, repeats: int) -> dict[str, Any]:
    """This process's part of a cell: compile, warm up, time."""
    if processes.launched() > 1:
        processes.join()
    parallel.use_cpu_devices(devices // processes.launched())
    work = WORKLOADS["A"]
    engine = Engine(work, make_arrays(work), mesh=parallel.mesh_over_processes(devices))
    engine.run()
    rates = [engine.rate() for _ in range(repeats)]
    return {
        "devices": devices,
        "processes": processes.launched(),
        "episodes_per_s": statistics.median(rates),
        "range": [min(rates), max(rates)],
        "compile_s": engine.compile_s,
    }


def job(devices: int, count: int, repeats: int) -> dict[str, Any]:
    """A cell in processes of its own; what the first one measured."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--cell", str(devices), str(repeats)]
    address = f"127.0.0.1:{launch.free_port()}"
    children = [
        launch.start(count, index, address, command, stdout=subprocess.PIPE)
        for index in range(count)
    ]
    try:
        said = [child.communicate(timeout=LONGEST_S)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    if any(child.returncode for child in children):
        raise SystemExit(f"{devices} devices in {count} processes: failed, see above")
    found: dict[str, Any] = json.loads(said[0].decode().strip().splitlines()[-1])
    return found


def table(found: dict[str, Any]) -> str:
    """A row a cell, with its rate as a multiple of the first."""
    base = found["rows"][0]["episodes_per_s"]
    lines = [
        report.heading(found), "",
        "| devices | processes | episodes/s, median (range) | of the first row | compile, s |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["rows"]:
        low, high = row["range"]
        lines.append(
            f"| {row['devices']} | {row['processes']} | {row['episodes_per_s']:.2f} "
            f"({low:.2f} to {high:.2f}) | {row['episodes_per_s'] / base:.2f} "
            f"| {row['compile_s']:.1f} |"
        )
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Rates against devices, a line a number of processes, beside proportion."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5))
    ax = figure.subplots()
    base = found["rows"][0]
    most = max(row["devices"] for row in found["rows"])
    ax.plot(
        [1, most], [base["episodes_per_s"] / base["devices"] * n for n in (1, most)],
        color=report.GREY, linestyle=":", label="in proportion",
    )  # fmt: skip
    for count, style in ((1, "-"), (2, "--")):
        rows = [row for row in found["rows"] if row["processes"] == count]
        ax.plot(
            [r["devices"] for r in rows], [r["episodes_per_s"] for r in rows], color=report.BLUE,
            marker="o", linestyle=style, label=f"{count} process" + "es" * (count > 1),
        )  # fmt: skip
    ax.set(xlabel="devices", ylabel="episodes a second", xlim=(0, None), ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse, measure, write table and plot, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.scaling")
    parser.add_argument("--devices", help="e.g. 1,2,4; by default powers of 2, to 8 or what is")
    parser.add_argument("--processes", default="1,2", help="e.g. 1")
    parser.add_argument("--repeats", type=int, default=3, help="timed meta-steps of a cell")
    report.add_output(parser)
    parser.add_argument("--cell", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell:
        measured = cell(*given.cell)
        if processes.is_first():
            print(json.dumps(measured), flush=True)
        return
    if given.devices:
        counts = [int(n) for n in given.devices.split(",")]
    else:
        there = machine.accelerators() or parallel.cores()
        counts = [n for n in (1, 2, 4, 8) if n <= there]
    rows = []
    for count in (int(n) for n in given.processes.split(",")):
        for devices in (n for n in counts if n % count == 0):
            row = job(devices, count, given.repeats)
            say(f"{devices} devices, {count} processes: {row['episodes_per_s']:.2f} episodes/s")
            rows.append(row)
    # Asked last: JAX, once started, does not like to be forked.
    found = {**machine.described(), "rows": rows}
    lines = table(found)
    report.save(given.out, "scaling", found, lines, plot)
    report.show(given, found, lines)


if __name__ == "__main__":
    main()
