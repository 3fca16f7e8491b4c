"""What a data set holds, looked at once: counts, sizes, intensities, copies, what cannot be read.

Copies are looked for in two ways. Exact: the same pixels. Near: nearly the same picture after it is
made small, by a difference hash (each bit says whether a pixel is brighter than its left
neighbour, on 17 x 16 pixels; Zauner 2010 compares such hashes), at most `NEAR_BITS` of 256 bits
apart; a volume's middle slice stands for it. A copy across patients, classes or sides is what makes
a result too good.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data.reading import read_units
from medmeta_jax.data.records import Catalogue, Record, labels_of
from medmeta_jax.data.samples import Skipped, as_pil, picture_of, to_channels

NEAR_BITS = 8
MOST_COMPARED = 2000  # records alike in a part of their hash; beyond, near copies go uncounted
EXAMPLES = 10


class Look(NamedTuple):
    """What is kept of a record: no pixels.

    exact: a digest of shape and pixels; near: [32] uint8, the 256 bits of its difference hash, or
    None for a plain image, which has none; histogram: [256] counts of its values.
    """

    name: str
    labels: tuple[str, ...]
    group: str | None
    side: str
    domain: str | None
    modality: str | None
    size: tuple[int, ...]
    masked: bool
    boxes: int
    exact: bytes
    near: np.ndarray | None
    histogram: np.ndarray


class Survey(NamedTuple):
    """All looks at a data set, in order, and the units that could not be read."""

    about: str
    looks: list[Look]
    unreadable: list[Skipped]


class Seen(NamedTuple):
    """A look, the image for whoever wants to draw it, and how many units have been read."""

    look: Look
    image: np.ndarray
    place: int


def look_at(record: Record) -> Look:
    """What is kept of a record."""
    image = record.image
    digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16)
    return Look(
        name=record.name,
        labels=labels_of(record),
        group=record.group,
        side=record.side,
        domain=record.domain,
        modality=record.modality,
        size=image.shape,
        masked=record.mask is not None,
        boxes=len(record.boxes),
        exact=digest.digest(),
        near=difference_hash(picture_of(image)),
        histogram=np.bincount(image.ravel(), minlength=256),
    )


def difference_hash(image: np.ndarray) -> np.ndarray | None:
    """[H, W, C] uint8 -> [32] uint8, 256 bits; None for an image of one value."""
    from PIL import Image

    grey = as_pil(to_channels(image, 1))
    small = np.asarray(grey.resize((17, 16), Image.Resampling.BOX), np.int16)
    if np.ptp(small) == 0:
        return None
    return np.packbits(small[:, 1:] > small[:, :-1])


def go_through(catalogue: Catalogue, unreadable: list[Skipped]) -> Iterator[Seen]:
    """Every record of a catalogue, seen; units that cannot be read are added to `unreadable`."""

    def seen(record: Record) -> tuple[Look, np.ndarray]:
        return look_at(record), record.image

    reads = read_units(catalogue, seen, on_error="skip", skip_at_most=1.0)
    for place, read in enumerate(reads, 1):
        if read.problem:
            unreadable.append(Skipped(read.unit.name, read.problem))
        for look, image in read.records:
            yield Seen(look, image, place)


def near_pairs(looks: list[Look]) -> tuple[list[tuple[int, int]], int]:
    """Pairs of records whose hashes are at most `NEAR_BITS` apart and whose pixels differ, and how
    many records were left out because too many were alike.

    Hashes that are so near agree in one of `NEAR_BITS` + 1 parts at least, so only those that
    agree in a part are compared.
    """
    hashed = {i: look.near for i, look in enumerate(looks) if look.near is not None}
    if not hashed:
        return [], 0
    places = list(hashed)
    bits = np.unpackbits(np.stack(list(hashed.values())), axis=1)
    found: set[tuple[int, int]] = set()
    left_out: set[int] = set()
    for part in np.array_split(np.arange(bits.shape[1]), NEAR_BITS + 1):
        _, alike = np.unique(np.packbits(bits[:, part], axis=1), axis=0, return_inverse=True)
        alike = alike.ravel()
        order = np.argsort(alike, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(alike[order])) + 1):
            if len(members) > MOST_COMPARED:
                left_out |= set(members.tolist())
                continue
            some = bits[members].astype(np.int16)
            apart = some.sum(1)[:, None] + some.sum(1) - 2 * (some @ some.T)
            for a, b in np.argwhere(np.triu(apart <= NEAR_BITS, 1)):
                found.add((places[members[a]], places[members[b]]))
    differ = [(a, b) for a, b in sorted(found) if looks[a].exact != looks[b].exact]
    return differ, len(left_out)


def exact_pairs(looks: list[Look]) -> list[tuple[int, int]]:
    """Each record that repeats the pixels of an earlier one, with that one."""
    first: dict[bytes, int] = {}
    pairs = []
    for i, look in enumerate(looks):
        earlier = first.setdefault(look.exact, i)
        if earlier != i:
            pairs.append((earlier, i))
    return pairs


def across(looks: list[Look], pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """How many pairs there are, and how many stand across what must be kept apart."""
    return {
        "pairs": len(pairs),
        "across_classes": sum(looks[a].labels != looks[b].labels for a, b in pairs),
        "across_groups": sum(looks[a].group != looks[b].group for a, b in pairs),
        "across_sides": sum(looks[a].side != looks[b].side for a, b in pairs),
        "examples": [[looks[a].name, looks[b].name] for a, b in pairs[:EXAMPLES]],
    }


def intensity(looks: list[Look]) -> dict[str, float]:
    """Mean, standard deviation and range over all pixels of all images, 0 to 255."""
    counts = np.sum([look.histogram for look in looks], axis=0, dtype=np.float64)
    values = np.arange(256)
    mean = float((counts * values).sum() / counts.sum())
    there = np.flatnonzero(counts)
    return {
        "mean": round(mean, 3),
        "std": round(float(np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())), 3),
        "min": int(there[0]),
        "max": int(there[-1]),
    }


def facts(survey: Survey) -> dict[str, Any]:
    """A survey as JSON can hold it."""
    looks = survey.looks
    sizes = Counter(look.size for look in looks)
    near, left_out = near_pairs(looks)

    def counted(values: list[Any]) -> dict[str, int] | None:
        return dict(sorted(Counter(values).items())) if any(values) else None

    groups = [look.group for look in looks if look.group is not None]
    return {
        "samples": len(looks),
        "classes": dict(sorted(Counter(name for look in looks for name in look.labels).items())),
        "unlabelled": sum(not look.labels for look in looks),
        "groups": len(set(groups)) if groups else None,
        "modalities": counted([look.modality or "" for look in looks]),
        "domains": counted([look.domain or "" for look in looks]),
        "sides": counted([look.side for look in looks]),
        "masks": sum(look.masked for look in looks),
        "boxes": sum(look.boxes for look in looks),
        "sizes": [{"size": list(size), "images": n} for size, n in sizes.most_common(EXAMPLES)],
        "different_sizes": len(sizes),
        "intensity": intensity(looks) if looks else None,
        "duplicates": {
            "exact": across(looks, exact_pairs(looks)),
            "near": {**across(looks, near), "not_compared": left_out},
        },
        "unreadable": [one._asdict() for one in survey.unreadable],
        "about": survey.about,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The facts of a survey, for people."""
    common = ", ".join(
        f"{'x'.join(map(str, one['size']))} ({one['images']})" for one in found["sizes"][:3]
    )
    more = found["different_sizes"] - 3
    told = [
        f"{found['about']}: {found['samples']} images, groups (patients) "
        f"{found['groups'] if found['groups'] is not None else 'not named'}",
        f"sizes       {common}{f' and {more} more' if more > 0 else ''}",
        f"intensity   mean {found['intensity']['mean']:.1f}, deviation "
        f"{found['intensity']['std']:.1f}, {found['intensity']['min']} to "
        f"{found['intensity']['max']}",
    ]
    for kind in ("modalities", "domains", "sides"):
        if found[kind]:
            parts = ", ".join(f"{name or '-'} {n}" for name, n in found[kind].items())
            told.append(f"{kind:12s}{parts}")
    if found["masks"] or found["boxes"]:
        told.append(f"truth       {found['masks']} masks, {found['boxes']} boxes")
    for kind, words in (("exact", "copies"), ("near", "near copies")):
        of = found["duplicates"][kind]
        told.append(
            f"{words:12s}{of['pairs']}: across classes {of['across_classes']}, groups "
            f"{of['across_groups']}, sides {of['across_sides']}"
        )
    for one in found["unreadable"][:EXAMPLES]:
        told.append(f"unreadable  {one['reason']}")
    if len(found["unreadable"]) > EXAMPLES:
        told.append(f"unreadable  and {len(found['unreadable']) - EXAMPLES} more")
    told += [f"  {count:6d}  {name}" for name, count in found["classes"].items()]
    return told + ([f"  {found['unlabelled']:6d}  (no label)"] if found["unlabelled"] else [])
