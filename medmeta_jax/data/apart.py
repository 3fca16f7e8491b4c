"""What stands on two sides of a split: copies of an image, which are refused, and groups.

The images of each side are told by `used`: [N] bool by side, of `sources`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medmeta_jax.data.copies import digests
from medmeta_jax.data.samples import DataError, Samples


def refuse_shared(
    sources: Mapping[str, Samples], used: Mapping[str, np.ndarray], *, of_several: bool
) -> None:
    """DataError where an image and a copy of it are on two sides.

    of_several: whether sides are of data sets of their own.
    """
    first: dict[bytes, tuple[str, str]] = {}
    twice: list[tuple[str, str, str, str]] = []
    for side, source in sources.items():
        places = np.flatnonzero(used[side])
        for place, digest in zip(places.tolist(), digests(source.images, places), strict=True):
            if digest is None:
                continue
            name = f"image {place}" if source.names is None else str(source.names[place])
            before = first.setdefault(digest, (side, name))
            if before[0] != side:
                twice.append((*before, side, name))
    if not twice:
        return
    side, name, other, copy = twice[0]
    remedy = (
        "remove one of each"
        if of_several
        else "remove one of each, or leave them out by: medmeta data split, train --split FILE"
    )
    raise DataError(
        f"{sources[other].about}: images of {other} are on another side too ({len(twice)}), the "
        f"first is {copy}, the same as {name} of {side}; what is judged must not have been trained "
        f"on: {remedy}"
    )


def groups_of(
    sources: Mapping[str, Samples], used: Mapping[str, np.ndarray], sides: tuple[str, ...]
) -> set[str]:
    """The groups that some sides hold."""
    found: set[str] = set()
    for side in sides:
        groups = sources[side].groups
        if groups is not None:
            found |= set(groups[used[side]].tolist())
    return found
