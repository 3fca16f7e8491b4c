"""Run directories: what they are called, and that none is written twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medmeta_jax import runs


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("maml-tfds:colorectal_histology", "maml-tfds-colorectal_histology"),
        ("maml-tfds:own/small:1.0.0", "maml-tfds-own-small-1.0.0"),
        ("maml-röntgen (2)", "maml-r-ntgen-2"),
        ("maml-..", "maml"),
        ("maml-blood_cells", "maml-blood_cells"),
    ],
)
def test_names_are_portable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: str
) -> None:
    """Letters, digits and -_. alone, whatever a data set is called."""
    monkeypatch.setenv("MEDMETA_RUNS", str(tmp_path))
    first, second = (runs.create(name, {"seed": 0}).folder.name for _ in range(2))
    assert re.fullmatch(r"\d{8}-\d{6}-" + re.escape(kept) + "(-1)?", first)
    assert first != second


def test_the_default_folder_of_a_comparison_is_portable(monkeypatch: pytest.MonkeyPatch) -> None:
    from medmeta_jax import bench
    from medmeta_jax.options import BenchMethods

    asked: list[Path] = []
    monkeypatch.setattr(bench.plans, "make_plan", lambda *_: None)
    monkeypatch.setattr(bench.verbs, "use_devices", lambda *_: None)
    monkeypatch.setattr(bench.protocol, "require_fit", lambda *_: None)
    monkeypatch.setattr(bench, "bench_methods", lambda *given: asked.append(given[2]))
    for out in (None, "my:own"):
        bench.run(BenchMethods(data="tfds:own", out=out, methods=("maml",)), lambda: False)
    assert asked == [Path("bench/tfds-own-small"), Path("my:own")]
