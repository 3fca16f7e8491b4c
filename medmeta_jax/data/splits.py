"""Which classes are meta-train, meta-validation and meta-test, and their pools.

The rule is fixed, so that a table can be made again from its command alone:

- a data set that names its own split keeps it (`Samples.split`);
- class folders under train/ and test/ that share no class keep those sides;
- 18 classes or more: by place in the data set's class order, `index % 6 == 5` is
  meta-test, `== 4` meta-validation, the rest meta-train;
- fewer: a third each to meta-test and meta-validation (at least two classes, rounded
  down), evenly spread over the class order, the rest meta-train.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medmeta_jax.data.pool import Pool, Scaling, fit_scaling, make_pool
from medmeta_jax.data.samples import DataError, Samples, select, to_channels

SIDES = ("train", "val", "test")
MIN_CLASSES_FOR_SIXTHS = 18


class Split(NamedTuple):
    """One pool a side, with what tables and errors need to name.

    classes: class names by side, in the order of each pool's rows.
    grouped: whether the data set says which images belong together.
    shared_images, shared_groups: how many meta-test has in common with the other sides.
    """

    pools: dict[str, Pool]
    classes: dict[str, tuple[str, ...]]
    scaling: Scaling
    grouped: bool
    about: str
    class_names: tuple[str, ...]
    shared_images: int
    shared_groups: int


def split_classes(
    samples: Samples, *, sides: tuple[str, ...] = SIDES
) -> dict[str, tuple[str, ...]]:
    """Class names by side; see the module's rule. Raises DataError for too few classes."""
    if samples.split is not None:
        return {side: samples.split[side] for side in sides}
    names = samples.class_names
    least = 2 * len(sides)
    if len(names) < least:
        raise DataError(
            f"{samples.about}: {len(names)} classes ({', '.join(names)}) cannot be split into "
            f"{' and '.join(sides)} with two or more each; add classes, or judge them with "
            f"--meta-test while training on another data set"
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
        share = max(2, len(names) // len(SIDES))
        share = min(share, len(names) // len(sides))
        val = spread(names, share)
        rest = tuple(n for n in names if n not in val)
        test = spread(rest, share) if "test" in sides else ()
    held = set(test) | set(val)
    by_side = {"train": tuple(n for n in names if n not in held), "val": val, "test": test}
    return {side: by_side[side] for side in sides}


def spread(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """`count` names evenly spread over the order.

    >>> spread(("a", "b", "c", "d", "e", "f", "g"), 2)
    ('b', 'f')
    """
    places = ((np.arange(count) + 0.5) * len(names) / count).astype(int)
    return tuple(names[place] for place in places)


def folder_split(samples: Samples) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The classes of train/ and of test/ where they share none, else None."""
    if samples.sides is None:
        return None
    train, test = (
        {samples.class_names[label] for label in samples.labels[samples.sides == side]}
        for side in ("train", "test")
    )
    if not train or not test or train & test:
        return None
    return tuple(sorted(train)), tuple(sorted(test))


def of_side(samples: Samples, side: str) -> Samples:
    """The samples that may stand on a side: meta-test never sees images put in train/."""
    if samples.sides is None:
        return samples
    other = "train" if side == "test" else "test"
    return select(samples, samples.sides != other)


def make_split(samples: Samples, meta_test: Samples | None = None) -> Split:
    """Split the classes of a data set and make the pools.

    Args:
      samples: the data set to meta-train on.
      meta_test: another data set to be judged on, with all its classes; then `samples`
        is split in two, meta-train and meta-validation.

    Intensity scaling is fitted on the meta-train images alone.
    """
    sides = SIDES if meta_test is None else SIDES[:2]
    classes = split_classes(samples, sides=sides)
    sources = {side: of_side(samples, side) for side in sides}
    if meta_test is not None:
        channels = samples.images.shape[-1]
        moved = meta_test._replace(images=to_channels(meta_test.images, channels))
        held_out = meta_test.split["test"] if meta_test.split else meta_test.class_names
        sources["test"], classes["test"] = moved, tuple(held_out)
    train = sources["train"]
    wanted = [train.class_names.index(name) for name in classes["train"]]
    scaling = fit_scaling(train.images[np.isin(train.labels, wanted)])
    about = samples.about if meta_test is None else f"{samples.about} -> {meta_test.about}"
    own, other = (held(sources, classes, group) for group in (("test",), ("train", "val")))
    shared = len(own[0] & other[0])
    if meta_test is not None and shared:
        raise DataError(
            f"{meta_test.about}: {shared} of its images are also in {samples.about}; what is "
            "judged must not have been trained on"
        )
    return Split(
        pools={side: make_pool(sources[side], classes[side], scaling) for side in SIDES},
        classes=classes,
        scaling=scaling,
        grouped=all(source.groups is not None for source in sources.values()),
        about=about,
        class_names=samples.class_names,
        shared_images=shared,
        # Two data sets number their patients each in their own way.
        shared_groups=len(own[1] & other[1]) if meta_test is None else 0,
    )


def held(
    sources: dict[str, Samples], classes: dict[str, tuple[str, ...]], sides: tuple[str, ...]
) -> tuple[set[bytes], set[str]]:
    """The images (as bytes) and groups that some sides hold."""
    images: set[bytes] = set()
    groups: set[str] = set()
    for side in sides:
        source = sources[side]
        wanted = [source.class_names.index(name) for name in classes[side]]
        keep = np.isin(source.labels, wanted)
        images |= {image.tobytes() for image in source.images[keep]}
        if source.groups is not None:
            groups |= set(source.groups[keep].tolist())
    return images, groups
