"""Notebooks run, quickly, and stand paired: the script and the notebook say the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_pair_agrees_and_was_run(script: Path) -> None:
    source = jupytext.read(script)
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    cells = [(cell.cell_type, cell.source) for cell in source.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in notebook.cells]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_runs_from_start_to_end(script: Path) -> None:
    # As a user runs it: without the flags that make this suite compile quickly.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**environment, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_the_quickstart() -> None:
    """The README's ten lines are the notebook's first cell, but for where names are kept."""
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    block = readme.split("```python\n")[1].split("```")[0]
    lines = [line for line in block.splitlines() if "=" in line and "import" not in line]
    cells = jupytext.read(FOLDER / "01_quickstart.py").cells
    cell = next(cell for cell in cells if cell.cell_type == "code")
    assert len(lines) >= 9
    assert not [line for line in lines if line not in cell.source]
