"""Nothing that is read is run: no pickle and no evaluation of text, anywhere in the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "medmeta_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    ("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load"),
    ("yaml", "full_load"), ("torch", "load"),
}  # fmt: skip


def name_of(node: ast.expr) -> tuple[str, ...]:
    """A dotted name as its parts; empty for anything else."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        inner = name_of(node.value)
        return (*inner, node.attr) if inner else ()
    return ()


def unsafe(source: str) -> list[str]:
    """What a file does that could run what it reads.

    >>> unsafe("import pickle; np.load(path); eval(text); yaml.safe_load(text)")
    ['pickle', 'np.load without allow_pickle=False', 'eval']
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        if not isinstance(node, ast.Call):
            continue
        name, said = name_of(node.func), {one.arg: one.value for one in node.keywords}
        if (len(name) == 1 and name[0] in CALLS) or name in METHODS:
            found.append(".".join(name))
        if name == ("np", "load"):
            allowed = said.get("allow_pickle")
            if not (isinstance(allowed, ast.Constant) and allowed.value is False):
                found.append("np.load without allow_pickle=False")
        shell = said.get("shell")
        if name[:1] == ("subprocess",) and shell is not None:
            found.append("subprocess with a shell")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_read_is_run(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["from pickle import loads", "exec(text)", "np.load(p, allow_pickle=True)", "yaml.load(t)",
     "subprocess.run(c, shell=True)", "os.system(c)", "import joblib.numpy_pickle"],
)  # fmt: skip
def test_what_would_run_it_is_found(source: str) -> None:
    assert len(unsafe(source)) == 1
