"""One file to add one thing: a file's name is its key and its factory's name.

Nothing is registered. The folders are listed, and a factory's keyword arguments are read
from its source, so that the command line can name them without importing JAX.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent


def names(folder: str) -> tuple[str, ...]:
    """The things a folder offers: its modules without a leading underscore.

    >>> "maml" in names("algorithms")
    True
    """
    return tuple(sorted(p.stem for p in (ROOT / folder).glob("*.py") if p.stem[0] != "_"))


def module(folder: str, name: str) -> ModuleType:
    """The module of one thing. Raises ValueError that names the choices."""
    if name not in names(folder):
        raise ValueError(f"{folder}: no {name!r}; there are {', '.join(names(folder))}")
    return importlib.import_module(f"medmeta_jax.{folder}.{name}")


def factory(folder: str, name: str) -> Callable[..., Any]:
    """The factory of one thing, e.g. `factory("algorithms", "maml")`."""
    made: Callable[..., Any] = getattr(module(folder, name), name)
    return made


def takes(folder: str, name: str, argument: str) -> bool:
    """Whether a factory has an argument of this name.

    >>> takes("algorithms", "maml", "loss"), takes("algorithms", "maml", "strength")
    (True, False)
    """
    return argument in inspect.signature(factory(folder, name)).parameters


def functions(folder: str, name: str) -> dict[str, ast.FunctionDef]:
    """The functions that a thing's file defines, by name, read from its source."""
    if name not in names(folder):
        raise ValueError(f"{folder}: no {name!r}; there are {', '.join(names(folder))}")
    tree = ast.parse((ROOT / folder / f"{name}.py").read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def defaults(folder: str, name: str, function: str | None = None) -> dict[str, Any]:
    """The keyword-only arguments of a factory that have a literal default, with it; or of
    another function of its file.

    >>> defaults("algorithms", "maml")["steps"]
    5
    """
    node = functions(folder, name).get(function or name)
    if node is None:
        raise ValueError(f"{folder}/{name}.py has no function {function or name}")
    return {
        argument.arg: ast.literal_eval(default)
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if isinstance(default, (ast.Constant, ast.Tuple)) and ast.unparse(default) != "None"
    }
