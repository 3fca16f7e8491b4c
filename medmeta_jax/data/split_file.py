"""A split that is written down: `data split` deals a data set's images out to train, val and test,
and `train --split FILE` takes them as they stand there.

The file is a table of name, side, label and group, an image a line; it may be edited by hand. Its
digest, of names and sides, is what tables show. Sides never share a group (patient), and exact
copies of an image count as of one group; an image without a side is on none.

Ways to deal:

- "class": whole classes, by the rule of `splits`; images whose group or copy a later side needs
  (test before val before train) are on no side;
- "group": whole groups, so that each side has its share of every class: the larger groups first,
  each to the side that lacks most of what it shows; where the data set has a test side of its own
  (folders, lists), that is test, with all images of its groups, and the others are train and val;
- "one_group", "one_domain": the group or domain whose place among all, sorted, is `fold`, is test,
  the next one val, the others train; for as many folds as there are, each is test once.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmeta_jax.data._tables import check_option, read_table
from medmeta_jax.data.copies import joined, same_images
from medmeta_jax.data.samples import DataError, Samples, of_each_class
from medmeta_jax.data.splits import SIDES, may_stand, split_classes

WAYS = ("class", "group", "one_group", "one_domain")
COLUMNS = ("name", "side", "label", "group")


class Dealt(NamedTuple):
    """sides: [N] str, "train", "val", "test" or "" for none; digest: 16 hexadecimal digits."""

    sides: np.ndarray
    digest: str


def deal(
    samples: Samples, by: str, *, val: float = 0.2, test: float = 0.2, fold: int = 0, seed: int = 0
) -> Dealt:
    """Deal a data set's images out to the sides. Raises DataError for what cannot be dealt.

    Args:
      by: one of `WAYS`.
      val, test: shares of the images, where dealt by group.
      fold: which group or domain is test, where one is.
      seed: of the order of groups of the same size.
    """
    check_option("by", by, WAYS)
    if not (val > 0 and test > 0 and val + test < 1):
        raise DataError(f"the options val and test must be > 0 and below 1 together: {val}, {test}")
    names, together = names_of(samples), joined_groups(samples)
    if by == "class":
        sides = by_class(samples, together)
    elif by == "group":
        sides = by_group(samples, together, {"test": test, "val": val}, seed)
    else:
        sides = by_one(samples, together, by, fold)
    for side in SIDES:
        if not (sides == side).any():
            raise DataError(f"{samples.about}: dealt by {by}, no image is left for {side}")
    return Dealt(sides, digest(names, sides))


def names_of(samples: Samples) -> np.ndarray:
    """The names of the images [N], of which none may be there twice (DataError)."""
    if samples.names is None:
        raise DataError(f"{samples.about}: its images have no names")
    names, counts = np.unique(samples.names, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{samples.about}: two images are named '{names[counts > 1][0]}'")
    return samples.names


def joined_groups(samples: Samples) -> np.ndarray:
    """[N] int: images of one number share a group, a copy, or both by way of others."""
    groups = np.arange(len(samples.images)) if samples.groups is None else samples.groups
    numbers = np.unique(groups, return_inverse=True)[1]
    together = joined(numbers, same_images(samples.images))
    return np.unique(together, return_inverse=True)[1]


def by_class(samples: Samples, together: np.ndarray) -> np.ndarray:
    """Whole classes; what a later side needs is on no other."""
    if samples.labels.ndim == 2:
        raise DataError(
            f"{samples.about}: images of several labels, or of values, are dealt by group, not by "
            "class"
        )
    classes = split_classes(samples)
    sides = np.full(len(samples.labels), "", "<U5")
    names = np.asarray(samples.class_names)[samples.labels]
    for side in SIDES:
        sides[np.isin(names, classes[side]) & may_stand(samples, side)] = side
    return cleared(sides, together)


def cleared(sides: np.ndarray, together: np.ndarray) -> np.ndarray:
    """The sides, without the images whose group or copy a later side has."""
    found = sides.copy()
    for later, before in (("test", ("val", "train")), ("val", ("train",))):
        needed = np.isin(together, together[found == later])
        found[needed & np.isin(found, before)] = ""
    return found


def by_group(
    samples: Samples, together: np.ndarray, held: dict[str, float], seed: int
) -> np.ndarray:
    """Whole groups, each class in about the same shares."""
    shown = of_each_class(samples).astype(float)
    counts = np.zeros((int(together.max()) + 1, shown.shape[1] + 1))
    np.add.at(counts, together, np.column_stack([shown, np.ones(len(shown))]))
    shares = np.asarray([1 - sum(held.values()), held["val"], held["test"]])
    wanted = shares[:, None] * counts.sum(0)
    lacking = wanted.copy()
    side = np.zeros(len(counts), int)
    turn = np.random.default_rng(seed).permutation(len(counts))
    of_test = np.zeros(len(counts), bool)
    if samples.sides is not None:
        of_test[together[samples.sides == "test"]] = True
    for group in turn[np.argsort(-counts[turn, -1], kind="stable")]:
        need = (lacking / np.maximum(wanted, 1e-12)) @ counts[group]
        if of_test.any():
            need[: SIDES.index("test")] -= np.inf if of_test[group] else 0
            need[SIDES.index("test")] -= 0 if of_test[group] else np.inf
        side[group] = need.argmax()
        lacking[side[group]] -= counts[group]
    return np.asarray(SIDES)[side[together]]


def by_one(samples: Samples, together: np.ndarray, by: str, fold: int) -> np.ndarray:
    """One group or domain for test, the next for val."""
    column = samples.groups if by == "one_group" else samples.domains
    what = by.removeprefix("one_")
    if column is None:
        raise DataError(f"{samples.about}: names no {what}s; deal by class or group instead")
    values = np.unique(column)
    if len(values) < len(SIDES) or not 0 <= fold < len(values):
        raise DataError(
            f"{samples.about}: has {len(values)} {what}s: {len(SIDES)} or more are needed, and the "
            f"option fold must be from 0 to {len(values) - 1}, got {fold}"
        )
    sides = np.full(len(column), "train", "<U5")
    sides[column == values[(fold + 1) % len(values)]] = "val"
    sides[column == values[fold]] = "test"
    return cleared(sides, together)


def digest(names: np.ndarray, sides: np.ndarray) -> str:
    """Of names and sides, whatever the order of the lines."""
    lines = sorted(f"{name}\0{side}" for name, side in zip(names, sides, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def write(path: Path, samples: Samples, dealt: Dealt) -> None:
    """Write the file, whole or not at all. Raises DataError where it cannot be."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    groups = np.full(len(dealt.sides), "") if samples.groups is None else samples.groups
    shown = of_each_class(samples)
    for name, side, row, group in zip(names_of(samples), dealt.sides, shown, groups, strict=True):
        labels = "|".join(np.asarray(samples.class_names)[row])
        writer.writerow([name, side, labels, group])
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text.getvalue(), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None


def read(path: Path, samples: Samples) -> Dealt:
    """The sides of a data set's images, as a file has them.

    Raises DataError where the file speaks of other images, or puts a group on two sides.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; make it by: medmeta data split SOURCE --out FILE")
    given: dict[str, str] = {}
    for row in read_table(path, ("name", "side")):
        if row["name"] in given or row["side"] not in (*SIDES, ""):
            what = "is there twice" if row["name"] in given else f"has the side {row['side']!r}"
            raise DataError(f"{path}: {row['name']} {what}; a side is {', '.join(SIDES)} or empty")
        given[row["name"]] = row["side"]
    names = names_of(samples)
    unknown = [name for name in names if name not in given]
    if unknown:
        raise DataError(
            f"{path}: says nothing of {len(unknown)} images, the first {unknown[0]}; it was made "
            "for other data, or before they were added: split again"
        )
    left_out = tuple(one.name for one in samples.skipped)
    absent = [n for n in given.keys() - set(names) if not (left_out and n.startswith(left_out))]
    if absent:
        raise DataError(
            f"{path}: names {len(absent)} images that are not there, the first {min(absent)}; it "
            "was made for other data, or they were removed: split again"
        )
    sides = np.asarray([given[name] for name in names])
    if samples.groups is not None:
        refuse_shared_groups(path, names, samples.groups, sides)
    return Dealt(sides, digest(names, sides))


def refuse_shared_groups(
    path: Path, names: np.ndarray, groups: np.ndarray, sides: np.ndarray
) -> None:
    """DataError where a file puts images of one group on two sides."""
    first: dict[str, int] = {}
    for place in np.flatnonzero(sides != "").tolist():
        before = first.setdefault(str(groups[place]), place)
        if sides[before] != sides[place]:
            raise DataError(
                f"{path}: {names[before]} is on {sides[before]} and {names[place]}, of the same "
                f"group, on {sides[place]}; move one"
            )
