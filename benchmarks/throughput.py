"""Episodes a second of this engine and of PyTorch, in turns: `python -m benchmarks.throughput`.

This engine and PyTorch compute the same meta-steps on the same arrays, weights and
episodes, which is shown before they are timed: every way at 8 channels and 12 pixels over
ten meta-steps, losses within 1e-3 in float32 and 1e-8 in float64; and at the workload's own
shape over two meta-steps of one episode within 1e-8 in float64. (In float32 five inner steps
amplify rounding there.) Both use every core:
this engine gives each its own episodes; PyTorch's operations share them, or, in a row of its
own, a process on each core runs the loop. Each PyTorch way stands in the quicker of its image
layouts and takes an episode a thread in a meta-step: loops do not care, and `torch.func.vmap`
is quickest so. A way that is not installed or cannot differentiate twice is listed with the
reason; `torch.compile` takes minutes a shape to compile, and is timed on request. Needs the
extra `bench`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from benchmarks import machine, memory_use, report
from benchmarks.machine import say
from benchmarks.workloads import WORKLOADS, Engine, Workload, gflop, make_arrays
from medmeta_jax import parallel

NAIVE_EPISODES = 2
PROOF_STEPS = 10
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}
TURN_SECONDS = 2.0  # the least that a turn takes; of one meta-step where that is longer
SMALL_BLOCKS = {"conv4": 4, "resnet12": 2}  # of the small proof; ResNet-12 compiles slowly
CANNOT = (ImportError, NotImplementedError, RuntimeError)  # what torch raises where it cannot


class Row(Protocol):
    """What is timed: a meta-step on episodes of the list, returning its mean query loss."""

    def run(self, episodes: list[int]) -> float: ...


Maker = Callable[..., Row]  # (work, arrays, params, channels_last) -> Row


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


def differ(ours: list[float], theirs: list[float]) -> float:
    """Largest relative difference of two lists of losses."""
    return float(np.max(np.abs(np.subtract(ours, theirs)) / np.maximum(np.abs(ours), 1e-12)))


def reason(error: Exception) -> str:
    """An error as one short line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"


def agree(work: Workload, makers: dict[str, Maker]) -> dict[str, str]:
    """Ten meta-steps at a small size in both precisions.

    Returns the ways that cannot run, with the reason; one that computes something else
    ends the program.
    """
    widths = (8,) * SMALL_BLOCKS[work.network]
    small = dataclasses.replace(work, widths=widths, size=12, meta_batch=2)
    unable: dict[str, str] = {}
    for dtype, tolerance in TOLERANCE.items():
        with jax.enable_x64(dtype == "float64"):
            arrays = make_arrays(small, dtype)
            engine = Engine(small, arrays)
            start, taken, ours = engine.params(), [], []
            for _ in range(PROOF_STEPS):
                taken.append(engine.next_episodes())
                ours.append(engine.run(taken[-1]))
        for name, make in makers.items():
            if name in unable:
                continue
            try:
                row = make(small, arrays, start, False)
                gap = differ(ours, [row.run(episodes) for episodes in taken])
            except CANNOT as error:
                unable[name] = reason(error)
                continue
            if not gap <= tolerance:
                raise SystemExit(f"{name} computes something else: {gap:.1e} off in {dtype}")
            say(f"  {name}: the same losses in {dtype}, within {gap:.0e}")
    return unable


def agree_at_true_shape(work: Workload, makers: dict[str, Maker]) -> None:
    """Two meta-steps of one episode, in float64: a loss, and one after a meta-gradient."""
    alone = dataclasses.replace(work, meta_batch=1)
    with jax.enable_x64(True):
        arrays = make_arrays(alone, "float64")
        engine = Engine(alone, arrays)
        start = engine.params()
        ours = [engine.run([0]), engine.run([0])]
    for name, make in makers.items():
        row = make(alone, arrays, start, False)
        gap = differ(ours, [row.run([0]), row.run([0])])
        if not gap <= TOLERANCE["float64"]:
            raise SystemExit(f"{name} computes something else at the true shape: {gap:.1e} off")
        say(f"  {name}: the same losses at the true shape in float64, within {gap:.0e}")


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
    row.run(episodes)
    second = time.perf_counter() - began
    say(f"  {label}: {len(episodes) / second:.2f} episodes/s in a first trial")
    return second, Timed(label, row, episodes, max(0.0, first - second / len(episodes)))


def measure(work: Workload, makers: dict[str, Maker], repeats: int, roof: float) -> dict[str, Any]:
    """All rows of a workload, in turns."""
    unable = agree(work, makers)
    agree_at_true_shape(work, {name: m for name, m in makers.items() if name not in unable})
    if "torch.compile" not in makers:
        unable["torch.compile"] = "not asked for (--compile)"
    arrays = make_arrays(work)
    engine = Engine(work, arrays)
    every = list(range(work.meta_batch))
    start, few = engine.params(), every[: machine.THREADS]
    engine.run(every)
    rows = [Timed("medmeta_jax", engine, every, engine.compile_s)]
    for name, make in makers.items():
        if name in unable:
            continue
        tried = []
        for label, channels_last in ((name, False), (f"{name}, channels last", True)):
            try:
                tried.append(trial(label, make(work, arrays, start, channels_last), few))
            except CANNOT as error:
                unable[label] = reason(error)
        if tried:
            rows.append(min(tried, key=lambda one: one[0])[1])
    if work.naive:
        rows.append(naive_row(work))
    here = [timed for timed in rows if not hasattr(timed.row, "pipes")]  # not in children
    for timed in here if jax.default_backend() == "cpu" else []:
        timed.peak_mb = memory_use.peak_mb(timed.once)
        timed.rates.clear()
    for turn in range(repeats):
        for timed in rows:
            say(f"  turn {turn + 1}  {timed.name}: {timed.once():.2f} episodes/s")
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
    parser.add_argument("--repeats", type=int, default=3, help="timed meta-steps of each row")
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well")
    report.add_output(parser)
    given = parser.parse_args()
    names = given.workloads.split(",")
    for name in names:
        if name not in WORKLOADS:
            parser.error(f"--workloads: no {name!r}; there are {', '.join(WORKLOADS)}")
    if given.repeats < 1:
        parser.error(f"--repeats must be >= 1, got {given.repeats}")
    parallel.use_cpu_devices(machine.THREADS)
    makers = torch_rows(given.compile)
    roof = machine.matmul_gflops()
    found: dict[str, Any] = {**machine.described(), "roof_gflops": roof, "workloads": {}}
    for name in names:
        say(f"{name}: {WORKLOADS[name].about}")
        found["workloads"][name] = measure(WORKLOADS[name], makers, given.repeats, roof)
        table = report.throughput_table(found)
        report.save(given.out, "throughput", found, table, report.throughput_plot)
    report.show(given, found, table)


if __name__ == "__main__":
    main()
