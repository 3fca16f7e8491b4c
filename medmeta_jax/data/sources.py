"""Where data comes from: the source file that recognises a name or path reads it.

A source is a module of this folder with `recognises(source) -> bool`, `catalogue(source) ->
Catalogue` and `example(where) -> source`, which writes a small data set in its format. Adding one
is adding its file. One whose records are by default not whole images with all their boxes has
`WHOLE`, the options of `catalogue` by which they are. Class folders are what a folder is that no
other source recognises.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from medmeta_jax import registry
from medmeta_jax.data import reading
from medmeta_jax.data.reading import OnError
from medmeta_jax.data.records import Catalogue
from medmeta_jax.data.samples import DataError, Samples

LAST = "folder"


@functools.cache
def sources() -> dict[str, ModuleType]:
    """Every source by its name, the one of any folder last."""
    # Told by their source text, so that files that are no sources (and bring JAX) stay unimported.
    names = [n for n in registry.names("data") if "recognises" in registry.functions("data", n)]
    ordered = sorted(names, key=lambda name: (name == LAST, name))
    return {name: registry.module("data", name) for name in ordered}


def find(source: str) -> str:
    """The name of the source that reads a data set. Raises DataError naming the path."""
    for name, made in sources().items():
        if made.recognises(source):
            return name
    if not Path(source).exists():
        raise DataError(f"{source}: no such file or folder, and no built-in data set of that name")
    raise DataError(f"{source}: not a folder of class folders and not an .npz file")


def catalogue(source: str, **options: Any) -> Catalogue:
    """The units of a data set by name or path. Raises DataError naming the path and the remedy.

    Args:
      options: keyword arguments of the source's own `catalogue`.
    """
    made = sources()[find(source)]
    try:
        found: Catalogue = made.catalogue(source, **options)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error})") from None
    return found


def options(source: str) -> dict[str, Any]:
    """What a data set's source may be told, with its own defaults. Raises DataError where there is
    no such data set."""
    return registry.defaults("data", find(source), "catalogue")


def of_whole_images(source: str) -> dict[str, Any]:
    """The options of a source's `catalogue` by which its records are whole images with all their
    boxes. Raises DataError naming the path."""
    return dict(getattr(sources()[find(source)], "WHOLE", {}))


def load(
    source: str,
    *,
    image_size: int,
    on_error: OnError = "fail",
    masks: bool = False,
    modalities: tuple[str, ...] = (),
    read: Mapping[str, Any] = MappingProxyType({}),
) -> Samples:
    """Read a data set by name or path, with its masks where asked for, and several modalities of an
    image as its channels, where these are named; `read` are options of its source's `catalogue`.
    Raises DataError naming the path and the remedy.

    >>> load("anatomy", image_size=28).images.shape[1:]
    (28, 28, 1)
    >>> load("nowhere", image_size=28)
    Traceback (most recent call last):
    medmeta_jax.data.samples.DataError: nowhere: no such file or folder, and no built-in data set...
    """
    return reading.load_samples(
        catalogue(source, **read),
        image_size=image_size,
        on_error=on_error,
        masks=masks,
        modalities=modalities,
    )
