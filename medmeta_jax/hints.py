"""Whether a value is of an annotated type, how that type is called, and which name was meant."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; whole numbers may stand for real ones.

    >>> fits((2, 5), int | tuple[int, int]), fits(True, int), fits(float("nan"), float)
    (True, False, False)
    """
    kind, inside = get_origin(hint), get_args(hint)
    if kind is Literal:
        return type(value) is str and value in inside
    if kind in (Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if kind is tuple:
        each = inside[:1] * len(value) if isinstance(value, tuple) and ... in inside else inside
        return isinstance(value, tuple) and len(value) == len(each) and all(map(fits, value, each))
    if kind is Mapping:
        return isinstance(value, Mapping)
    if hint is tuple:  # without what is inside: of whole numbers
        return type(value) is tuple and all(type(one) is int for one in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def describe(hint: Any) -> str:
    """An annotated type in words.

    >>> describe(int | tuple[int, int] | None)
    'a whole number or a pair of whole numbers or nothing'
    """
    kind, inside = get_origin(hint), get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(inside)}"
    if kind in (Union, types.UnionType):
        return " or ".join(map(describe, inside))
    if kind is tuple:
        several = {str: "a list of names", float: "a list of numbers"}
        return several[inside[0]] if ... in inside else "a pair of whole numbers"
    words = {
        int: "a whole number", float: "a number", str: "text", bool: "true or false",
        type(None): "nothing", tuple: "a list of whole numbers",
    }  # fmt: skip
    return words.get(hint, "a mapping")


def suggest(name: str, known: Any) -> str:
    """A hint at the nearest known name, as the end of a message."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"
