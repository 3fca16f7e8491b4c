"""Which classes are meta-train, meta-validation and meta-test, and their pools.

The rule is fixed, so that a table can be made again from its command alone:

- a split file (`split_file`) says the side of every image;
- a data set that names its own split keeps it (`Samples.split`);
- class folders under train/ and test/ that share no class keep those sides;
- 18 classes or more: by place in the data set's class order, `index % 6 == 5` is
  meta-test, `== 4` meta-validation, the rest meta-train;
- fewer: a third each to meta-test and meta-validation (at least two classes, rounded
  down), evenly spread over the class order, the rest meta-train.

Where an image may show several labels, it stands on one side all the same: on meta-test if it
shows any label of meta-test, else on meta-validation if it shows one of those, else on
meta-train; images that show none are dealt out by group, a sixth to meta-test and a sixth to
meta-validation.

What was measured, and structures to be marked, are on every side, of other images, which are dealt
out by group, a sixth to meta-test and a sixth to meta-validation; where the data set's own folders
or files say what is test, the groups of that are meta-test. Objects to be found are dealt so too,
and their kinds, where there are three or more, as classes are, one or more to each side: a side has
other images than the others, and looks for other kinds in them.

`held_out` names the classes of meta-validation and meta-test in place of these rules.

Meta-validation and meta-test may be data sets of their own instead, with all their classes;
meta-training may be on several.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from medmeta_jax.data.apart import groups_of, refuse_shared
from medmeta_jax.data.covariates import Table, of_sides
from medmeta_jax.data.histogram import standardise
from medmeta_jax.data.pool import Pool, Scaling, fit_scaling, make_pool, members_of
from medmeta_jax.data.samples import (
    DataError,
    Samples,
    Skipped,
    join,
    of_each_class,
    on_every_side,
    require_one_rank,
    select,
    shows,
    to_channels,
)
from medmeta_jax.data.stored import StoredImages, as_stored

SIDES = ("train", "val", "test")
ON = {"val": "validated on", "test": "judged on"}
MIN_CLASSES_FOR_SIXTHS = 18


class Split(NamedTuple):
    """One pool a side, with what tables and errors need to name.

    classes: class names by side, in the order of each pool's rows.
    grouped, ungrouped: the data sets that say which images belong together (of one patient),
        and those that do not, in which each image is a group of its own.
    patients: whether all images of meta-test say which group they are of.
    shared_groups: how many meta-test has in common with the other sides.
    skipped: the files that could not be read and were left out.
    standardised: whether the domains' intensities were brought onto one scale.
    stored: by side, the fields of each pool that does not hold its images: these, and their masks
        where it has them, in its order.
    covariates: the names of those that images have.
    """

    pools: dict[str, Pool]
    classes: dict[str, tuple[str, ...]]
    scaling: Scaling
    grouped: tuple[str, ...]
    ungrouped: tuple[str, ...]
    about: str
    class_names: tuple[str, ...]
    shared_groups: int
    patients: bool = False
    skipped: tuple[Skipped, ...] = ()
    standardised: bool = False
    stored: Mapping[str, Mapping[str, StoredImages]] = MappingProxyType({})
    covariates: tuple[str, ...] = ()

    @property
    def copies(self) -> int:
        """How many images are copies of another on their side."""
        same = [np.asarray(pool.same) for pool in self.pools.values()]
        return sum(int((of != np.arange(len(of))).sum()) for of in same)

    @property
    def domains(self) -> int:
        """How many the meta-train pool has."""
        return len(self.pools["train"].mixing)


def split_classes(
    samples: Samples, *, sides: tuple[str, ...] = SIDES
) -> dict[str, tuple[str, ...]]:
    """Class names by side; see the module's rule. Raises DataError for too few classes."""
    if samples.split is not None:
        return {side: samples.split[side] for side in sides}
    names = samples.class_names
    of_kinds = samples.boxes is not None and len(names) >= len(SIDES) and sides == SIDES
    if on_every_side(samples) and not of_kinds:
        return dict.fromkeys(sides, names)
    if sides == ("train",):
        return {"train": names}
    fewest = 1 if of_kinds else 2
    least = fewest * len(sides)
    if len(names) < least:
        raise DataError(
            f"{samples.about}: {len(names)} classes ({', '.join(names)}) cannot be split into "
            f"{' and '.join(sides)} with two or more each; add classes, or name other data sets "
            f"to validate on (--meta-val) and to judge on (--meta-test)"
        )
    of_folders = folder_split(samples)
    if of_folders is not None and sides == SIDES:
        train, test = of_folders
        if min(len(train) // 3, len(test)) < 2:
            raise DataError(
                f"{samples.about}: train/ and test/ share no class; train/ needs 6 classes or "
                f"more and test/ 2, got {len(train)} and {len(test)}"
            )
        val = spread(train, len(train) // 3)
        return {"train": tuple(n for n in train if n not in val), "val": val, "test": test}
    if len(names) >= MIN_CLASSES_FOR_SIXTHS:
        test = names[5::6] if "test" in sides else ()
        val = names[4::6]
    else:
        share = max(fewest, len(names) // len(SIDES))
        share = min(share, len(names) // len(sides))
        val = spread(names, share)
        rest = tuple(n for n in names if n not in val)
        test = spread(rest, share) if "test" in sides else ()
    held = set(test) | set(val)
    by_side = {"train": tuple(n for n in names if n not in held), "val": val, "test": test}
    return {side: by_side[side] for side in sides}


def held_out(samples: Samples, val: tuple[str, ...], test: tuple[str, ...]) -> Samples:
    """The samples with these classes for meta-validation and meta-test, and the rest for
    meta-training. Raises DataError for a class that is not there, or is named twice, or where
    none is left."""
    by_side = sides_of_names(
        samples.about, samples.class_names, val, test, "class of it", "classes"
    )
    return samples._replace(split=by_side)


def sides_of_names(
    about: str,
    names: tuple[str, ...],
    val: tuple[str, ...],
    test: tuple[str, ...],
    one: str,
    several: str,
) -> dict[str, tuple[str, ...]]:
    """Names by side, those held out and the rest; DataError as of `held_out`, in which names are
    called `one` and `several`."""
    for name in (*val, *test):
        if name not in names or (*val, *test).count(name) > 1:
            what = "is held out twice" if name in names else f"is no {one}"
            raise DataError(f"{about}: {name!r} {what}; it has {', '.join(names)}")
    train = tuple(name for name in names if name not in (*val, *test))
    if not train:
        raise DataError(f"{about}: all {several} are held out, and none is left to train on")
    return {"train": train, "val": val, "test": test}


def spread(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """`count` names evenly spread over the order.

    >>> spread(("a", "b", "c", "d", "e", "f", "g"), 2)
    ('b', 'f')
    """
    places = ((np.arange(count) + 0.5) * len(names) / count).astype(int)
    return tuple(names[place] for place in places)


def folder_split(samples: Samples) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The classes of train/ and of test/ where they share none, else None."""
    if samples.sides is None or samples.labels.ndim == 2:  # an image of several is of no class
        return None
    train, test = (
        {samples.class_names[label] for label in samples.labels[samples.sides == side]}
        for side in ("train", "test")
    )
    if not train or not test or train & test:
        return None
    return tuple(sorted(train)), tuple(sorted(test))


def may_stand(samples: Samples, side: str) -> np.ndarray:
    """Which samples may stand on a side: meta-test never sees images put in train/."""
    if samples.sides is None:
        return np.ones(len(samples.images), bool)
    return samples.sides != ("train" if side == "test" else "test")


def make_split(
    samples: Samples | Mapping[str, Samples],
    *,
    val: Samples | None = None,
    test: Samples | None = None,
    mixing: tuple[float, ...] = (),
    given: np.ndarray | None = None,
    standardised: bool = False,
    table: Table | None = None,
) -> Split:
    """Split the classes of a data set and make the pools.

    Args:
      samples: the data set to meta-train on, or several by name, each a domain.
      val, test: other data sets to validate and be judged on, with all their classes; only
        the other sides are then split from `samples`.
      mixing: how often a meta-training episode comes from each domain, where it comes from one.
      given: [N] str, the side of each image of `samples` or "" for none, in place of the rule;
        a class may then be on several sides.
      standardised: whether the domains' intensities are brought onto one scale (`histogram`).
      table: of covariates of the patients, which images of one data set then have too.

    Intensity scaling is fitted on the meta-train images alone.

    >>> images = np.arange(72, dtype=np.uint8).reshape(18, 2, 2, 1)
    >>> samples = Samples(images, np.arange(18) // 2, tuple("abcdefghi"))
    >>> make_split(samples).classes["test"]
    ('c', 'f', 'i')
    """
    parts = {"": samples} if isinstance(samples, Samples) else dict(samples)
    joined = join(parts)
    others = {side: s for side, s in (("val", val), ("test", test)) if s is not None}
    own = tuple(side for side in SIDES if side not in others)
    classes = split_classes(joined, sides=own) if given is None else classes_of(joined, given)
    if given is not None:
        sources = {side: select(joined, given == side) for side in SIDES}
    elif joined.labels.ndim == 2 and len(own) > 1:
        sources = sides_of_images(joined, classes)
    else:
        sources = {
            side: select(joined, may_stand(joined, side)) if len(own) > 1 else joined
            for side in own
        }
    require_one_rank((part.about, part.images.ndim) for part in (joined, *others.values()))
    for side, other in others.items():
        images = to_channels(other.images, joined.images.shape[-1])
        sources[side] = other._replace(images=images)
        classes[side] = tuple(other.split[side] if other.split else other.class_names)
    sources = {side: sources[side] for side in SIDES}
    used = {side: of_classes(sources[side], classes[side]) for side in SIDES}
    refuse_shared(sources, used, of_several=bool(others))
    if standardised:
        refuse_one_domain(joined, others)
        sources = standardise(sources, used, own)
    covariates: tuple[str, ...] = ()
    if table is not None:
        sources, covariates = of_sides(table, sources, used)
    trained_on = select(sources["train"], used["train"])
    scaling = fit_scaling(trained_on.images, trained_on.present)
    pools = {
        side: make_pool(sources[side], classes[side], scaling, mixing if side == "train" else ())
        for side in SIDES
    }
    stored = {
        side: stored_fields(source, members_of(source, classes[side])[1])
        for side, source in sources.items()
        if isinstance(source.images, StoredImages)
    }
    judged, seen = (groups_of(sources, used, sides) for sides in (("test",), ("train", "val")))
    every = (*parts.values(), *others.values())
    on_test = (others["test"],) if "test" in others else parts.values()
    return Split(
        pools=pools,
        classes=classes,
        scaling=scaling,
        grouped=tuple(part.about for part in every if part.groups is not None),
        ungrouped=tuple(part.about for part in every if part.groups is None),
        about="; ".join(
            [joined.about, *(f"{ON[side]} {one.about}" for side, one in others.items())]
        ),
        class_names=joined.class_names,
        # Two data sets number their patients each in their own way.
        shared_groups=0 if "test" in others else len(judged & seen),
        patients=all(part.groups is not None for part in on_test),
        skipped=tuple(one for part in every for one in part.skipped),
        standardised=standardised,
        stored=stored,
        covariates=covariates,
    )


def stored_fields(samples: Samples, used: np.ndarray) -> dict[str, StoredImages]:
    """The fields of a pool of some samples whose images stay in their files."""
    fields = {"x": samples.images[used]}
    if samples.masks is not None:
        fields["masks"] = samples.masks[used]
    return {name: as_stored(images) for name, images in fields.items()}


def refuse_one_domain(samples: Samples, others: Mapping[str, Samples]) -> None:
    """DataError where there is nothing to bring onto one scale."""
    if not others and (samples.domains is None or len(np.unique(samples.domains)) < 2):
        raise DataError(
            f"{samples.about}: is of one domain, and standardise brings several onto one scale; "
            "leave it out, or name more data sets (--also, --meta-val, --meta-test)"
        )


def classes_of(samples: Samples, given: np.ndarray) -> dict[str, tuple[str, ...]]:
    """The classes that each side's images are of, or show."""
    of_class = of_each_class(samples)
    return {
        side: tuple(np.asarray(samples.class_names)[of_class[given == side].any(0)].tolist())
        for side in SIDES
    }


def of_classes(samples: Samples, names: tuple[str, ...]) -> np.ndarray:
    """The images that a pool of these classes holds: [N] bool."""
    if samples.labels.dtype == np.bool_ and samples.masks is None:
        return np.ones(len(samples.images), bool)
    return np.any([shows(samples, name) for name in names], axis=0)


def sides_of_images(samples: Samples, classes: dict[str, tuple[str, ...]]) -> dict[str, Samples]:
    """The images of each side where they may show several labels, or have values or masks; see
    the module's rule."""
    groups = samples.groups if samples.groups is not None else np.arange(len(samples.images))
    turn = np.unique(groups, return_inverse=True)[1] % 6
    side = np.full(len(samples.images), "train")
    every = on_every_side(samples)
    dealt = np.full(len(side), True) if every else ~samples.labels.any(1)
    of_test = turn == 5
    if every and samples.sides is not None and (samples.sides == "test").any():
        of_test = np.isin(groups, groups[samples.sides == "test"])
    for name, own in (("val", turn == 4), ("test", of_test)):  # the later one wins
        if name in classes:
            side[dealt & own] = name
            if not every:
                side[np.any([shows(samples, label) for label in classes[name]], axis=0)] = name
    return {name: select(samples, may_stand(samples, name) & (side == name)) for name in classes}
