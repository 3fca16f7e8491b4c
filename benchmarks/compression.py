"""A meta-trained network with channels taken out: what it still tells, and what it costs.

    python -m benchmarks.compression --data anatomy
    python -m benchmarks.compression --data ../shared/data/blood_cells
    python -m benchmarks.compression --untrained      the time alone, of a larger network

One learner is meta-trained on a budget (`medmeta bench methods`, medium, one seed) and is the
teacher. For each share of its FLOPs, counted in the compiled program that tells one image, the
largest widths that stay below it are made in one proportion, and channels are taken out by each way
to score them: the meta-loss' sensitivity, learned gates, magnitude, and chance. What is left is
meta-trained on for half as many steps, drawn to the teacher's answers; of gates, the first half of
these steps learns the gates. Beside them stand the same without a teacher, and a network of the
same widths trained from scratch on the whole budget.

Accuracy is on the same meta-test episodes, the difference from the teacher paired; not inferior
means that the lower end of its interval is above -1 point, which was set beforehand. Latency is of
the deployed programs, taken at the end, the networks in turns, while nothing else should run. With
--untrained, Conv4-64 at 84 x 84 and what is left of it at each share; time does not depend on the
weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import latency, machine, memory_use, report
from medmeta_jax import (
    compressing,
    config as configs,
    learners,
    plan as plans,
    protocol,
    running,
    verbs,
)
from medmeta_jax.compress import gates, scores
from medmeta_jax.compress.channels import Channels
from medmeta_jax.compress.distil import distilled
from medmeta_jax.compress.slicing import best, sliced
from medmeta_jax.deploy import export
from medmeta_jax.deploy.predictor import Predictor
from medmeta_jax.evaluation import Scores
from medmeta_jax.experiment import Experiment
from medmeta_jax.protocol import Trained
from medmeta_jax.settings import TrainConfig
from medmeta_jax.types import MetaLearner, Params
from medmeta_jax.weights import named

WAYS_TO_SCORE = ("sensitivity", "gates", "magnitude", "random")
UNTAUGHT, SCRATCH = "sensitivity, no teacher", "from scratch"
ROWS = (*WAYS_TO_SCORE, UNTAUGHT, SCRATCH)
PENALTY = 1.0


class Teacher(NamedTuple):
    """The whole network: its training, its channels, and how it is judged."""

    plan: plans.Plan
    trained: Trained
    channels: list[Channels]
    shots: int
    steps: int


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="anatomy")
    parser.add_argument("--algorithm", default="protonet")
    parser.add_argument("--shares", nargs="+", type=float, default=(0.5, 0.25))
    parser.add_argument("--by", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--ways", type=int)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--untrained", action="store_true", help="times of a larger network alone")
    parser.add_argument("--steps", type=int, help="of the budget, in place of medium's 400")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    report.add_output(parser)
    return parser.parse_args()


def train_teacher(given: argparse.Namespace) -> Teacher:
    """The learner on the whole budget."""
    budget = dataclasses.replace(plans.BUDGETS["medium"], seeds=1, searches=False)
    if given.steps:
        budget = dataclasses.replace(budget, meta_steps=given.steps)
    config = TrainConfig(data=given.data, ways=given.ways, algorithm=given.algorithm)
    plan = plans.make_plan(config, budget, (given.shots,))
    trained = protocol.Trainer(plan).train(given.algorithm, 0)
    channels = compressing.channels_in(trained.experiment, trained.params)
    return Teacher(plan, trained, channels, given.shots, budget.meta_steps)


def with_learner(made: Experiment, learner: MetaLearner, training: MetaLearner) -> Experiment:
    """The experiment with a learner, and another one to train it by."""
    trained = learners.with_augmentation(made.config, made.split, training)
    return made._replace(learner=learner, training=trained)


def fit(made: Experiment, steps: int, start: Params | None = None) -> Params:
    """The best parameters on meta-validation, from those given."""
    if start is not None:
        made = made._replace(weights=named(start))
    step = running.compile_step(made, made.training).step
    inner = made.config.hyper.get("steps")
    return running.fit_quietly(made, step, meta_steps=steps, inner_steps=inner).best_params


# Scores of the channels, the parameters to take them out of, and the steps that it took.
Scored = tuple[scores.Scores, Params, int]


def score(teacher: Teacher, way: str) -> Scored:
    """By one way."""
    made, params = teacher.trained.experiment, teacher.trained.params
    if way == "magnitude":
        return scores.magnitude(params, teacher.channels), params, 0
    if way == "random":
        return scores.random(jax.random.key(0), teacher.channels), params, 0
    if way == "sensitivity":
        pool = made.split.pools["train"]
        found = scores.sensitivity(
            made.learner, params, teacher.channels, lambda key: made.sampler(key, pool),
            jax.random.key(0),
        )  # fmt: skip
        return found, params, 0
    gated = gates.with_gates(made.learner, teacher.channels, penalty=PENALTY)
    steps = max(1, teacher.steps // 4)
    start = gated.init(jax.random.key(0), made.example_x)
    moved = fit(with_learner(made, gated, gated), steps, {**start, "learner": params})
    return [np.asarray(log_alpha) for log_alpha in moved["gates"]], moved["learner"], steps


def compressed(
    teacher: Teacher, widths: tuple[int, ...], scored: Scored, *, taught: bool = True
) -> tuple[Experiment, Params]:
    """The smaller network by some scores, trained on."""
    found, params, used = scored
    made = compressing.with_widths(teacher.trained.experiment, widths)
    kept = best(teacher.channels, found, widths)
    like = jax.eval_shape(made.learner.init, jax.random.key(0), made.example_x)
    start = sliced(params, teacher.channels, kept, like)
    training = made.learner
    if taught:
        whole = teacher.trained
        training = distilled(made.learner, whole.experiment.learner, whole.params)
    return made, fit(with_learner(made, made.learner, training), teacher.steps // 2 - used, start)


def judged(teacher: Teacher, made: Experiment, params: Params) -> Scores:
    """On the same meta-test episodes."""
    trained = Trained(made, params, 0.0, {})
    method = made.config.algorithm
    return protocol.judge(teacher.plan, method, trained, teacher.shots)[0]


def cost(made: Experiment, params: Params, given: argparse.Namespace) -> dict[str, Any]:
    """Numbers stored, FLOPs, bytes of the file and memory."""
    model = latency.model_of(made, params)
    work, predictor = latency.work_of(model, given), Predictor(model)
    task = predictor.adapt(work.support, work.labels)
    about = {"classes": [str(i) for i in range(made.outputs)]}
    files = {
        kind: len(export.artefact(model, task, about, kind=kind)) for kind in ("float32", "int8")
    }
    peak = memory_use.peak_mb(lambda: Predictor(model).adapt(work.support, work.labels))
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "mflops": compressing.telling_flops(made) / 1e6, "bytes": files, "peak_mb": peak,
    }  # fmt: skip


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The teacher, and every row of every share."""
    machine.say("training   the whole network")
    teacher = train_teacher(given)
    whole_made = teacher.trained.experiment
    whole = judged(teacher, whole_made, teacher.trained.params)
    found: dict[str, Any] = {**machine.described(), "data": given.data, "rows": []}
    found["algorithm"] = given.algorithm
    facts = protocol.facts(teacher.plan)
    found |= {**report.episodes_of(facts), "ways": facts["ways"]}
    given.ways, deployed = whole_made.outputs, []

    def add(name: str, share: float, made: Experiment, params: Params, own: Scores) -> None:
        gap, not_inferior = latency.compared(own, whole)
        found["rows"].append({
            "name": name, "share": share, "accuracy": own.estimate("accuracy")._asdict(),
            "minus_whole": gap, "not_inferior": not_inferior,
            **cost(made, params, given),
        })  # fmt: skip
        deployed.append(latency.ours(latency.model_of(made, params), given))

    add("whole", 1.0, whole_made, teacher.trained.params, whole)
    scored = functools.cache(functools.partial(score, teacher))  # the same for every share
    for share in given.shares:
        widths = compressing.widths_for(whole_made, teacher.trained.params, share)
        for name in given.by:
            machine.say(f"{share:.0%} of the FLOPs, widths {widths}: {name}")
            if name == SCRATCH:
                made = compressing.with_widths(whole_made, widths)
                params = fit(made, teacher.steps)
            else:
                way = "sensitivity" if name == UNTAUGHT else name
                made, params = compressed(teacher, widths, scored(way), taught=name != UNTAUGHT)
            add(name, share, made, params, judged(teacher, made, params))
    machine.say("timing     all in turns")
    add_times(found["rows"], deployed, given)
    return found


def add_times(
    rows: list[dict[str, Any]], deployed: list[latency.Side], given: argparse.Namespace
) -> None:
    """Each row's milliseconds, the networks in turns."""
    for row, timed in zip(rows, latency.timings(deployed, given), strict=True):
        row |= {part: timed[part] for part in ("adapt", "predict")}


def measure_untrained(given: argparse.Namespace) -> dict[str, Any]:
    """The time of Conv4-64 at 84 x 84, and of what is left of it at each share."""
    config = TrainConfig(image_size=84, algorithm=given.algorithm, net={"width": 64})
    made = verbs.build(configs.check(config))
    given.ways = made.outputs
    params = made.learner.init(jax.random.key(0), made.example_x)
    networks = [made] + [
        compressing.with_widths(made, compressing.widths_for(made, params, share))
        for share in given.shares
    ]
    deployed, rows = [], []
    for share, network in zip((1.0, *given.shares), networks, strict=True):
        own = network.learner.init(jax.random.key(0), made.example_x)
        deployed.append(latency.ours(latency.model_of(network, own), given))
        rows.append({"share": share, "mflops": compressing.telling_flops(network) / 1e6})
    add_times(rows, deployed, given)
    return {**machine.described(), "algorithm": given.algorithm, "rows": rows}


def table_untrained(found: dict[str, Any]) -> str:
    """A row for each share."""
    lines = [report.heading(found), "", "| FLOPs | MFLOP an image | adapt p50, p95 ms "
             "| predict p50, p95 ms |", "|" + "---|" * 4]  # fmt: skip
    for row in found["rows"]:
        cells = [f"{row[part]['p50']:.2f}, {row[part]['p95']:.2f}" for part in ("adapt", "predict")]
        lines.append(f"| {row['share']:g} | {row['mflops']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(found: dict[str, Any]) -> str:
    """A row for each network."""
    lines = [
        report.heading(found), "",
        "| | FLOPs | accuracy | minus whole | not inferior | parameters | MFLOP an image "
        "| kB (int8) | adapt MB | adapt p50, p95 ms | predict p50, p95 ms |",
        "|" + "---|" * 11,
    ]  # fmt: skip
    for row in found["rows"]:
        accuracy, gap = (latency.per_cent(row[name]) for name in ("accuracy", "minus_whole"))
        kept = row["bytes"]
        lines.append(
            f"| {row['name']} | {row['share']:g} | {accuracy[0]:.1f} ± {accuracy[1]:.1f} "
            f"| {gap[0]:+.1f} ± {gap[1]:.1f} | {'yes' if row['not_inferior'] else 'no'} "
            f"| {row['parameters']} | {row['mflops']:.2f} "
            f"| {kept['float32'] / 1e3:.0f} ({kept['int8'] / 1e3:.0f}) "
            f"| {report.number(row['peak_mb'], 0)} "
            f"| {row['adapt']['p50']:.2f}, {row['adapt']['p95']:.2f} "
            f"| {row['predict']['p50']:.2f}, {row['predict']['p95']:.2f} |"
        )
    lines += ["", f"{found['algorithm']}, {found['ways']}-way, {found['episodes']} episodes "
              f"{found['episodes_hash']} of {found['data']}."]  # fmt: skip
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Accuracy against FLOPs, a line for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6))
    ax = figure.subplots()
    first, markers = found["rows"][0], iter("osD^vP")
    for name in dict.fromkeys(row["name"] for row in found["rows"][1:]):
        rows = [first, *(row for row in found["rows"] if row["name"] == name)]
        means = [100 * row["accuracy"]["mean"] for row in rows]
        errors = [100 * row["accuracy"]["ci95"] for row in rows]
        ax.errorbar([row["mflops"] for row in rows], means, errors, marker=next(markers),
                    capsize=2, label=name)  # fmt: skip
    ax.set_xlabel("MFLOP to tell an image")
    ax.set_ylabel("accuracy, per cent")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    given = arguments()
    verbs.enable_compilation_cache()  # rows of a share are one program from several starts
    if given.untrained:
        found = measure_untrained(given)
        report.show(given, found, table_untrained(found))
        return
    found = measure(given)
    text = table(found)
    report.save(given.out, f"compression-{Path(given.data).name}", found, text, plot)
    report.show(given, found, text)


if __name__ == "__main__":
    main()
