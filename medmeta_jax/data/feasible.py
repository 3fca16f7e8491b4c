"""Refusing, before anything compiles, a pool that cannot give the episodes that are asked of it."""

from __future__ import annotations

import numpy as np

from medmeta_jax.data.episodes import EpisodeSpec, bounds
from medmeta_jax.data.pool import Pool, of_one_way
from medmeta_jax.data.samples import DataError


def check_pool(pool: Pool, spec: EpisodeSpec, class_names: tuple[str, ...], side: str) -> None:
    """Refuse, before anything is compiled, a pool that cannot give such episodes.

    Raises DataError naming the side of the split, the class, and the number it lacks.
    """
    if spec.rotate and pool.x.ndim != 4:
        raise DataError(
            f"{side}: images are volumes, and rotate makes classes of turned pictures alone; set "
            "rotate_classes to false"
        )
    ways, shots = bounds(spec.ways)[1], bounds(spec.shots)[1]
    one = of_one_way(pool)
    if (ways == 1) != bool(one):
        what = f"1 for {one}" if one else ">= 2 for classes"
        raise DataError(f"{side}: ways must be {what}, got {spec.ways}")
    count = len(class_names) * (4 if spec.rotate else 1)
    if count < ways:
        raise DataError(
            f"{side}: {ways} ways need {ways} classes, there are {count}; lower ways or add classes"
        )
    if one and (spec.rotate or spec.balance == "proportional"):
        raise DataError(
            f"{side}: images have {one}; then queries must be balanced, and classes not rotated"
        )
    if spec.within == "domain":
        check_domains(pool, spec, class_names, side)
    if pool.shown is not None and (
        spec.rotate or spec.balance == "proportional" or isinstance(spec.ways, tuple)
    ):
        raise DataError(
            f"{side}: images have several labels; then ways must be one number, queries balanced, "
            "and classes not rotated"
        )
    if spec.disjoint == "time":
        check_times(pool, shots, class_names, side)
    rows, group, same = (np.asarray(part) for part in (pool.rows, pool.group, pool.same))
    for name, row in zip(class_names, rows, strict=True):
        members = row[row >= 0]
        # Groups are of no help where images are too few.
        count = len(np.unique(same[members] if spec.disjoint != "group" else members))
        if count <= shots:
            what = "images" if count == len(members) else "different images"
            raise DataError(
                f"{side}: class {name!r} has too few {what}: {count}, and {shots}-shot support "
                f"with a query needs {shots + 1}; lower shots, add images, or leave the class out"
            )
        if spec.disjoint != "group":
            continue
        sizes = np.unique(group[members], return_counts=True)[1]
        if len(sizes) < 2:
            raise DataError(
                f"{side}: class {name!r} has 1 group, support and query need at least 2; "
                f"add groups or set disjoint to 'image'"
            )
        if sizes.sum() - sizes.max() < shots:
            raise DataError(
                f"{side}: class {name!r} has {sizes.sum() - sizes.max()} images outside its "
                f"largest group, {shots} shots need {shots}; lower shots or add groups"
            )


def check_times(pool: Pool, shots: int, class_names: tuple[str, ...], side: str) -> None:
    """Refuse a pool without times, or in which nothing of a domain is later than its support."""
    if pool.time is None or pool.shown is not None:
        raise DataError(
            f"{side}: disjoint 'time' needs one class and a time of each image (column time of "
            "groups.csv, or an array times)"
        )
    time, domain = np.asarray(pool.time), np.asarray(pool.domain)
    own = [np.sort(time[row[row >= 0]]) for row in np.asarray(pool.rows)]
    for number in np.unique(domain):
        classes = np.flatnonzero(domain == number)
        last = max(own[place][:shots][-1] for place in classes)
        if not any((own[place] > last).any() for place in classes):
            raise DataError(
                f"{side}: {class_names[classes[0]]} and its like: no image is later than the "
                f"{shots} earliest of each class; lower shots"
            )


def check_domains(pool: Pool, spec: EpisodeSpec, class_names: tuple[str, ...], side: str) -> None:
    """Refuse a pool whose classes are not of one domain each, or a domain with too few."""
    domain, least = np.asarray(pool.domain), bounds(spec.ways)[0]
    if (domain < 0).any():
        name = class_names[int(np.argmax(domain < 0))]
        raise DataError(
            f"{side}: class {name!r} has images of several domains, so that episodes cannot be "
            "drawn within one; set within to 'any'"
        )
    counts = np.bincount(domain, minlength=len(pool.mixing)) * (4 if spec.rotate else 1)
    if counts.min() < least:
        few = [name for name, d in zip(class_names, domain, strict=True) if d == counts.argmin()]
        raise DataError(
            f"{side}: a domain has {counts.min()} classes ({', '.join(few)}), {least} ways need "
            f"{least}; lower ways or set within to 'any'"
        )
