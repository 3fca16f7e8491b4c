"""What people see while a command runs: lines and progress on stderr; how scores are written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

HEADINGS = {
    "f1": "F1", "auroc": "AUROC", "r2": "R²", "dice": "Dice", "iou": "IoU", "hd95": "HD95",
    "lesion_dice": "lesion Dice", "lesion_recall": "lesion recall",
    "cpm": "CPM", "ap": "AP", "object_recall": "recall", "object_precision": "precision",
}  # fmt: skip


class Voice:
    """Whether this process speaks: of several that train together, one does."""

    muted = False


def say(line: str) -> None:
    """A plain line for people."""
    if not Voice.muted:
        print(line, file=sys.stderr, flush=True)


def heading(score: str) -> str:
    """What a score is called in a table.

    >>> heading("f1"), heading("accuracy")
    ('F1', 'accuracy')
    """
    return HEADINGS.get(score, score)


@contextmanager
def bar(title: str, total: int, done: int = 0) -> Iterator[Any]:
    """A progress bar on a terminal; elsewhere nothing. Yields advance(done, text)."""
    if Voice.muted or not sys.stderr.isatty():
        yield lambda done, text="", total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done, text="")
        yield lambda done, text="", total=None: progress.update(
            task, completed=done, text=text, total=total
        )


def percent(estimate: Mapping[str, float] | None, *, sign: bool = False) -> str:
    """`{"mean", "ci95"}` as "62.1 ± 0.9"; "-" for a score that a row does not have."""
    if estimate is None:
        return "-"
    mean = f"{100 * estimate['mean']:{'+' if sign else ''}.1f}"
    return f"{mean} ± {100 * estimate['ci95']:.1f}"
