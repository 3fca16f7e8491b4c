"""What a meta-step's time goes to, by kind of operation: `python -m benchmarks.breakdown`.

One meta-step of this engine under JAX's profiler, after a warm-up. The operations of the trace
are looked up in the compiled program, fusions by what they contain. Shares are of the time that
the devices had: what no operation covers is the start of operations and waiting. Tracing costs
time of its own, so that shares, and not rates, are what to read.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from benchmarks import machine, report
from benchmarks.machine import say
from benchmarks.workloads import WORKLOADS, Engine, chosen, make_arrays
from medmeta_jax import parallel

HEAD = re.compile(r"^%?(\S+) \(.*\{$|^ENTRY %?(\S+)")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (?:\(.*?\)|\S+) ([\w-]+)\(")
CALLED = re.compile(r"calls=%?([\w.-]+)")
CONTAINERS = {"while", "call", "conditional"}  # their time is that of what they contain
MOVES = {"concatenate", "copy", "transpose", "pad", "slice", "dynamic-slice", "broadcast"}


def kinds(program: str) -> dict[str, str]:
    """The kind of each instruction of a compiled program's text, by name."""
    inside: dict[str, set[str]] = {}
    found: list[tuple[str, str, str | None]] = []
    computation = ""
    for line in program.splitlines():
        if head := HEAD.match(line):
            computation = head[1] or head[2]
            inside[computation] = set()
        elif instruction := INSTRUCTION.match(line):
            called = CALLED.search(line)
            inside[computation].add(instruction[2])
            found.append((instruction[1], instruction[2], called[1] if called else None))
    return {
        name: kind(opcode, inside.get(called or "", set()))
        for name, opcode, called in found
        if opcode not in CONTAINERS
    }


def kind(opcode: str, inside: set[str]) -> str:
    """The kind of an instruction, given what its fusion contains."""
    if opcode in ("dot", "convolution"):
        return f"{opcode}, by itself"
    if "dot" in inside:
        return "dot, fused or by YNN"
    if opcode.startswith("all-"):
        return "sum over devices, with waiting"
    if opcode == "reduce" or "reduce" in inside:
        return "reductions"
    if opcode in MOVES:
        return "concatenation and copies"
    return "additions and other element-wise work"


def traced(engine: Engine) -> tuple[float, Counter[str], Counter[str]]:
    """Seconds of a traced meta-step, and the nanoseconds and calls of each instruction."""
    took: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            engine.run()
            seconds = time.perf_counter() - began
        (file,) = Path(folder).rglob("*.xplane.pb")
        for plane in ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                for event in line.events:
                    took[event.name] += event.duration_ns
                    calls[event.name] += 1
    return seconds, took, calls


def measure(name: str) -> dict[str, Any]:
    """The rows of a workload."""
    work = WORKLOADS[name]
    engine = Engine(work, make_arrays(work))
    engine.run()
    seconds, took, calls = traced(engine)
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for instruction, of in kinds(engine.step.as_text()).items():
        times[of] += took[instruction] / 1e9
        counts[of] += calls[instruction]
    whole = seconds * engine.devices
    rows = [
        {"kind": of, "share": taken / whole, "calls": counts[of]}
        for of, taken in times.most_common()
        if counts[of]
    ]
    covered = sum(row["share"] for row in rows)
    if not rows or covered > 1.01:
        raise SystemExit(f"the trace does not fit the program: {covered:.0%} of its time found")
    rows.append({"kind": "between operations", "share": 1 - covered, "calls": 0})
    return {"about": work.about, "seconds": seconds, "devices": engine.devices, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """A Markdown table a workload."""
    lines = [report.heading(found), ""]
    for name, work in found["workloads"].items():
        lines += [
            f"{name}: {work['about']}, one traced meta-step of {work['seconds']:.2f} s on "
            f"{work['devices']} devices",
            "",
            "| | share of the devices' time | calls |",
            "|---|---|---|",
        ]
        lines += [f"| {r['kind']} | {r['share']:.1%} | {r['calls']} |" for r in work["rows"]]
        lines += [""]
    return "\n".join(lines).rstrip()


def plot(found: dict[str, Any], path: Path) -> None:
    """A bar a kind."""
    from matplotlib.figure import Figure

    works = found["workloads"]
    figure = Figure(figsize=(7, 2.2 * len(works)))
    for ax, (name, work) in zip(
        figure.subplots(len(works), 1, squeeze=False)[:, 0], works.items(), strict=True
    ):
        rows = work["rows"][::-1]
        ax.barh([r["kind"] for r in rows], [100 * r["share"] for r in rows], color=report.BLUE)
        ax.set_title(f"{name}: {work['about']}", loc="left", fontsize=9)
        ax.set_xlabel("per cent of the devices' time", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse, measure, write table and plot, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.breakdown")
    parser.add_argument("--workloads", default="A,B", help="e.g. A,B")
    report.add_output(parser)
    given = parser.parse_args()
    names = chosen(parser, given.workloads)
    parallel.use_cpu_devices(machine.THREADS)
    found: dict[str, Any] = {**machine.described(), "workloads": {}}
    for name in names:
        say(f"{name}: {WORKLOADS[name].about}")
        found["workloads"][name] = measure(name)
    lines = table(found)
    report.save(given.out, "breakdown", found, lines, plot)
    report.show(given, found, lines)


if __name__ == "__main__":
    main()
