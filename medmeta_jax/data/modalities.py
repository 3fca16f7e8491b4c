"""Several modalities of a subject as one image, each a channel; which are there is kept beside it.

Images of one group (patient) and place, such as a slice's number, and of different modalities are
one; a source tells the place where its modalities lie on one grid. A modality that an image lacks
is a channel of zeros, and NaN in an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medmeta_jax.data.records import Record
from medmeta_jax.data.samples import DataError, to_channels


class Stacked(NamedTuple):
    """records: an image of M channels each. present: [N, M] bool."""

    records: list[Record]
    present: np.ndarray


def stacked(records: Sequence[Record], modalities: tuple[str, ...], about: str) -> Stacked:
    """Records of one modality each, of one size, as records of several, in order of appearance.

    Others than the named modalities are left out. Label and mask are those of the first of them
    that is there. Raises DataError naming what is missing, or there twice, and the remedy.
    """
    places: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        if record.modality not in modalities:
            continue
        if record.group is None:
            raise DataError(
                f"{about}: {record.name} names no group (patient), by which modalities belong "
                "together; name groups, or leave modalities out"
            )
        found = places.setdefault((record.group, record.place), {})
        if record.modality in found:
            raise DataError(
                f"{about}: {found[record.modality].name} and {record.name} are of one patient, "
                f"place and modality ({record.modality}); bring its modalities onto one grid "
                "(data prepare --read.onto-modality), or keep one image of each"
            )
        found[record.modality] = record
    known = {record.modality for record in records} - {None}
    missing = [name for name in modalities if name not in known]
    if missing:
        raise DataError(
            f"{about}: modalities: no image is of modality {missing[0]!r}; there are "
            f"{', '.join(sorted(map(str, known))) or 'none'}"
        )
    present = np.asarray([[name in of for name in modalities] for of in places.values()])
    every = [joined(of, modalities, about) for of in places.values()]
    return Stacked(every, present)


def joined(of: dict[str, Record], modalities: tuple[str, ...], about: str) -> Record:
    """The images of one place as one record (DataError where they do not fit together)."""
    first = next(of[name] for name in modalities if name in of)
    spatial = first.image.shape[:-1]
    image = np.zeros((*spatial, len(modalities)), np.uint8)
    for channel, name in enumerate(modalities):
        if name not in of:
            continue
        own = of[name]
        if own.image.shape[:-1] != spatial:
            raise DataError(
                f"{about}: {first.name} and {own.name} are of {spatial} and {own.image.shape[:-1]} "
                "pixels; bring the modalities onto one grid"
            )
        image[..., channel] = to_channels(own.image, 1)[..., 0]
    name = f"{first.group}[{first.place}]" if first.place else str(first.group)
    return first._replace(image=image, name=name, modality=None)


def require_one_label(records: Sequence[Record], modalities: tuple[str, ...], about: str) -> None:
    """DataError where the images of one patient and place are labelled differently."""
    labels: dict[tuple[str | None, str], Record] = {}
    for record in records:
        if record.modality in modalities:
            first = labels.setdefault((record.group, record.place), record)
            if first.label != record.label:
                raise DataError(
                    f"{about}: {first.name} is labelled {first.label!r} and {record.name} "
                    f"{record.label!r}; the modalities of one image have one label"
                )
