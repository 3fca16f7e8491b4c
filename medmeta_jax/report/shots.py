"""What more labelled images a class are worth."""

from __future__ import annotations

from collections.abc import Sequence

from medmeta_jax.console import heading
from medmeta_jax.report._loaded import Loaded
from medmeta_jax.report._plots import MOST_PANELS, Plot, finish, looks, panels


def shots(runs: Sequence[Loaded]) -> Plot | None:
    """Every row's score by the number of shots, of runs that `medmeta eval RUN --shots 1 5 ...`
    has judged, a panel a run."""
    runs = [run for run in runs if run.by_shots][:MOST_PANELS]
    if not runs:
        return None
    figure, axes = panels(len(runs))
    numbers: list[list[object]] = [["run", "learner", "shots", runs[0].main, "ci95"]]
    for run, ax in zip(runs, axes, strict=True):
        names = list(dict.fromkeys(row["learner"] for row in run.by_shots))
        for name, look in zip(names, looks(len(names)), strict=True):
            own = [row for row in run.by_shots if row["learner"] == name]
            counts = [row["shots"] for row in own]
            scores = [row[run.main] for row in own]
            means, margins = ([100 * of[part] for of in scores] for part in ("mean", "ci95"))
            ax.errorbar(counts, means, margins, capsize=3, label=name, **look)
            numbers += [
                [run.name, name, count, of["mean"], of["ci95"]]
                for count, of in zip(counts, scores, strict=True)
            ]
        every = sorted({row["shots"] for row in run.by_shots})
        ax.set_xscale("log")
        ax.set_xticks(every, [str(count) for count in every])
        ax.minorticks_off()
        ax.set_xlabel("labelled images a class")
        ax.set_ylabel(f"{heading(run.main)}, per cent")
        ax.set_title(run.name if len(runs) > 1 else "", fontsize=8)
        finish(figure, ax, len(names))
    caption = "The same episodes at every number; 95% intervals over episodes."
    return Plot("Shots", caption, figure, numbers)
