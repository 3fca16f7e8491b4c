"""A patient as a task: what was seen of them earlier is the support, and later the query.

The classes of every patient are classes of their own, and the patient is their domain, so that an
episode, which is of one domain, is of one patient, and a way is the same class in all of them.
Patients are on one side each: in the order of their names, every sixth is of meta-test, the one
before it of meta-validation.
"""

from __future__ import annotations

import numpy as np

from medmeta_jax.data.samples import DataError, Samples, select

LEAST = 6  # patients, for each side to have one


def by_patient(samples: Samples, *, every_side: bool = True) -> Samples:
    """The samples with each patient's classes as classes, "PATIENT/CLASS", and patients as domains.

    Args:
      every_side: whether patients are dealt out to three sides, or all are of the one that the data
        set is for.

    Patients who lack a class are left out, and the description says how many. Raises DataError
    where patients or times are not known, or too few have every class.
    """
    if samples.labels.ndim != 1:
        raise DataError(f"{samples.about}: a patient as a task needs one class an image")
    for what, column in (("groups (patients)", samples.groups), ("times", samples.times)):
        if column is None:
            raise DataError(
                f"{samples.about}: names no {what}, which a patient as a task needs (columns group "
                "and time of groups.csv, or arrays groups and times)"
            )
    assert samples.groups is not None
    names, place = np.unique(samples.groups, return_inverse=True)
    count = len(samples.class_names)
    has = np.zeros((len(names), count), bool)
    has[place, samples.labels] = True
    whole: np.ndarray = np.asarray(has.all(1))
    if whole.sum() < (LEAST if every_side else 1):
        raise DataError(
            f"{samples.about}: {whole.sum()} of {len(names)} patients have images of all classes "
            f"({', '.join(samples.class_names)}); {LEAST} are needed for three sides"
        )
    kept = select(samples, whole[place])
    rank = np.cumsum(whole) - 1  # of a patient, among those that are kept
    own = np.asarray(rank[place][whole[place]])
    patients = names[whole].tolist()
    left = f"; {(~whole).sum()} patients left out, who lack a class" if not whole.all() else ""
    return kept._replace(
        labels=(own * count + kept.labels).astype(np.int32),
        class_names=tuple(f"{name}/{c}" for name in patients for c in samples.class_names),
        domains=kept.groups,
        sides=None,
        split=sides_of(patients, samples.class_names) if every_side else None,
        about=f"{samples.about}, a patient a task{left}",
    )


def sides_of(patients: list[str], classes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The classes of each side, all of a patient's on one.

    >>> sides_of(list("abcdef"), ("x",))
    {'train': ('a/x', 'b/x', 'c/x', 'd/x'), 'val': ('e/x',), 'test': ('f/x',)}
    """
    turns = {"train": (0, 1, 2, 3), "val": (4,), "test": (5,)}
    return {
        side: tuple(f"{p}/{c}" for i, p in enumerate(patients) if i % 6 in own for c in classes)
        for side, own in turns.items()
    }
