"""A learned augmentation, as it was learned."""

from __future__ import annotations

from collections.abc import Sequence

from medmeta_jax.report._loaded import Loaded
from medmeta_jax.report._plots import Plot, looks, panels


def policy(runs: Sequence[Loaded]) -> Plot | None:
    """How often each op is drawn, and how far it changes an image, over training."""
    runs = [run for run in runs if any("policy" in record for record in run.metrics)]
    if not runs:
        return None
    figure, (left, right) = panels(2)
    numbers: list[list[object]] = [["run", "step", "op", "share", "magnitude", "default"]]
    drawn = [(run, op) for run in runs for op in last_of(run)["share"]]
    for (run, op), look in zip(drawn, looks(len(drawn)), strict=True):
        label = f"{run.name}: {op}" if len(runs) > 1 else op
        seen = [(record["step"], record["policy"]) for record in run.metrics if "policy" in record]
        steps = [step for step, _ in seen]
        left.plot(steps, [100 * of["share"][op] for _, of in seen], label=label, **look)
        default = seen[0][1]["default"].get(op)
        if default is not None:  # to leave an image as it is has no magnitude
            sizes = [of["magnitude"][op] / default for _, of in seen]
            right.plot(steps, sizes, label=label, **look)
        numbers += [
            [run.name, step, op, of["share"][op], of["magnitude"].get(op), default]
            for step, of in seen
        ]
    right.axhline(1, color="#999999", linewidth=0.8)
    for ax, name in ((left, "copies of an op, per cent"), (right, "magnitude, in its default")):
        ax.set_xlabel("meta-step")
        ax.set_ylabel(name)
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    caption = (
        "Each copy of a support image is changed by one op that is drawn, or where the policy is a "
        "sum, by all in these shares. The grey line is the op's own default."
    )
    return Plot("Learned augmentation", caption, figure, numbers)


def last_of(run: Loaded) -> dict[str, dict[str, float]]:
    """The last policy that was recorded."""
    found: dict[str, dict[str, float]] = next(
        record["policy"] for record in reversed(run.metrics) if "policy" in record
    )
    return found
