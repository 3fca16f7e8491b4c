"""A run again is the same to the last bit, and what is not the same is said."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from medmeta_jax import reproducing
from medmeta_jax.data.samples import DataError
from medmeta_jax.report import _loaded as loaded
from medmeta_jax.runs import Run, write_csv

from .tiny_run import copied, train


@pytest.fixture(scope="module")
def run(trained_once: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return copied(trained_once, tmp_path_factory.mktemp("reproducing"))


def reproduced(folder: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("MEDMETA_RUNS", str(Path(folder).parent))
    with jax.numpy_dtype_promotion("standard"):
        return reproducing.reproduce(folder)


@pytest.mark.slow
def test_it_is_the_same_to_the_last_bit(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = reproduced(run, monkeypatch)
    assert found["ok"]
    assert found["run"] != run
    assert "to the last bit: 4 steps, the best parameters, 1 rows on 4" in capsys.readouterr().err


def test_what_differs_is_said(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a digit of a loss, of a score, of a version; another run's parameters differ too."""
    before = loaded.read(run)
    other = loaded.read(str(reproduced(run, monkeypatch)["run"]))
    metrics = [dict(record) for record in other.metrics]
    metrics[-1]["loss"] += 1e-7
    (line,) = reproducing.of_metrics(before, other._replace(metrics=metrics))
    assert line.startswith(f"loss at step 4: {before.metrics[-1]['loss']!r}, and")
    (line,) = reproducing.of_metrics(before, other._replace(metrics=[]))
    assert line == "1 records of metrics, and 0"
    scores = {"anil": other.scores["anil"].copy()}
    scores["anil"][2] += 0.04
    write_csv(other.run.scores, scores)
    (line,) = reproducing.of_scores(before, loaded.read(str(other.run.folder)))
    assert line == "anil on 1 of 4 episodes, +1.00 points"
    (line,) = reproducing.of_scores(before, other._replace(scores={}))
    assert "the row anil is not in both" in line
    environment = json.loads(json.dumps(before.environment))
    environment["versions"]["jax"] = "0.1"
    lines = list(reproducing.elsewhere(before._replace(environment=environment)))
    assert lines == [f"jax was 0.1, and is {jax.__version__}"]


@pytest.mark.slow
def test_other_parameters_are_told(run: str, tmp_path: Path) -> None:
    other = train(tmp_path, seed=1)
    lines = list(reproducing.of_params(loaded.read(run), loaded.read(other)))
    assert len(lines) == 1
    assert lines[0].startswith("parameters: ")


def test_other_data_are_refused(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(run)
    split = Run(folder).split
    before = split.read_text()
    split.write_text(before.replace('"images": "', '"images": "0'))
    with pytest.raises(DataError, match="the meta-train images or classes are not those of"):
        reproduced(run, monkeypatch)
    split.write_text(before)
