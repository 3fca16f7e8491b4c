"""Measurements as JSON, a Markdown table and a plot, side by side in a folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax import console, runs
from medmeta_jax.metrics.intervals import over_episodes, paired_difference

OURS = "medmeta_jax"
BLUE, GREY = "#0072b2", "#999999"  # told apart without colour vision, and in grey


def heading(found: dict[str, Any]) -> str:
    """What the numbers were taken on, in a line."""
    facts = found["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{facts['processor']}, {facts['threads']} threads, {facts['backend']}; {packages}"


def number(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def throughput_table(found: dict[str, Any]) -> str:
    """Rows of every workload, with ratios below them."""
    lines = [heading(found), f"Measured matrix product: {found['roof_gflops']:.0f} GFLOP/s", ""]
    for name, work in found["workloads"].items():
        lines += [
            f"{name}: {work['about']}, {work['gflop_per_episode']:.1f} GFLOP an episode, "
            f"meta-batch {work['meta_batch']}",
            "",
            "| | episodes/s, median (range) | peak, MB | compile, s |",
            "|---|---|---|---|",
        ]
        for row in work["rows"]:
            low, high = row["range"]
            turns = f"{low:.2f} to {high:.2f}" if low < high else "one turn"
            lines.append(
                f"| {row['name']} | {row['episodes_per_s']:.2f} ({turns}) "
                f"| {number(row['peak_mb'], 0)} | {number(row['compile_s'], 1)} |"
            )
        lines += ["", f"To the fastest PyTorch: {number(work['ratio_to_fastest_torch'], 2)}; "
                  f"to the naive form: {number(work['ratio_to_naive'], 1)}; "
                  f"of the roof, counting the products of a direct convolution: "
                  f"{100 * work['share_of_roof']:.0f}%."]  # fmt: skip
        lines += [f"Left out: {way} ({why})." for way, why in work["left_out"].items()] + [""]
    return "\n".join(lines).rstrip()


def throughput_plot(found: dict[str, Any], path: Path) -> None:
    """Bars a workload, with the range of the turns."""
    from matplotlib.figure import Figure

    works = found["workloads"]
    figure = Figure(figsize=(7, 1 + 0.35 * sum(len(w["rows"]) + 1 for w in works.values())))
    heights = [len(work["rows"]) for work in works.values()]
    axes = figure.subplots(len(works), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (name, work) in zip(axes, works.items(), strict=True):
        rows = work["rows"][::-1]
        rates = [row["episodes_per_s"] for row in rows]
        spread = [
            [r - row["range"][0] for r, row in zip(rates, rows, strict=True)],
            [row["range"][1] - r for r, row in zip(rates, rows, strict=True)],
        ]
        colours = [BLUE if row["name"] == OURS else GREY for row in rows]
        ax.barh([row["name"] for row in rows], rates, xerr=spread, color=colours)
        ax.set_title(f"{name}: {work['about']}", loc="left", fontsize=9)
        ax.set_xlabel("episodes a second", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def episodes_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """{"episodes", "episodes_hash"}, of the facts of a task or a plan."""
    return {name: facts[name] for name in ("episodes", "episodes_hash")}


def which(found: Mapping[str, Any]) -> str:
    """A line that says which episodes scores are of."""
    return f"{found['episodes']} meta-test episodes {found['episodes_hash']}."


def compared(scores: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, Any]:
    """The scores [E] of every row, and what the first is above it by, by number of shots."""
    first = next(iter(scores.values()))
    return {
        name: {
            str(shots): {
                "score": over_episodes(values)._asdict(),
                "first_minus": paired_difference(first[shots], values)._asdict(),
            }
            for shots, values in of.items()
        }
        for name, of in scores.items()
    }


def by_shots(rows: Mapping[str, Any]) -> str:
    """A row a learner: scores by number of shots, then what the first is above it by."""
    first, of_first = next(iter(rows.items()))
    counts = list(of_first)
    heads = [f"{n}-shot" for n in counts] + [f"{first} minus it, {n}-shot" for n in counts]
    lines = [f"| learner | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for name, of in rows.items():
        cells = [console.percent(of[n]["score"]) for n in counts]
        cells += [
            "" if name == first else console.percent(of[n]["first_minus"], sign=True)
            for n in counts
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options that say where results go."""
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def show(given: argparse.Namespace, found: dict[str, Any], table: str) -> None:
    """Print the measurements as asked for."""
    print(json.dumps(found) if given.json else table)


def add_file(parser: argparse.ArgumentParser) -> None:
    """The options of a benchmark that is one table of scores."""
    parser.add_argument("--out", type=Path, help="a file for the table too")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def leave(given: argparse.Namespace, found: dict[str, Any], table: str) -> None:
    """Write the table, with the episodes that it is of, where asked, and print as asked for."""
    text = f"{table}\n\n{which(found)}"
    if given.out is not None:
        runs.write_whole(given.out, text + "\n")
    show(given, found, text)


def save(
    out: Path, name: str, found: dict[str, Any], table: str,
    plot: Callable[[dict[str, Any], Path], None],
) -> None:  # fmt: skip
    """Write NAME.json, NAME.md and NAME.png into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(table + "\n", encoding="utf-8")
    plot(found, out / f"{name}.png")
