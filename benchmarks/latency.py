"""How long a task takes to adapt to, and an image to be told, as deployed: uint8 in, probabilities
out, against PyTorch doing the same from the same weights, in one run.

    python -m benchmarks.latency                       the engine against PyTorch, at 84 x 84
    python -m benchmarks.latency --trained anatomy     accuracy beside latency, at 28 x 28
    python -m benchmarks.latency --trained anatomy --depths 2 3 4   with each method's best depth
    python -m benchmarks.latency --steady 10000        memory and programs over so many predictions

Weights are as they start but with --trained: time does not depend on them. The two take turns, call
by call in blocks, so that a machine that drifts drifts for both; PyTorch is in the quicker of its
two layouts. A method is called --calls times or for --seconds, whichever ends first. "finetune" is
of 100 steps. Before a method is timed, what both tell is held against each other. With --trained,
all that a method leaves open, its rate and the network's depth, is chosen on meta-validation.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import machine, memory_use, report
from medmeta_jax import baselines, plan as plans, protocol, registry
from medmeta_jax.backbones.conv4 import conv4
from medmeta_jax.data.pool import Scaling
from medmeta_jax.deploy.model import Model, image_shape
from medmeta_jax.deploy.predictor import Predictor
from medmeta_jax.evaluation import Scores, evaluate
from medmeta_jax.experiment import Experiment
from medmeta_jax.metrics.intervals import paired_difference
from medmeta_jax.settings import TrainConfig
from medmeta_jax.types import Params
from medmeta_jax.weights import named

METHODS = ("protonet", "r2d2", "anil", "maml", "finetune")
STEPS = {"finetune": 100}
BLOCKS, LEAST = 4, 8
VAL_EPISODES = 200
MARGIN = 0.01  # of accuracy, set beforehand: what is not inferior by more is not inferior
Call = Callable[[], object]


class Side(NamedTuple):
    """One way to do it: adapt to the support set, and tell one image."""

    name: str
    adapt: Call
    predict: Call


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, help="pixels; default 84, with --trained 28")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--trained", metavar="DATA", help="train each on this first, and judge it")
    parser.add_argument(
        "--depths",
        nargs="+",
        type=int,
        default=(4,),
        metavar="N",
        help="with --trained: of the network, the best by meta-validation",
    )
    parser.add_argument("--steady", type=int, metavar="N", help="N predictions in this process")
    report.add_output(parser)
    return parser.parse_args()


def untrained(name: str, given: argparse.Namespace, **other: Any) -> Model:
    """A learner as it starts, as a model to be put to use; with other settings where given."""
    size, channels = given.size or 84, given.channels
    backbone = conv4(width=given.width, norm="support")
    hyper = ({"steps": STEPS[name]} if name in STEPS else {}) | other
    learner = registry.factory("algorithms", name)(backbone, outputs=given.ways, **hyper)
    params = learner.init(jax.random.key(0), np.zeros((1, size, size, channels), np.float32))
    scaling = Scaling(*(np.full(channels, value, np.float32) for value in (0.45, 4.0)))
    config = TrainConfig(image_size=size, algorithm=name, hyper=hyper)
    tasks = {"ways": given.ways, "shots": given.shots}
    return Model(config, learner, backbone, params, scaling, 2, given.ways, None, tasks)


def pictures(model: Model, count: int, seed: int) -> np.ndarray:
    """uint8 noise, whose arithmetic is that of any image."""
    shape = (count, *image_shape(model))
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def model_of(made: Experiment, params: Params) -> Model:
    """A trained experiment as it is deployed, but for a calibration."""
    return Model(
        made.config, made.learner, made.backbone, params, made.split.scaling,
        made.example_x.ndim - 2, made.outputs, None, {},
    )  # fmt: skip


def compared(own: Scores, other: Scores) -> tuple[dict[str, float], bool]:
    """The paired difference of accuracies, and whether the first is not inferior."""
    gap = paired_difference(own.per_episode["accuracy"], other.per_episode["accuracy"])
    return gap._asdict(), bool(gap.mean - gap.ci95 > -MARGIN)


class Work(NamedTuple):
    """A support set and one image, of a model's size."""

    support: np.ndarray
    labels: np.ndarray
    one: np.ndarray


def work_of(model: Model, given: argparse.Namespace) -> Work:
    labels = np.tile(np.arange(given.ways), given.shots)
    return Work(pictures(model, len(labels), 0), labels, pictures(model, 1, 1))


def ours(model: Model, given: argparse.Namespace) -> Side:
    """The engine, as it is deployed."""
    work, predictor = work_of(model, given), Predictor(model)
    task = predictor.adapt(work.support, work.labels)
    return Side(
        report.OURS,
        lambda: jax.block_until_ready(predictor.adapt(work.support, work.labels)),
        lambda: predictor.predict(task, work.one, given.ways).probabilities,
    )


def in_torch(model: Model, given: argparse.Namespace) -> list[Side]:
    """PyTorch in two layouts."""
    from benchmarks.torch_latency import Deployed

    work, name = work_of(model, given), model.config.algorithm
    known = registry.defaults("algorithms", name) | model.config.hyper
    params = named(model.params)

    def side(channels_last: bool) -> Side:
        made = Deployed(
            name, params, model.scaling, ways=given.ways, channels_last=channels_last,
            depth=sum(key.endswith("conv/kernel") for key in params),
            steps=known.get("steps", 0), inner_lr=known.get("inner_lr", 0.0),
        )  # fmt: skip
        task = made.adapt(work.support, work.labels)
        return Side(
            "torch, channels last" if channels_last else "torch",
            lambda: made.adapt(work.support, work.labels),
            lambda: made.predict(task, work.one),
        )

    return [side(last) for last in (False, True)]


def require_agreement(name: str, given: argparse.Namespace) -> None:
    """That both tell the same, after one step where there are steps: more of them make much of
    rounding."""
    few = {"steps": 1} if "steps" in registry.defaults("algorithms", name) else {}
    model = untrained(name, given, **few)
    expected = ours(model, given).predict()
    for other in in_torch(model, given):
        np.testing.assert_allclose(other.predict(), expected, atol=2e-3)


def quickest(call: Call, times: int = 2) -> float:
    """Seconds of the quickest of a few calls."""
    return min(timed(call) for _ in range(times))


def timed(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def taking_turns(calls: list[Call], count: int, seconds: float) -> list[list[float]]:
    """The seconds of each call of each, in blocks that alternate."""
    found: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(BLOCKS):
        for call, kept in zip(calls, found, strict=True):
            began = time.perf_counter()
            for i in range(count // BLOCKS):
                if i >= LEAST // BLOCKS and time.perf_counter() - began > seconds / BLOCKS:
                    break
                kept.append(timed(call))
    return found


def summary(seconds: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds, and of how many."""
    at = np.percentile(np.asarray(seconds) * 1e3, (50, 95, 99))
    return {"p50": at[0], "p95": at[1], "p99": at[2], "calls": len(seconds)}


def timings(made: list[Side], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Each side's percentiles of adapting and telling."""
    parts = {
        part: taking_turns([getattr(side, part) for side in made], given.calls, given.seconds)
        for part in ("adapt", "predict")
    }
    return [
        {"side": side.name, **{part: summary(parts[part][i]) for part in parts}}
        for i, side in enumerate(made)
    ]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Rows of the engine and PyTorch for every method."""
    found: dict[str, Any] = {**machine.described(), "rows": []}
    for name in given.methods:
        machine.say(f"timing     {name}")
        require_agreement(name, given)
        model = untrained(name, given)
        other = min(in_torch(model, given), key=lambda side: quickest(side.adapt))
        for row in timings([ours(model, given), other], given):
            found["rows"].append({"method": name, **row})
    return found


class Candidate(NamedTuple):
    """A method trained on a network of a depth, as it is set, and its meta-validation accuracy."""

    depth: int
    plan: plans.Plan
    trained: protocol.Trained
    hyper: dict[str, Any]
    score: float


def candidate(name: str, trainer: protocol.Trainer, depth: int, shots: int) -> Candidate:
    """A method trained from seed 0, with what it leaves open chosen on meta-validation."""
    trained = trainer.train(name, 0)
    scores, hyper = judged(trainer.plan, name, trained, shots, "val")
    hyper = {key: hyper[key] for key in ("steps", "inner_lr") if key in hyper}
    score = scores.headline.mean
    machine.say(f"           depth {depth}: meta-validation {100 * score:.1f}")
    return Candidate(depth, trainer.plan, trained, hyper, score)


def measure_trained(given: argparse.Namespace) -> dict[str, Any]:
    """Each method trained on the same budget and judged on the same episodes, and its latency."""
    budget = dataclasses.replace(plans.BUDGETS["medium"], seeds=1, val_episodes=VAL_EPISODES)
    trainers = {}
    for depth in given.depths:
        config = TrainConfig(data=given.trained, image_size=given.size or 28, net={"depth": depth})
        trainers[depth] = protocol.Trainer(plans.make_plan(config, budget, (given.shots,)))
    found: dict[str, Any] = {**machine.described(), "rows": [], "trained": given.trained}
    scores: dict[str, Scores] = {}
    for name in given.methods:
        machine.say(f"training   {name}")
        tried = [candidate(name, trainers[depth], depth, given.shots) for depth in given.depths]
        best = max(tried, key=lambda one: one.score)
        scores[name], _ = judged(best.plan, name, best.trained, given.shots, "test")
        made = best.trained.experiment
        given.ways = made.outputs
        learner = registry.factory("algorithms", name)(
            made.backbone, outputs=made.outputs, **best.hyper
        )
        config = dataclasses.replace(made.config, algorithm=name, hyper=best.hyper)
        model = model_of(made._replace(config=config, learner=learner), best.trained.params)
        row = timings([ours(model, given)], given)[0]
        row |= {
            "method": name, "hyper": {"depth": best.depth, **best.hyper},
            "accuracy": scores[name].estimate("accuracy")._asdict(),
            "meta_validation": {one.depth: one.score for one in tried},
        }  # fmt: skip
        found["rows"].append(row)
    found |= report.episodes_of(protocol.facts(best.plan))
    reference = scores.get("finetune")
    for row in found["rows"]:
        if reference is not None and row["method"] != "finetune":
            gap, not_inferior = compared(scores[row["method"]], reference)
            row |= {"minus_finetune": gap, "not_inferior": not_inferior}
    return found


def judged(
    plan: plans.Plan, name: str, trained: protocol.Trained, shots: int, side: str
) -> tuple[Scores, dict[str, Any]]:
    """A method's scores on a side's episodes and how it is set; of fine-tuning, at 100 steps with
    its rate chosen on meta-validation."""
    made = trained.experiment
    val, episodes = (plans.judged_at(plan, which, shots) for which in ("val", side))
    if name != "finetune":
        hyper = made.config.hyper
        scores = evaluate(made.learner, trained.params, episodes, steps=hyper.get("steps"))
        return scores, {**registry.defaults("algorithms", name), **hyper}
    classes = len(made.split.class_names)
    family = protocol.family_of(name, (), made.backbone, made.outputs, classes, made.kind)
    rates = baselines.FINETUNE_RATES
    return baselines.searched(family, trained.params, val, episodes, rates, (STEPS[name],))


def steady(given: argparse.Namespace) -> dict[str, Any]:
    """Resident memory and compiled programs after a tenth of the predictions, and after all."""
    model = untrained("r2d2", given)
    work, predictor = work_of(model, given), Predictor(model)
    task = predictor.adapt(work.support, work.labels)
    found: dict[str, Any] = {**machine.described(), "steady": []}
    for i in range(1, given.steady + 1):
        predictor.predict(task, work.one, given.ways)
        if i in (given.steady // 10, given.steady):
            memory_use.settle()
            found["steady"].append({
                "predictions": i, "resident_mb": memory_use.resident_mb("VmRSS"),
                "programs": predictor.programs(),
            })  # fmt: skip
    return found


def table(found: dict[str, Any]) -> str:
    """The rows, in milliseconds."""
    lines = [report.heading(found), ""]
    if "steady" in found:
        return "\n".join(lines + [
            f"after {at['predictions']} predictions: {at['resident_mb']:.1f} MB resident, "
            f"{at['programs']} compiled programs" for at in found["steady"]
        ])  # fmt: skip
    trained = "accuracy" in found["rows"][0]
    more = "| accuracy | minus finetune | settings " if trained else "| by "
    lines += [
        f"| method {more}| adapt p50 | p95 | p99 | predict p50 | p95 | p99 | calls |",
        "|" + "---|" * (11 if trained else 9),
    ]
    for row in found["rows"]:
        cells = [row["method"]]
        if trained:
            accuracy, gap = row["accuracy"], row.get("minus_finetune")
            cells.append("{:.1f} ± {:.1f}".format(*per_cent(accuracy)))
            cells.append("" if gap is None else "{:+.1f} ± {:.1f}".format(*per_cent(gap)))
            cells.append(", ".join(f"{key} {value:g}" for key, value in row["hyper"].items()))
        else:
            cells.append(row["side"])
        for part in ("adapt", "predict"):
            cells += [f"{row[part][at]:.2f}" for at in ("p50", "p95", "p99")]
        cells.append(f"{row['adapt']['calls']}, {row['predict']['calls']}")
        lines.append("| " + " | ".join(cells) + " |")
    if trained:
        lines += ["", f"{report.which(found)} Meta-validation by depth:"]
        for row in found["rows"]:
            tried = (f"{depth}: {100 * s:.1f}" for depth, s in row["meta_validation"].items())
            lines.append(f"{row['method']} {', '.join(tried)}")
    return "\n".join(lines)


def per_cent(estimate: dict[str, float]) -> tuple[float, float]:
    """An estimate's mean and half interval."""
    return 100 * estimate["mean"], 100 * estimate["ci95"]


def plot(found: dict[str, Any], path: Path) -> None:
    """Accuracy against the time to adapt; or both times, from the median to the 95th percentile."""
    from matplotlib.figure import Figure

    rows = found.get("rows", [])
    if not rows:
        return
    figure = Figure(figsize=(6.4, 3.6))
    if "accuracy" in rows[0]:
        axes = [figure.subplots()]
        for row in rows:
            x, accuracy = row["adapt"]["p50"], row["accuracy"]
            axes[0].errorbar(x, *per_cent(accuracy), fmt="o", color=report.BLUE)
            axes[0].annotate(row["method"], (x, 100 * accuracy["mean"]), xytext=(6, 4),
                             textcoords="offset points", fontsize=9)  # fmt: skip
        axes[0].set_xscale("log")
        axes[0].set_xlabel("milliseconds to adapt, median")
        axes[0].set_ylabel("accuracy, per cent")
    else:
        axes = list(figure.subplots(1, 2, sharey=True))
        names = [f"{row['method']}, {row['side']}" for row in rows]
        for ax, part in zip(axes, ("adapt", "predict"), strict=True):
            for name, row in zip(names, rows, strict=True):
                low, high = row[part]["p50"], row[part]["p95"]
                colour = report.BLUE if row["side"] == report.OURS else report.GREY
                ax.errorbar(low, name, xerr=[[0], [high - low]], fmt="o", color=colour, capsize=3)
            ax.set_xlabel(f"{part}, ms, p50 to p95")
            ax.tick_params(labelsize=7)
        axes[0].set_xscale("log")
        axes[1].set_xlim(left=0)
        axes[0].invert_yaxis()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    given = arguments()
    if given.steady:
        found = steady(given)
    elif given.trained:
        found = measure_trained(given)
    else:
        found = measure(given)
    text = table(found)
    name = "latency_steady" if given.steady else "latency_trained" if given.trained else "latency"
    report.save(given.out, name, found, text, plot)
    report.show(given, found, text)


if __name__ == "__main__":
    main()
