"""What a report knows of a run: the files that it left, and nothing else. No JAX is needed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.metrics.intervals import paired_difference
from medmeta_jax.runs import Run, RunError, existing


class Loaded(NamedTuple):
    """name: the folder's; config, summary, environment, data: as the run wrote them; metrics: a
    record a line of metrics.jsonl; scores: of each row, its main score [E] on each meta-test
    episode, empty of a run by an older version; by_shots: results at several numbers of shots,
    where it was judged at them."""

    name: str
    run: Run
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    environment: dict[str, Any]
    data: dict[str, Any]
    scores: dict[str, np.ndarray]
    by_shots: list[dict[str, Any]]

    @property
    def first(self) -> dict[str, Any]:
        """The result of the learner itself."""
        found: dict[str, Any] = self.summary["results"][0]
        return found

    @property
    def main(self) -> str:
        """The score that rows are compared by."""
        return str(self.first["columns"][0])


def read(folder: str) -> Loaded:
    """A run that is complete (RunError)."""
    import yaml

    run = existing(folder)
    if not run.summary.exists():
        raise RunError(f"{folder}: is not complete; go on with: medmeta train --resume {folder}")
    config = yaml.safe_load(read_text(run.config))
    summary, environment = (json_of(path) for path in (run.summary, run.environment))
    data = json_of(run.data) if run.data.exists() else {}
    metrics = [record_of(run.metrics, line) for line in read_text(run.metrics).splitlines()]
    scores = read_scores(run.scores) if run.scores.exists() else {}
    shots = json_of(run.by_shots)["results"] if run.by_shots.exists() else []
    return Loaded(run.folder.name, run, config, summary, metrics, environment, data, scores, shots)


def read_text(path: Path) -> str:
    """A file's text (RunError)."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from None


def json_of(path: Path) -> Any:
    """A file's JSON (RunError)."""
    return record_of(path, read_text(path))


def record_of(path: Path, text: str) -> Any:
    """JSON of a file (RunError)."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error})") from None


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """Columns of numbers by their heads (RunError)."""
    head, *rows = csv.reader(read_text(path).splitlines())
    try:
        columns = np.asarray(rows, float).reshape(-1, len(head)).T
    except ValueError as error:
        raise RunError(f"{path}: holds what is no number ({error})") from None
    return dict(zip(head, columns, strict=True))


def difference(run: Loaded, other: Loaded) -> dict[str, float] | None:
    """The main score of a run's learner minus that of another, paired by episode; None where they
    were not judged on the same episodes by the same score, or one does not hold them."""
    same = all(run.first[name] == other.first[name] for name in ("episodes_hash", "episodes"))
    own, theirs = (one.scores.get(one.first["learner"]) for one in (run, other))
    if not same or run.main != other.main or own is None or theirs is None:
        return None
    return paired_difference(own, theirs)._asdict()
