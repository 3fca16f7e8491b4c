"""How often a probability is right."""

from __future__ import annotations

from collections.abc import Sequence

from medmeta_jax.report._loaded import Loaded
from medmeta_jax.report._plots import COLOURS, MOST_PANELS, Plot, panels

WAYS = (("as_is", "as it is", "--", "s"), ("calibrated", "with the temperature", "-", "o"))


def reliability(runs: Sequence[Loaded]) -> Plot | None:
    """A panel for each run that has a calibration, of the first ones."""
    runs = [run for run in runs if run.summary["calibration"].get("reliability")][:MOST_PANELS]
    if not runs:
        return None
    figure, axes = panels(len(runs), 4.2, 3.9)
    numbers: list[list[object]] = [["run", "probability", "mean", "share_right", "queries"]]
    for run, ax in zip(runs, axes, strict=True):
        ax.plot([0, 100], [0, 100], color="#999999", linewidth=0.8)
        for (field, label, style, mark), colour in zip(WAYS, COLOURS[1::-1], strict=True):
            bins = run.summary["calibration"]["reliability"][field]
            told, right = ([100 * one[name] for one in bins] for name in ("confidence", "accuracy"))
            ax.plot(told, right, linestyle=style, marker=mark, color=colour, label=label,
                    markersize=4)  # fmt: skip
            numbers += [
                [run.name, field, one["confidence"], one["accuracy"], one["count"]] for one in bins
            ]
        ax.set_title(run.name if len(runs) > 1 else "", fontsize=8)
        ax.set_xlabel("probability of the class that is told, per cent")
        ax.set_ylabel("how often it is right, per cent")
        ax.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    caption = (
        "Meta-test queries by the probability of what they were taken for, in tenths; on the "
        "diagonal it is as often right as it says. The temperature is of meta-validation."
    )
    return Plot("Reliability", caption, figure, numbers)
