"""Episodes a second of this engine and of PyTorch, in turns: `python -m benchmarks.throughput`.

This engine and PyTorch compute the same meta-steps on the same arrays, weights and episodes,
which is shown before they are timed: at 8 channels and 12 pixels over ten meta-steps of the first
workload within 1e-3 in float32 and 1e-8 in float64, and at each workload's own shape over a
meta-step of one episode within 1e-8 in float64 (`agreement.py`).

Both use every core: this engine gives each its own episodes; PyTorch's operations share them,
or, in a row of its own, a process on each core runs the loop. Each PyTorch way stands in the
quicker of its image layouts. Loops take one episode a meta-step, since their episodes follow one
another anyway; `torch.func.vmap` and the processes take one a thread, with which they are
quickest. A way more than four times slower than the engine has one turn only. A way that is not
installed or cannot differentiate twice is listed with the reason; `torch.compile` takes minutes
a shape to compile, and is timed on request. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import time
from typing import Any

import jax

from benchmarks import machine, memory_use, report
from benchmarks.agreement import CANNOT, Maker, Row, Steps, agree, engine_steps, reason
from benchmarks.machine import say
from benchmarks.workloads import WORKLOADS, Engine, Workload, chosen, gflop, make_arrays
from medmeta_jax import parallel

NAIVE_EPISODES = 2
TURN_SECONDS = 1.0  # the least that a turn takes; of one meta-step where that is longer
FAR_BEHIND = 4  # a way so many times slower than the engine in its first turn has no other


def torch_rows(with_compile: bool = False) -> dict[str, Maker]:
    """Each PyTorch way by name; `torch.compile`, which compiles for minutes, if asked for."""
    try:
        import torch
    except ImportError:
        raise SystemExit('PyTorch is missing: pip install -e ".[bench]"') from None
    from benchmarks import torch_baselines as baselines

    torch.set_num_threads(machine.THREADS)
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"

    def maker(kind: type[baselines.Baseline]) -> Maker:
        return lambda work, arrays, params, channels_last: kind(
            baselines.Task(work, arrays, params, channels_last, device)
        )

    rows = {
        name: maker(kind)
        for name, kind in baselines.BASELINES.items()
        if with_compile or name != "torch.compile"
    }
    if device == "cpu" and machine.THREADS > 1:
        from benchmarks.torch_processes import Processes

        name = f"torch loop, {machine.THREADS} processes of one thread"
        rows[name] = functools.partial(Processes, count=machine.THREADS)
    return rows


class Timed:
    """A row that agreed, with its measurements."""

    def __init__(self, name: str, row: Row, episodes: list[int], compile_s: float) -> None:
        self.name, self.row, self.episodes, self.compile_s = name, row, episodes, compile_s
        self.peak_mb: float | None = None
        self.rates: list[float] = []

    def once(self) -> float:
        """Time a turn of meta-steps; its rate, which is kept."""
        done, began, taken = 0, time.perf_counter(), 0.0
        while taken < TURN_SECONDS:
            self.row.run(self.episodes)
            done, taken = done + len(self.episodes), time.perf_counter() - began
        self.rates.append(done / taken)
        return self.rates[-1]

    def first(self) -> None:
        """`once`, watching this process's memory, where that is what the row takes."""
        if jax.default_backend() == "cpu" and not hasattr(self.row, "pipes"):
            self.peak_mb = memory_use.peak_mb(self.once)
        else:
            self.once()

    def result(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "episodes_per_s": statistics.median(self.rates),
            "range": [min(self.rates), max(self.rates)],
            "peak_mb": self.peak_mb,
            "compile_s": self.compile_s,
        }


def trial(label: str, row: Row, episodes: list[int]) -> tuple[float, Timed]:
    """A PyTorch way in one layout: the seconds of its second meta-step."""
    began = time.perf_counter()
    row.run(episodes[:1])
    first = time.perf_counter() - began
    began = time.perf_counter()
    row.run(episodes[:1])
    second = time.perf_counter() - began
    say(f"  {label}: {1 / second:.2f} episodes/s in a first trial")
    return second, Timed(label, row, episodes, max(0.0, first - second))


def measure(
    work: Workload, makers: dict[str, Maker], repeats: int, roof: float, computed: list[Steps]
) -> dict[str, Any]:
    """All rows of a workload, in turns, after the proof."""
    unable = agree(computed, makers)
    if "torch.compile" not in makers:
        unable["torch.compile"] = "not asked for (--compile)"
    arrays = make_arrays(work)
    engine = Engine(work, arrays)
    every = list(range(work.meta_batch))
    start, few = engine.parameters(), every[: machine.THREADS]
    engine.run(every)
    rows = [Timed("medmeta_jax", engine, every, engine.compile_s)]
    for name, make in makers.items():
        if name in unable:
            continue
        tried = []
        layouts = [False, True]
        if "processes" in name and len(rows) > 1:  # that of the loop, whose code they run
            layouts = ["channels last" in rows[1].name]
        for channels_last in layouts:
            label = f"{name}, channels last" if channels_last else name
            try:
                taken = few if "vmap" in name or "processes" in name else few[:1]
                tried.append(trial(label, make(work, arrays, start, channels_last), taken))
            except CANNOT as error:
                unable[label] = reason(error)
        if tried:
            rows.append(min(tried, key=lambda one: one[0])[1])
    if work.naive:
        rows.append(naive_row(work))
    for turn in range(repeats):
        for timed in rows:
            if turn == 0:
                timed.first()
            elif FAR_BEHIND * timed.rates[0] >= rows[0].rates[0]:
                timed.once()
            say(f"  turn {turn + 1}  {timed.name}: {timed.rates[-1]:.2f} episodes/s")
    return summary(work, rows, unable, roof)


def naive_row(work: Workload) -> Timed:
    """Flax's own way: `lax.conv` under a vmap over episodes, timed on two of them."""
    few = dataclasses.replace(work, meta_batch=NAIVE_EPISODES)
    one = parallel.task_mesh(jax.devices()[:1])
    engine = Engine(
        few, make_arrays(few), chunk=NAIVE_EPISODES, mesh=one,
        form="lax", order="second", loop="unroll",
    )  # fmt: skip
    engine.run([])
    name = "naive vmap of lax.conv, 2 episodes, one device"
    return Timed(name, engine, list(range(NAIVE_EPISODES)), engine.compile_s)


def summary(
    work: Workload, rows: list[Timed], unable: dict[str, str], roof: float
) -> dict[str, Any]:
    """A workload's rows with the ratios that matter."""
    found = [row.result() for row in rows]
    rate = found[0]["episodes_per_s"]
    naive = [row["episodes_per_s"] for row in found if row["name"].startswith("naive")]
    torch = [row["episodes_per_s"] for row in found[1:] if not row["name"].startswith("naive")]
    return {
        "about": work.about,
        "meta_batch": work.meta_batch,
        "gflop_per_episode": gflop(work),
        "rows": found,
        "left_out": unable,
        "ratio_to_fastest_torch": rate / max(torch) if torch else None,
        "ratio_to_naive": rate / naive[0] if naive else None,
        "share_of_roof": rate * gflop(work) / roof,
    }


def main() -> None:
    """Parse, measure, write table and plot, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.throughput")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="e.g. A,B")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns of each row")
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well")
    report.add_output(parser)
    given = parser.parse_args()
    names = chosen(parser, given.workloads)
    if given.repeats < 1:
        parser.error(f"--repeats must be >= 1, got {given.repeats}")
    parallel.use_cpu_devices(machine.THREADS)
    makers = torch_rows(given.compile)
    roof = machine.matmul_gflops()
    found: dict[str, Any] = {**machine.described(), "roof_gflops": roof, "workloads": {}}
    say("compiling what the ways are held against")
    computed = engine_steps(names)
    for name in names:
        work = WORKLOADS[name]
        say(f"{name}: {work.about}")
        found["workloads"][name] = measure(work, makers, given.repeats, roof, computed.pop(name))
        table = report.throughput_table(found)
        report.save(given.out, "throughput", found, table, report.throughput_plot)
    report.show(given, found, table)


if __name__ == "__main__":
    main()
