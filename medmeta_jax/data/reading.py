"""Going through a catalogue: units read in parallel, in order, in bounded memory; what cannot be
read is refused or left out and named.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np

from medmeta_jax.data.modalities import require_one_label, stacked
from medmeta_jax.data.records import Catalogue, Record, Unit, checked, full_name, labels_of
from medmeta_jax.data.samples import (
    DataError,
    Samples,
    Skipped,
    fit_image,
    fit_mask,
    require_one_rank,
    to_channels,
)
from medmeta_jax.data.stored import StoredImages

OnError = Literal["fail", "skip"]
SKIP_AT_MOST = 0.05  # of the units: beyond, the data set is wrong and not a file


class Read(NamedTuple):
    """What became of a unit: its records as `of_record` made them, or why it has none."""

    unit: Unit
    records: list[Any]
    problem: str = ""


def read_unit(unit: Unit, of_record: Callable[[Record], Any]) -> Read:
    """Read one unit; whatever its libraries raise becomes the unit's problem."""

    def made(record: Record) -> Any:
        return of_record(record._replace(name=full_name(unit, record)))

    try:
        return Read(unit, [made(record) for record in checked(unit, unit.read())])
    except DataError as error:
        return Read(unit, [], str(error))
    except Exception as error:  # decoders of untrusted files raise whatever they like
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Read(unit, [], f"{unit.name}: cannot be read ({reason}); repair or remove it")


def read_units(
    catalogue: Catalogue,
    of_record: Callable[[Record], Any] = lambda record: record,
    *,
    on_error: OnError = "fail",
    skip_at_most: float = SKIP_AT_MOST,
    workers: int | None = None,
) -> Iterator[Read]:
    """Read all units on threads (decoders let go of Python's lock), a few ahead of the caller.

    Args:
      of_record: what is kept of a record, such as its image made small, given the record by its
        full name; runs on the threads.
      on_error: what a unit that cannot be read does: "fail" raises its DataError, "skip" gives
        it with its problem.
      skip_at_most: raise DataError once more than this share of the units was skipped. Where the
        share is above 0, one may be, of however few.

    Yields the units in the catalogue's order, whatever the number of workers.
    """
    units, workers = catalogue.units, workers or min(8, os.cpu_count() or 1)
    allowed = max(1, int(skip_at_most * len(units))) if skip_at_most > 0 else 0
    problems: list[str] = []
    left = iter(units)
    waiting: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(workers) as pool:

        def submit(count: int) -> None:
            for unit in itertools.islice(left, count):
                waiting.append(pool.submit(read_unit, unit, of_record))

        try:
            submit(2 * workers)
            while waiting:
                read = waiting.popleft().result()
                submit(1)
                if read.problem and on_error == "fail":
                    raise DataError(read.problem)
                problems += [read.problem] if read.problem else []
                if len(problems) > allowed:
                    raise DataError(
                        f"{catalogue.about}: {len(problems)} of {len(units)} files cannot be read, "
                        f"more than {skip_at_most:.0%}; the first: {problems[0]}"
                    )
                yield read
        finally:
            for future in waiting:
                future.cancel()


def load_samples(
    catalogue: Catalogue,
    *,
    image_size: int,
    on_error: OnError = "fail",
    masks: bool = False,
    modalities: tuple[str, ...] = (),
) -> Samples:
    """A catalogue's images in memory, each scaled to `image_size` with its proportions kept; with
    their masks, where asked for; those of several modalities as one, where these are named.

    Grey images become colour where any is; pictures and volumes do not stand together. Raises
    DataError naming the file and the remedy.
    """

    def small(record: Record) -> Record:
        mask = fit_mask(record.mask, image_size) if masks and record.mask is not None else None
        return record._replace(image=fit_image(record.image, image_size), mask=mask)

    reads = list(read_units(catalogue, small, on_error=on_error))
    records, skipped = all_of(reads)
    return in_memory(catalogue, records, skipped, masks=masks, modalities=modalities)


def in_memory(
    catalogue: Catalogue,
    records: list[Record],
    skipped: tuple[Skipped, ...],
    *,
    masks: bool = False,
    modalities: tuple[str, ...] = (),
) -> Samples:
    """The samples of records that were read, whose images are of one size; see `load_samples`
    (DataError)."""
    require_one_rank((record.name, record.image.ndim) for record in records)
    present = None
    if modalities:
        if not masks:
            require_one_label(records, modalities, catalogue.about)
        records, present = stacked(records, modalities, catalogue.about)
    images = [record.image for record in records]
    if not modalities:
        channels = max((image.shape[-1] for image in images), default=1)
        images = [to_channels(image, channels) for image in images]
    pixels = np.stack(images) if images else np.empty(0)
    found = samples_of(catalogue, records, pixels, skipped)._replace(present=present)
    return found._replace(masks=np.stack(masks_of(records, catalogue))) if masks else found


def all_of(reads: list[Read]) -> tuple[list[Any], tuple[Skipped, ...]]:
    """What was kept of the records of all units, and the units that could not be read."""
    records = [record for read in reads for record in read.records]
    return records, tuple(Skipped(read.unit.name, read.problem) for read in reads if read.problem)


def masks_of(records: list[Record], catalogue: Catalogue) -> list[np.ndarray]:
    """The records' masks, of which each has one (DataError naming one that has none)."""
    found = []
    for record in records:
        if record.mask is None:
            raise DataError(
                f"{catalogue.about}: {record.name} has no mask, which is to be learned by this task"
            )
        found.append(record.mask)
    return found


def samples_of(
    catalogue: Catalogue,
    records: list[Record],
    images: np.ndarray | StoredImages,
    skipped: tuple[Skipped, ...],
) -> Samples:
    """The samples of records that were read, whose images these are (DataError)."""
    if not records:
        raise DataError(f"{catalogue.about}: holds no images")
    names, labels = class_labels(records, catalogue)

    def column(values: list[str | None]) -> np.ndarray | None:
        return np.asarray([value or "" for value in values]) if any(values) else None

    return Samples(
        images=images,
        labels=labels,
        class_names=names,
        groups=groups_of(records, catalogue),
        sides=column([record.side for record in records]),
        domains=column([record.domain for record in records]),
        names=np.asarray([record.name for record in records]),
        times=times_of(records, catalogue),
        split=catalogue.split,
        about=catalogue.about,
        skipped=skipped,
    )


def class_labels(records: list[Record], catalogue: Catalogue) -> tuple[tuple[str, ...], np.ndarray]:
    """The class names, and the labels as `Samples` holds them (DataError)."""
    if len({kind_of(record) for record in records}) > 1:
        raise DataError(
            f"{catalogue.about}: some images have one class, some a list of labels or values; give "
            "all of them the same"
        )
    each = [labels_of(record) for record in records]
    found = {label for labels in each for label in labels}
    names = catalogue.class_names or tuple(sorted(found))
    if found - set(names):
        raise DataError(
            f"{catalogue.about}: labels that it does not name: {sorted(found - set(names))}"
        )
    place = {name: i for i, name in enumerate(names)}
    kind = kind_of(records[0])
    if kind is str:
        return names, np.asarray([place[label] for (label,) in each], np.int32)
    if kind is Mapping:
        values = np.full((len(each), len(names)), np.nan, np.float32)
        for measured, record in zip(values, records, strict=True):
            for name, value in record.label.items():  # type: ignore[union-attr]
                measured[place[name]] = value
        return names, values
    shown = np.zeros((len(each), len(names)), bool)
    for row, labels in zip(shown, each, strict=True):
        row[[place[label] for label in labels]] = True
    return names, shown


def kind_of(record: Record) -> type:
    """What a record's label is: a class, several labels, or values by name."""
    return next(kind for kind in (str, tuple, Mapping) if isinstance(record.label, kind))


def times_of(records: list[Record], catalogue: Catalogue) -> np.ndarray | None:
    """When the records were taken, None where none says it (DataError where only some do)."""
    known = [record.time for record in records if record.time is not None]
    if not known:
        return None
    if len(known) < len(records):
        lacking = next(record.name for record in records if record.time is None)
        raise DataError(f"{catalogue.about}: {lacking} has no time, and others have one")
    return np.asarray(known, np.float32)


def groups_of(records: list[Record], catalogue: Catalogue) -> np.ndarray | None:
    """The records' groups, None where none has one (DataError where only some have)."""
    given = [record.group for record in records]
    if all(group is None for group in given):
        return None
    if any(group is None for group in given):
        raise DataError(
            f"{catalogue.about}: names the group (patient) of some images and not of all"
        )
    return np.asarray(given, str)
