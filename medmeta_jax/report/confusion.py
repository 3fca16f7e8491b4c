"""What classes are taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmeta_jax.report._loaded import Loaded
from medmeta_jax.report._plots import MOST_PANELS, Plot, panels

MOST_CLASSES = 40
NUMBERED = 12  # classes, up to which a cell has its number written in it


def confusion(runs: Sequence[Loaded]) -> Plot | None:
    """A panel for each run of classes, of the first ones, where these are not too many."""
    runs = [run for run in runs if 0 < len(classes_of(run)) <= MOST_CLASSES][:MOST_PANELS]
    if not runs:
        return None
    size = max(3.6, 0.28 * max(len(classes_of(run)) for run in runs) + 1.6)
    figure, axes = panels(len(runs), size + 0.8, size)
    numbers: list[list[object]] = [["run", "class", "taken_for", "queries"]]
    for run, ax in zip(runs, axes, strict=True):
        names = classes_of(run)
        counts = np.asarray(run.summary["confusion"]["counts"])
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ax.imshow(share, cmap="Greys", vmin=0, vmax=1)
        shown = [name if len(name) <= 22 else f"{name[:20]}…" for name in names]
        ax.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
        ax.set_yticks(range(len(names)), shown, fontsize=7)
        ax.set_xlabel("taken for")
        ax.set_ylabel("class")
        ax.set_title(run.name if len(runs) > 1 else "", fontsize=8)
        for i, j in np.ndindex(*counts.shape):
            numbers.append([run.name, names[i], names[j], int(counts[i, j])])
            if len(names) <= NUMBERED:
                ax.text(
                    j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if share[i, j] > 0.5 else "black",
                )  # fmt: skip
    figure.tight_layout()
    caption = (
        "Queries of all meta-test episodes, in per cent of their class. Two classes are only held "
        "against each other in episodes that have both."
    )
    return Plot("Confusion", caption, figure, numbers)


def classes_of(run: Loaded) -> list[str]:
    """The meta-test classes, where queries are taken for them."""
    return list(run.summary["confusion"].get("classes", ()))
