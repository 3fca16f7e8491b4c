"""What the plots of a report are made of, and how they are written: PNG, SVG, and the CSV behind.

Each file of this folder without a leading underscore is a plot: its function of the same name takes
the runs of a report and gives a `Plot`, or None where these runs have nothing of the kind. Adding
one is adding its file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medmeta_jax.runs import write_whole

# Okabe and Ito's, told apart by colour-blind eyes; lines differ in style and mark too, for grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")
STYLES = ("-", "--", ":", "-.")
MARKS = "os^Dv"
MOST_PANELS = 4  # runs with a panel each


class Plot(NamedTuple):
    """A figure of matplotlib, what it says in a line, and its numbers: rows, the first their
    heads."""

    title: str
    caption: str
    figure: Any
    numbers: Sequence[Sequence[Any]]


def panels(count: int, width: float = 5.6, height: float = 3.4) -> tuple[Any, list[Any]]:
    """A figure with so many panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height))
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes


def looks(count: int) -> Iterator[dict[str, Any]]:
    """How to draw so many lines apart."""
    for i in range(count):
        yield {
            "color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)],
            "marker": MARKS[i % len(MARKS)], "markersize": 4, "linewidth": 1.4,
        }  # fmt: skip


def finish(figure: Any, ax: Any, names: int) -> None:
    """A legend where there are several names, and no overlap."""
    if names > 1:
        ax.legend(frameon=False, fontsize=8)
    figure.tight_layout()


def png(plot: Plot) -> bytes:
    """The figure as PNG."""
    out = io.BytesIO()
    plot.figure.savefig(out, format="png", dpi=130)
    return out.getvalue()


def save(plot: Plot, picture: bytes, folder: Path, name: str) -> None:
    """Write NAME.png, which is drawn already, NAME.svg and NAME.csv into a folder, which is made
    (OSError)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.png", picture)
    drawn = io.BytesIO()
    plot.figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_whole(folder / f"{name}.svg", drawn.getvalue())
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(plot.numbers)
    write_whole(folder / f"{name}.csv", table.getvalue())
