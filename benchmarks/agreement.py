"""The proof that comes before a timing: that all ways compute the same meta-steps.

Losses are compared relative to themselves, parameters to how far the meta-steps moved them. In
float32 five inner steps amplify rounding at the true shapes, so that those are in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from benchmarks.machine import say
from benchmarks.workloads import WORKLOADS, Arrays, Engine, Workload, make_arrays

PROOF_STEPS = 10
QUICK = {
    "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}  # fmt: skip
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}
SMALL_BLOCKS = {"conv4": 4, "resnet12": 1}  # of the small proof; ResNet-12 compiles slowly
CANNOT = (ImportError, NotImplementedError, RuntimeError)  # what torch raises where it cannot


class Row(Protocol):
    """What is timed: a meta-step on episodes of the list, returning its mean query loss."""

    def run(self, episodes: list[int]) -> float: ...

    def parameters(self) -> dict[str, np.ndarray]: ...


Maker = Callable[..., Row]  # (work, arrays, params, channels_last) -> Row


def differ(ours: list[float], theirs: list[float]) -> float:
    """Largest relative difference of two lists of losses."""
    return float(np.max(np.abs(np.subtract(ours, theirs)) / np.maximum(np.abs(ours), 1e-12)))


def reason(error: Exception) -> str:
    """An error as one short line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"


def small_of(work: Workload) -> Workload:
    """The workload at 8 channels and 12 pixels."""
    widths = (8,) * SMALL_BLOCKS[work.network]
    return dataclasses.replace(work, widths=widths, size=12, meta_batch=2)


class Plan(NamedTuple):
    """Some meta-steps to compute in a precision; `where` says in words at which size."""

    work: Workload
    dtype: str
    steps: int
    where: str


class Steps(NamedTuple):
    """What the engine computed, for others to be held against: its arrays and first parameters,
    the episodes and losses of some meta-steps, and the parameters after them."""

    plan: Plan
    arrays: Arrays
    start: dict[str, np.ndarray]
    episodes: list[list[int]]
    losses: list[float]
    end: dict[str, np.ndarray]


def plans_of(names: Sequence[str]) -> dict[str, list[Plan]]:
    """Of the first workload ten meta-steps at the small size in both precisions, and of each
    one at its true shape in float64."""
    plans = {}
    for name in names:
        alone = dataclasses.replace(WORKLOADS[name], meta_batch=1)
        plans[name] = [Plan(alone, "float64", 1, "at the true shape in float64")]
    small = small_of(WORKLOADS[names[0]])
    plans[names[0]] += [
        Plan(small, dtype, PROOF_STEPS, f"at the small size in {dtype}") for dtype in TOLERANCE
    ]
    return plans


def engine_steps(names: Sequence[str]) -> dict[str, list[Steps]]:
    """What the engine computes of each workload's plans.

    The machine code is less optimised than that which is timed: it is run a few times only.
    """

    def computed(plan: Plan) -> Steps:
        with jax.enable_x64(plan.dtype == "float64"):
            arrays = make_arrays(plan.work, plan.dtype)
            engine = Engine(plan.work, arrays, compiler_options=QUICK)
            start, taken, losses = engine.parameters(), [], []
            for _ in range(plan.steps):
                taken.append(engine.next_episodes())
                losses.append(engine.run(taken[-1]))
            return Steps(plan, arrays, start, taken, losses, engine.parameters())

    return {name: list(map(computed, plans)) for name, plans in plans_of(names).items()}


def hold_against(name: str, make: Maker, steps: Steps) -> None:
    """End the program if a way's losses and last parameters are not the engine's."""
    from benchmarks.torch_baselines import in_torch_order

    where, tolerance = steps.plan.where, TOLERANCE[steps.plan.dtype]
    row = make(steps.plan.work, steps.arrays, steps.start, False)
    gap = differ(steps.losses, [row.run(episodes) for episodes in steps.episodes])
    before, after, theirs = in_torch_order(steps.start), in_torch_order(steps.end), row.parameters()
    moved = max(np.abs(after[key] - before[key]).max() for key in before)
    gap = max(gap, *(float(np.abs(theirs[key] - after[key]).max() / moved) for key in before))
    if not gap <= tolerance:
        raise SystemExit(f"{name} computes something else: {gap:.1e} off {where}")
    say(f"  {name}: the same losses and parameters {where}, within {gap:.0e}")


def agree(computed: Sequence[Steps], makers: dict[str, Maker]) -> dict[str, str]:
    """Prove that all ways compute what the engine computed.

    Returns the ways that cannot run, with the reason; one that computes something else
    ends the program.
    """
    unable: dict[str, str] = {}
    for steps in computed:
        for name, make in makers.items():
            # A process a core runs the loop's code, which is proved at the true shape.
            if name in unable or (steps.plan.steps == 1 and "processes" in name):
                continue
            try:
                hold_against(name, make, steps)
            except CANNOT as error:
                unable[name] = reason(error)
    return unable
