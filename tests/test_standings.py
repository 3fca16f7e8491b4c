"""Results from records: by hand on a few numbers, and the forms they are written in."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmeta_jax import standings
from medmeta_jax.metrics.comparison import paired_p

FACTS: dict[str, Any] = {
    "data": "D", "columns": ["accuracy", "recall", "f1"], "split": "meta-test", "ways": 3,
    "episodes": 4, "episodes_hash": "abc",
}  # fmt: skip


def record(method: str, seed: int, accuracy: list[float]) -> dict[str, Any]:
    scores = {"accuracy": accuracy, "recall": [a / 4 for a in accuracy],
              "f1": [a / 2 for a in accuracy]}  # fmt: skip
    pooled = {"auroc": {"mean": accuracy[0], "ci95": 0.1 * (1 + seed)}}
    of = {"scores": scores, "over_classes": [0.1, 0.9], "pooled": pooled,
          "chosen": {"steps": seed}}  # fmt: skip
    return {"method": method, "seed": seed, "norm": "support", "seconds": 1.0 + seed,
            "shots": {"1": of, "5": {**of, "over_classes": [0.2, 0.8]}}}  # fmt: skip


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
    assert protonet["seconds"] == [1.0, 2.0]
    assert [row["accuracy_over_classes"] for row in rows[2:4]] == [[0.1, 0.9], [0.2, 0.8]]
    assert anil["seeds"]["sd"] is None
    assert anil["minus_maml"]["mean"] == pytest.approx(0)
    assert anil["p_holm"] == 1.0


def test_without_the_reference_there_are_no_differences() -> None:
    rows = standings.results(RECORDS[:1], FACTS, [1], "maml")
    assert standings.gap_of(rows[0]) is None


def test_every_form_holds_every_row(tmp_path: Path) -> None:
    rows = found()
    text = standings.markdown(rows, "maml")
    # Episodes of maml: 40, 40, 60, 60; of protonet: 70 each, which is 30, 30, 10, 10 more.
    p = min(1.0, 2 * paired_p(np.full(4, 0.7), np.asarray([0.4, 0.4, 0.6, 0.6])))
    assert rows[1]["p_holm"] == pytest.approx(p)
    assert 0.01 < p < 1
    assert f"| protonet | 70.0 ± 0.0 | 0.0 | +20.0 ± 18.4 | {p:.2g} | support |" in text
    assert "| anil | 50.0 ± 18.4 | - | +0.0 ± 0.0 | 1 | support |" in text
    assert "| maml | 50.0 ± 18.4 | 14.1 |  |  | support |" in text
    assert "3-way 5-shot, 4 episodes abc" in text
    lines = list(csv.DictReader(io.StringIO(standings.as_csv(rows, "maml"))))
    assert [line["learner"] for line in lines] == [r["learner"] for r in rows]
    numbers = {
        name: float(lines[1][name])
        for name in ("ways", "shots", "accuracy", "accuracy_ci95", "recall", "f1", "seeds",
                     "sd_over_seeds", "minus_maml", "minus_maml_ci95", "p_holm", "episodes")
    }  # fmt: skip
    assert numbers == pytest.approx(
        {
            "ways": 3, "shots": 1, "accuracy": 0.7, "accuracy_ci95": 0, "recall": 0.175,
            "f1": 0.35, "seeds": 2, "sd_over_seeds": 0, "minus_maml": 0.2,
            "minus_maml_ci95": rows[1]["minus_maml"]["ci95"], "p_holm": p, "episodes": 4,
        },
        abs=1e-12,
    )  # fmt: skip
    assert (lines[1]["norm"], lines[1]["episodes_hash"]) == ("support", "abc")
    assert (lines[0]["minus_maml"], lines[0]["p_holm"], lines[2]["sd_over_seeds"]) == ("", "", "")
    standings.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_plot_names_the_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the last number of shots, ten in a panel; each line at its method's own numbers."""
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    many = [record(f"m{i:02d}", 0, [0.5 + i / 100] * 4) for i in range(12)]
    for one in many:
        one["shots"]["5"] = {**one["shots"]["1"]}
    standings.plot(standings.results(many, FACTS, [1, 5], "m00"), tmp_path / "plot.png")
    panels = [ax.get_legend_handles_labels() for ax in drawn[0].axes]
    assert [name for _, names in panels for name in names] == [
        f"m{i:02d}" for i in range(11, -1, -1)
    ]
    assert len(panels[0][1]) == 10
    line = panels[0][0][0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[1, 61], [5, 61]])
