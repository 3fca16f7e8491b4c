"""Dependencies point one way, and what need not be imported is not."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "medmeta_jax"

# What each part may import of the package, beside itself. Where a name is a folder, all of it.
ALLOWED = {
    "types": set(),
    "registry": set(),
    "losses": {"types"},
    "ops": {"types"},
    "heads": {"types"},
    "mixed": {"types"},
    "inner": {"types", "mixed"},
    "implicit": {"types", "mixed", "inner"},
    "adapters": {"types"},
    "backbones": {"types", "ops", "adapters"},
    "algorithms": {"types", "losses", "heads", "inner", "implicit", "ops"},
    "augment": {"types", "ops"},
    "compress": {"types", "weights"},
    "metrics": set(),
    "data": {"types", "registry", "ops"},
    "parallel": {"types"},
    "objectives": {"types"},
    "meta_gradient": {"types", "parallel", "objectives"},
    "feed": {"types", "parallel"},
    "train": {"types", "parallel", "objectives", "meta_gradient", "feed"},
    "mldg": {"types", "meta_gradient"},
    "launch": set(),
    "processes": {"launch"},
    "whole_images": {"types"},
    "labels": {"types", "losses", "metrics", "whole_images"},
    "fitting": {"types", "labels"},
    "evaluation": {"types", "labels", "metrics", "parallel", "processes"},
    "streaming": {"types", "parallel", "data", "evaluation", "meta_gradient", "feed"},
    "hints": set(),
    "settings": set(),
    "config": {"registry", "hints", "settings"},
    "outer": {"config", "settings", "data", "meta_gradient", "mldg", "objectives"},
    "checkpoint": {"types"},
    "runs": set(),
    "console": set(),
    "tables": {"console"},
    "weights": {"types"},
    "thresholding": {"types", "losses"},
    "personal": {"types", "losses"},
    "baselines": {
        "personal", "types", "registry", "config", "settings", "data", "evaluation", "labels",
        "metrics",
        "thresholding", "fitting",
    },
    "tasks": {"registry", "config", "settings", "data"},
    "learners": {
        "types", "registry", "config", "settings", "data", "augment", "compress", "labels",
        "losses", "checkpoint", "ops", "runs", "weights",
    },
    "experiment": {
        "types", "config", "settings", "data", "augment", "labels", "evaluation", "parallel",
        "processes", "objectives", "tasks", "feed", "streaming", "meta_gradient", "outer",
        "fitting", "learners",
    },
    "running": {
        "types", "augment", "config", "settings", "train", "evaluation", "baselines", "checkpoint",
        "runs", "parallel",
        "processes", "weights", "experiment", "learners",
    },
    "overlays": {"data", "evaluation", "labels"},
    "sheets": {"baselines", "data", "evaluation", "experiment", "labels", "overlays"},
    "report": {"console", "metrics", "registry", "runs", "tables"},
    "details": {
        "baselines", "evaluation", "experiment", "labels", "metrics",
        "overlays",
    },
    "uncertainty": {"types", "evaluation", "experiment", "labels", "metrics"},
    "judging": {
        "baselines", "console", "details", "experiment", "labels", "overlays", "processes",
        "report", "running", "runs", "sheets", "uncertainty",
    },
    "events": {"runs", "settings"},
    "shots": {
        "baselines", "console", "data", "experiment", "plan", "running", "runs", "tables", "types",
    },
    "verbs": {
        "checkpoint", "config", "console", "data", "deploy", "events", "experiment", "judging",
        "options",
        "overlays", "parallel", "processes", "running", "runs", "settings", "sheets", "shots",
        "train",
    },
    "plan": {
        "types", "registry", "config", "settings", "data", "evaluation", "experiment", "hints",
    },
    "protocol": {
        "types", "registry", "config", "settings", "console", "data", "evaluation", "baselines",
        "experiment", "labels", "running", "plan", "thresholding", "fitting", "learners",
    },
    "standings": {"metrics", "console"},
    "bench": {
        "config", "settings", "console", "experiment", "plan", "protocol", "standings", "runs",
        "verbs",
    },
    "deploy": {
        "types", "config", "settings", "weights", "data", "experiment", "labels", "metrics",
        "ops", "overlays", "runs", "learners",
    },
    "deploy_verbs": {
        "config", "console", "data", "deploy", "labels", "options", "overlays", "runs", "settings",
        "verbs",
    },
    "compressing": {
        "types", "compress", "config", "console", "experiment", "learners", "options", "report",
        "running", "runs", "settings", "verbs", "weights",
    },
    "reproducing": {"config", "console", "learners", "report", "runs", "verbs"},
    "replaying": {
        "checkpoint", "config", "console", "experiment", "judging", "meta_gradient", "overlays",
        "parallel", "running", "runs", "settings", "sheets", "train", "types", "verbs", "weights",
    },
    "parsing": {"config", "data", "options", "registry", "settings"},
    "options": set(),
    "doctor": {"runs", "data"},
    "data_verbs": {"config", "settings", "console", "data", "options"},
    "cli": {
        "settings", "console", "verbs", "bench", "data_verbs", "doctor", "data",
        "judging", "options", "parsing",
        "runs", "launch", "processes", "tables", "hints", "deploy_verbs",
        "report", "reproducing", "replaying", "compressing",
    },
    "__init__": {"registry"},
    "__main__": {"cli"},
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medmeta_jax"):
            inside = (node.module or "").split(".")[1:]
            found |= {inside[0]} if inside else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {name[1] for name in names if name[0] == "medmeta_jax" and len(name) > 1}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_direction_of_imports(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in ALLOWED, f"say in this test what {part} may import"
    wrong = imports(path) - ALLOWED[part] - {part}
    assert not wrong, f"{path.name} must not import {sorted(wrong)}"


def test_the_engine_does_not_import_flax() -> None:
    for part in ("types", "losses", "inner", "heads", "train", "evaluation"):
        assert "flax" not in (PACKAGE / f"{part}.py").read_text(encoding="utf-8")
    for path in (PACKAGE / "algorithms").glob("*.py"):
        assert "flax" not in path.read_text(encoding="utf-8")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_does_not_wait_for_jax() -> None:
    code = (
        "import sys\nimport medmeta_jax.cli as c\n"
        "try: c.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print('HEAVY', [m for m in ('jax', 'flax', 'numpy', 'tensorflow') if m in sys.modules])"
    )
    assert run(code).rstrip().endswith("HEAVY []")


def test_public_names_exist_and_are_documented() -> None:
    import medmeta_jax as mm

    for path in FILES:  # a submodule imported earlier must not take a public name's place
        dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        importlib.import_module(dotted.removesuffix(".__init__"))
    for name in mm.__all__:
        made = getattr(mm, name)
        assert not inspect.ismodule(made), name
        if callable(made):
            assert made.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mm.nonsense  # noqa: B018
    assert set(dir(mm)) >= {"maml", "conv4"}
