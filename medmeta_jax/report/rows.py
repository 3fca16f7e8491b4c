"""The rows of the runs' tables, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from medmeta_jax.console import heading
from medmeta_jax.report._loaded import Loaded
from medmeta_jax.report._plots import COLOURS, MARKS, Plot, panels


def rows(runs: Sequence[Loaded]) -> Plot | None:
    """The main score of every row of every run, the learner's own on top."""
    lines = [
        (run, row, f"{run.name}: {row['learner']}" if len(runs) > 1 else row["learner"])
        for run in runs
        for row in run.summary["results"]
    ]
    figure, (ax,) = panels(1, 7.0, 1.1 + 0.28 * len(lines))
    numbers: list[list[object]] = [["run", "learner", runs[0].main, "ci95", "episodes_hash"]]
    for place, (run, row, _) in enumerate(lines):
        own, at = row[run.main], runs.index(run)
        ax.errorbar(
            100 * own["mean"], -place, xerr=100 * own["ci95"], color=COLOURS[at % len(COLOURS)],
            marker=MARKS[at % len(MARKS)], markersize=5, capsize=3, linestyle="",
            markerfacecolor=None if row is run.first else "white",
        )  # fmt: skip
        numbers.append([run.name, row["learner"], own["mean"], own["ci95"], row["episodes_hash"]])
    ax.set_yticks([-place for place in range(len(lines))], [name for *_, name in lines])
    ax.set_xlabel(f"{heading(runs[0].main)}, per cent, with 95% intervals over episodes")
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    figure.tight_layout()
    caption = (
        "Filled: what was trained; open: its baselines on the same episodes. Whether two rows "
        "differ is told by their paired difference, and not by whether these bars overlap."
    )
    return Plot("Against its baselines", caption, figure, numbers)
