"""What is public is documented: a name without a docstring fails, and one of `import medmeta_jax as
mm` without an example that runs."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import medmeta_jax as mm
from medmeta_jax.options import Adapt

PACKAGE = Path(mm.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
# Its docstring is what `medmeta train --help` begins with.
WITHOUT_EXAMPLE = {"TrainConfig"}


def undocumented(source: str) -> list[str]:
    """The public functions and classes of a module that say nothing, methods too, and "module"
    where it does not itself.

    >>> undocumented('def f(): pass')
    ['module', 'f']
    """
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["module"]
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else []
        for one in (node, *members):
            if isinstance(one, (ast.FunctionDef, ast.ClassDef)) and one.name[0] != "_":
                found += [] if ast.get_docstring(one) else [one.name]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_public_name_says_what_it_is(path: Path) -> None:
    assert undocumented(path.read_text(encoding="utf-8")) == []


def test_what_says_nothing_is_found() -> None:
    silent = '"""A module."""\nclass A:\n    """It."""\n    def b(self): ...\n    def _c(self): ...'
    assert undocumented(silent) == ["b"]
    assert undocumented("x = 1") == ["module"]


@pytest.mark.parametrize("name", [name for name in mm.__all__ if name != "__version__"])
def test_every_name_of_the_package_has_an_example(name: str) -> None:
    """Examples run with the other tests (--doctest-modules)."""
    value = getattr(mm, name)
    if name in WITHOUT_EXAMPLE or (inspect.isclass(value) and issubclass(value, Exception)):
        return
    assert ">>> " in (inspect.getdoc(value) or ""), f"{name}: give it an example that runs"


def test_options_say_what_they_are() -> None:
    """The command line's help is made of the docstrings below the fields of `options`."""
    source = (PACKAGE / "options.py").read_text(encoding="utf-8")
    silent = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            fields = [one for one in node.body[1:] if not isinstance(one, ast.Expr)]
            said = [one for one in node.body[1:] if isinstance(one, ast.Expr)]
            silent += [node.name] if len(fields) != len(said) else []
    assert silent == []
    assert Adapt.__doc__
