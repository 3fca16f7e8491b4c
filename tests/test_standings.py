"""Results from records: by hand on a few numbers, and the forms they are written in."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmeta_jax import standings

FACTS: dict[str, Any] = {
    "data": "D", "columns": ["accuracy", "recall", "f1"], "split": "meta-test", "ways": 3,
    "episodes": 4, "episodes_hash": "abc",
}  # fmt: skip


def record(method: str, seed: int, accuracy: list[float]) -> dict[str, Any]:
    scores = {"accuracy": accuracy, "recall": accuracy, "f1": [a / 2 for a in accuracy]}
    pooled = {"auroc": {"mean": accuracy[0], "ci95": 0.1 * (1 + seed)}}
    of = {"scores": scores, "over_classes": [0.1, 0.9], "pooled": pooled,
          "chosen": {"steps": seed}}  # fmt: skip
    return {"method": method, "seed": seed, "norm": "support", "seconds": 1.0,
            "shots": {"1": of, "5": of}}  # fmt: skip


RECORDS = [
    record("protonet", 1, [0.8, 0.6, 0.8, 0.6]),
    record("maml", 0, [0.5, 0.5, 0.7, 0.7]),
    record("maml", 1, [0.3, 0.3, 0.5, 0.5]),
    record("protonet", 0, [0.6, 0.8, 0.6, 0.8]),
    record("anil", 0, [0.4, 0.4, 0.6, 0.6]),
]


def found() -> list[dict[str, Any]]:
    return standings.results(RECORDS, FACTS, [1, 5], "maml")


def test_means_spread_and_differences_by_hand() -> None:
    """Each episode's mean over seeds first; then episodes; differences paired by episode."""
    rows = found()
    assert [(r["learner"], r["shots"]) for r in rows] == [
        ("maml", 1), ("protonet", 1), ("anil", 1), ("maml", 5), ("protonet", 5), ("anil", 5),
    ]  # fmt: skip
    assert rows[0]["pooled"]["auroc"] == pytest.approx({"mean": 0.4, "ci95": 0.15})
    maml, protonet, anil = rows[:3]
    assert maml["accuracy"]["mean"] == pytest.approx(0.5)
    assert maml["seeds"]["accuracy"] == pytest.approx([0.6, 0.4])
    assert maml["seeds"]["sd"] == pytest.approx(np.std([0.6, 0.4], ddof=1))
    assert "minus_maml" not in maml
    assert protonet["accuracy"] == pytest.approx({"mean": 0.7, "ci95": 0.0}, abs=1e-12)
    assert protonet["minus_maml"]["mean"] == pytest.approx(0.2)
    assert protonet["chosen"] == [{"steps": 0}, {"steps": 1}]  # by seed, however they came
    assert anil["seeds"]["sd"] is None
    assert anil["minus_maml"]["mean"] == pytest.approx(0)
    assert anil["p_holm"] == 1.0


def test_without_the_reference_there_are_no_differences() -> None:
    rows = standings.results(RECORDS[:1], FACTS, [1], "maml")
    assert standings.gap_of(rows[0]) is None


def test_every_form_holds_every_row(tmp_path: Path) -> None:
    rows = found()
    text = standings.markdown(rows, "maml")
    assert "| maml | 50.0 ± 18.4 | 14.1 |  |  | support |" in text
    assert "3-way 5-shot, 4 episodes abc" in text
    lines = list(csv.DictReader(io.StringIO(standings.as_csv(rows, "maml"))))
    assert [line["learner"] for line in lines] == [r["learner"] for r in rows]
    assert float(lines[1]["minus_maml"]) == pytest.approx(0.2)
    standings.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
