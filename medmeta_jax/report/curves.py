"""How training went: the loss, and the score on training and on meta-validation tasks."""

from __future__ import annotations

from collections.abc import Sequence

from medmeta_jax.console import heading
from medmeta_jax.report._loaded import Loaded
from medmeta_jax.report._plots import Plot, finish, looks, panels


def curves(runs: Sequence[Loaded]) -> Plot | None:
    """Of every run that has trained."""
    runs = [run for run in runs if run.metrics]
    if not runs:
        return None
    figure, (left, right) = panels(2)
    numbers: list[list[object]] = [["run", "step", "loss", "train", "meta_validation"]]
    for run, look in zip(runs, looks(len(runs)), strict=True):
        score, chosen = trained_by(run), validated_by(run)
        steps = [record["step"] for record in run.metrics]
        losses = [record["loss"] for record in run.metrics]
        train = [record[score] for record in run.metrics]
        valid = [record.get(chosen) for record in run.metrics]
        plain = {**look, "marker": ""}
        left.plot(steps, losses, label=run.name, **plain)
        right.plot(
            steps, [100 * value for value in train], **{**plain, "alpha": 0.4}, label="_training"
        )
        at = [
            (step, 100 * value)
            for step, value in zip(steps, valid, strict=True)
            if value is not None
        ]
        right.plot(*zip(*at, strict=True), **look, label=run.name) if at else None
        numbers += [[run.name, *each] for each in zip(steps, losses, train, valid, strict=True)]
    for ax in (left, right):
        ax.set_xlabel("meta-step")
    left.set_ylabel("loss")
    right.set_ylabel(f"{heading(validated_by(runs[0])[6:])}, per cent")
    finish(figure, left, len(runs))
    caption = (
        "Means over the meta-steps between two records. On the right the pale line is of training "
        "tasks, the marks of the fixed meta-validation tasks, by which the checkpoint is chosen."
    )
    return Plot("Training", caption, figure, numbers)


def validated_by(run: Loaded) -> str:
    """The field of the score on meta-validation."""
    return next(name for name in run.metrics[0] if name.startswith("valid_"))


def trained_by(run: Loaded) -> str:
    """The field of the score on training tasks."""
    fields = list(run.metrics[0])
    return fields[fields.index("loss") + 1]
