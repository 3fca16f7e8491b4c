"""`medmeta report`: the page of one run or several, and its plots beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medmeta_jax import registry
from medmeta_jax.report._loaded import Loaded, read
from medmeta_jax.report._page import page
from medmeta_jax.report._plots import Plot, png, save
from medmeta_jax.runs import RunError, write_whole

FIRST = ("rows", "curves", "inner_steps", "shots")  # of a page; other plots follow by name


def plots_of(runs: Sequence[Loaded]) -> dict[str, Plot]:
    """Every plot that there is something for, by the name of its file."""
    every = registry.names("report")
    ordered = [*FIRST, *(name for name in every if name not in FIRST)]
    made = {name: registry.factory("report", name)(runs) for name in ordered}
    return {name: plot for name, plot in made.items() if plot is not None}


def make(folders: Sequence[str], out: Path | None = None) -> tuple[Path, Path]:
    """Write the report of some runs: the page's path, and the folder of its plots.

    Args:
      out: the page; of one run it is by default RUN/report.html, with its plots in RUN/plots.

    Raises RunError, of a run that is not complete or a file that cannot be written.
    """
    runs = [read(folder) for folder in folders]
    if len({run.main for run in runs}) > 1:
        scores = ", ".join(f"{run.name} {run.main}" for run in runs)
        raise RunError(f"runs of different scores have no page in common: {scores}")
    where = out or runs[0].run.folder / "report.html"
    beside = where.with_suffix("").with_name(where.stem + "_plots")
    folder = runs[0].run.plots if out is None else beside
    plots = plots_of(runs)
    try:
        drawn = [(plot, png(plot)) for plot in plots.values()]
        for name, (plot, picture) in zip(plots, drawn, strict=True):
            save(plot, picture, folder, name)
        write_whole(where, page(runs, drawn))
    except OSError as error:
        raise RunError(f"{where}: cannot be written ({error.strerror})") from None
    return where, folder
