"""Images of a type of lesion or of none, with masks: which one an image shows, and where.

A task is a few types and images without any. The class whose masks are all empty is that of the
images without: it is in every episode and on every side of a split, of other groups on each, which
are dealt out in the order of their names, a sixth to meta-test and a sixth to meta-validation. The
types are split as classes are (`splits`), so that those of meta-test are not seen before.
"""

from __future__ import annotations

import numpy as np

from medmeta_jax.data.samples import DataError, Samples, Skipped, select
from medmeta_jax.data.splits import SIDES, may_stand, sides_of_names, split_classes
from medmeta_jax.data.structures import LEAST, values_shown


def lesions(samples: Samples) -> Samples:
    """The samples with `no_lesion`, the class without lesions, told by its masks.

    An image of a type whose mask shows fewer than `structures.LEAST` pixels, as it may when it was
    made small, is left out and named. Raises DataError where there is no class without lesions, or
    more than one, or fewer than a type for each side.
    """
    assert samples.masks is not None
    if samples.labels.ndim != 1:
        raise DataError(f"{samples.about}: a task of lesions needs one class an image")
    shown = values_shown(samples.masks)[:, 0]
    counts = [int(shown[samples.labels == k].sum()) for k in range(len(samples.class_names))]
    none = [name for name, count in zip(samples.class_names, counts, strict=True) if not count]
    if len(none) != 1:
        has = f"{', '.join(none)} are without" if none else "all show one"
        raise DataError(
            f"{samples.about}: a task of lesions needs one class whose masks are all empty, and "
            f"{has}; give images without a lesion a class of their own"
        )
    if len(samples.class_names) - 1 < len(SIDES):
        raise DataError(
            f"{samples.about}: has {len(samples.class_names) - 1} types of lesions, and each side "
            "of a split needs one of its own"
        )
    lost = ~shown & (samples.labels != samples.class_names.index(none[0]))
    names = np.arange(len(lost)) if samples.names is None else samples.names
    skipped = tuple(
        Skipped(str(name), f"{name}: shows fewer than {LEAST} pixels of its lesion at this size")
        for name in names[lost]
    )
    kept = select(samples, ~lost) if lost.any() else samples
    return kept._replace(no_lesion=none[0], skipped=samples.skipped + skipped)


def sides_of(samples: Samples, val: tuple[str, ...], test: tuple[str, ...]) -> np.ndarray:
    """The side [N] of each image, "" where its data set's own folders forbid it.

    val, test: the types of meta-validation and meta-test; where none are named, by the rule of
    `splits`. Raises DataError for a name that is no type, or is there twice, or where no type is
    left to train on.
    """
    assert samples.no_lesion is not None
    types = tuple(name for name in samples.class_names if name != samples.no_lesion)
    if val or test:
        of_types = sides_of_names(samples.about, types, val, test, "type of lesion in it", "types")
    else:
        of_types = split_classes(
            samples._replace(masks=None, class_names=types, sides=None, split=None)
        )
    groups = np.arange(len(samples.labels)) if samples.groups is None else samples.groups
    without = samples.labels == samples.class_names.index(samples.no_lesion)
    turn = np.full(len(without), -1)
    turn[without] = np.unique(groups[without], return_inverse=True)[1] % 6
    sides = np.full(len(without), "", "U5")
    turns = {"train": (0, 1, 2, 3), "val": (4,), "test": (5,)}
    for side in SIDES:
        own = [samples.class_names.index(name) for name in of_types[side]]
        wanted = np.isin(samples.labels, own) | np.isin(turn, turns[side])
        sides[wanted & may_stand(samples, side)] = side
    return sides
