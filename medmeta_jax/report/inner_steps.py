"""What each inner step is worth."""

from __future__ import annotations

from collections.abc import Sequence

from medmeta_jax.console import heading
from medmeta_jax.report._loaded import Loaded
from medmeta_jax.report._plots import Plot, finish, looks, panels


def inner_steps(runs: Sequence[Loaded]) -> Plot | None:
    """The score after 0, 1, ... inner steps, of the runs whose learner has any."""
    runs = [run for run in runs if f"{run.main}_by_step" in run.first]
    if not runs:
        return None
    figure, (ax,) = panels(1)
    numbers: list[list[object]] = [["run", "steps", runs[0].main, "ci95"]]
    counts = set()
    for run, look in zip(runs, looks(len(runs)), strict=True):
        found = run.first[f"{run.main}_by_step"]
        steps = range(len(found["mean"]))
        means, margins = ([100 * value for value in found[name]] for name in ("mean", "ci95"))
        ax.errorbar(steps, means, margins, capsize=3, label=run.name, **look)
        numbers += [
            [run.name, *each] for each in zip(steps, found["mean"], found["ci95"], strict=True)
        ]
        counts.add(str(found["episodes"]))
    ax.set_xlabel("inner steps")
    ax.set_ylabel(f"{heading(runs[0].main)}, per cent")
    ax.xaxis.get_major_locator().set_params(integer=True)
    finish(figure, ax, len(runs))
    caption = f"On the first {' or '.join(sorted(counts))} meta-test episodes; 95% intervals."
    return Plot("Inner steps", caption, figure, numbers)
