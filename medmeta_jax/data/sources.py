"""Where data comes from: the source file that recognises a name or path reads it.

A source is a module of this folder with `recognises(source) -> bool`, `load(source, *,
image_size) -> Samples`, and `example(where) -> source`, which writes a small data set in
its format. Adding one is adding its file.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from medmeta_jax import registry
from medmeta_jax.data.samples import DataError, Samples


def sources() -> dict[str, ModuleType]:
    """Every source by its name."""
    found = {name: registry.module("data", name) for name in registry.names("data")}
    return {name: made for name, made in found.items() if hasattr(made, "recognises")}


def load(source: str, *, image_size: int) -> Samples:
    """Read a data set by name or path. Raises DataError naming the path and the remedy."""
    for made in sources().values():
        if made.recognises(source):
            try:
                samples: Samples = made.load(source, image_size=image_size)
            except OSError as error:
                raise DataError(f"{source}: cannot be read ({error})") from None
            return samples
    if not Path(source).exists():
        raise DataError(f"{source}: no such file or folder, and no built-in data set of that name")
    raise DataError(f"{source}: not a folder of class folders and not an .npz file")
