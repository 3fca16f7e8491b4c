"""DICOM as it is exported: any folder tree of files, with or without suffix, read into series.

    ROOT/CLASS/.../FILE      class folders; or
    ROOT/.../FILE            no classes: the class is the modality
    ROOT/labels.csv          optional: label, and one of series (SeriesInstanceUID), patient
                             (PatientID) or path (of a file or folder below ROOT)

Identity stays where it is: groups are salted hashes of patient ids (`_identity`), units are named
by hashes of their series, and no message quotes a header. Names of files and folders are shown in
messages: they are the user's own. What is burned into pixels cannot be seen by a program: files
whose header says so are refused, and a header that says nothing is no promise.

CT is shown by a window, PET as SUV by body weight, X-rays each by its own percentiles, other series
by those of the slices that are taken. Low values of MONOCHROME1 are bright, as they are meant.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmeta_jax.data._cuts import spread
from medmeta_jax.data._dicom import Frame, Head, is_dicom, library, read_frames, read_head
from medmeta_jax.data._identity import hashed
from medmeta_jax.data._tables import check_option, read_table, walk
from medmeta_jax.data.intensity import METHODS, WINDOWS, between, limits
from medmeta_jax.data.records import TEXT_NAMES, TEXT_SUFFIXES, Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError

LOOKED_AT = 300  # files, before a tree is taken to hold no DICOM
ALONE = {"cr", "dx", "mg", "xa", "rf", "io", "px"}  # X-rays: two of a series differ in exposure
PICTURES = {"us", "ot", "es", "gm", "op", "xc", "sm"}  # of 8 bits: shown as they are
KEYS = ("series", "patient", "path")


class How(NamedTuple):
    """The options that reading a series takes."""

    slices: int
    intensity: str
    window: tuple[float, float] | None
    suv_max: float


def recognises(source: str) -> bool:
    """A folder with a DICOM file among the first of its tree."""
    root = Path(source)
    if not root.is_dir():
        return False
    return any(is_dicom(path) for path, _ in zip(walk(root), range(LOOKED_AT), strict=False))


def catalogue(
    source: str, *, slices: int = 16, intensity: str = "auto", window: str = "",
    suv_max: float = 10.0, burned_in: str = "refuse", other_files: str = "fail",
) -> Catalogue:  # fmt: skip
    """The series, a unit each. Raises DataError naming what is wrong.

    Args:
      slices: how many of a series, or frames, evenly over the middle 80 percent; 0 for all.
      intensity: "auto", as the module says; "header": by the window that each file gives;
        "percentile", "zscore", "range", or a CT window: "lung", "soft", "brain", "bone".
      window: a window of one's own, "LEVEL,WIDTH", in place of intensity.
      suv_max: the SUV that is white, by intensity "auto".
      burned_in: "keep" reads files whose header says that identity is burned into the pixels.
      other_files: "leave" passes over files that are not DICOM, such as an export's viewer.
    """
    library()
    check_option("intensity", intensity, ("auto", "header", *METHODS))
    check_option("burned_in", burned_in, ("refuse", "keep"))
    check_option("other_files", other_files, ("fail", "leave"))
    if slices < 0 or not suv_max > 0:
        raise DataError(f"the options slices >= 0 and suv_max > 0, got {slices} and {suv_max}")
    how = How(slices, intensity, own_window(window), suv_max)
    root = Path(source)
    heads, left = list_heads(root, other_files)
    burned = [head.path for head in heads if head.burned]
    if burned and burned_in == "refuse":
        raise DataError(
            f"{burned[0]}: its header says that identity is burned into the pixels, as do "
            f"{len(burned)} files; remove them, or take them by burned_in='keep'"
        )
    series = in_series(root, heads)
    labels = labels_of(root, series)
    units = [
        Unit(f"{labels[key]}/series-{key[:12]}", functools.partial(read, files, label, how))
        for key, files in series.items()
        for label in [labels[key]]
    ]
    notes = [f"{count} {what} left out" for what, count in left.items() if count]
    return Catalogue(units, "; ".join([f"DICOM series of {root.resolve().name}", *notes]))


def own_window(text: str) -> tuple[float, float] | None:
    """The option window as level and width (DataError)."""
    if not text:
        return None
    try:
        level, width = map(float, text.split(","))
    except ValueError:
        width = level = np.nan
    if not (width > 0 and np.isfinite([level, width]).all()):
        raise DataError(f"the option window must be LEVEL,WIDTH, as in 50,400, got {text!r}")
    return level, width


def list_heads(root: Path, other_files: str) -> tuple[list[Head], dict[str, int]]:
    """The headers of all images, and how many files were left out, by what they are."""
    heads: list[Head] = []
    left = {"objects without an image": 0, "files that are not DICOM": 0}
    for path in walk(root):
        if is_dicom(path):
            head = None if path.name == "DICOMDIR" else read_head(path)
            left["objects without an image"] += head is None and path.name != "DICOMDIR"
            heads += [] if head is None else [head]
        elif path.suffix.lower() in TEXT_SUFFIXES or path.name in TEXT_NAMES:
            continue
        elif other_files == "fail":
            raise DataError(
                f"{path}: not a DICOM file; repair or remove it, or pass over such files by "
                "other_files='leave'"
            )
        else:
            left["files that are not DICOM"] += 1
    if not heads:
        raise DataError(f"{root}: holds no DICOM images")
    return heads, left


def in_series(root: Path, heads: list[Head]) -> dict[str, list[Head]]:
    """The files of each series, by its hash, in the order of their slices; a file of none is a
    series of its own."""
    series: dict[str, list[Head]] = {}
    seen: dict[str, Path] = {}
    for head in heads:
        if head.uid and head.uid in seen:
            raise DataError(f"{head.path}: the same image as {seen[head.uid]}; remove one")
        seen[head.uid] = head.path
        own = hashed(head.path.relative_to(root).as_posix())
        series.setdefault(head.series or own, []).append(head)
    for key, files in series.items():
        placed = len({head.plane for head in files}) == 1 and files[0].place is not None
        series[key] = sorted(
            files, key=lambda h: ((h.place or 0.0) if placed else h.number, h.number, h.path)
        )
    return series


def labels_of(root: Path, series: dict[str, list[Head]]) -> dict[str, str]:
    """The label of each series, by the table, its folder or its modality (DataError)."""
    table = root / "labels.csv"
    if table.is_file():
        return labels_of_table(table, series)
    tops = {
        key: {head.path.relative_to(root).parts[0] for head in files}
        for key, files in series.items()
    }
    flat = any(len(h.path.relative_to(root).parts) == 1 for files in series.values() for h in files)
    if flat or len(set.union(*tops.values())) < 2:
        return {key: files[0].modality for key, files in series.items()}
    for key, folders in tops.items():
        if len(folders) > 1:
            raise DataError(
                f"{series[key][0].path}: its series has files in the class folders "
                f"{', '.join(sorted(folders))}; move them into one"
            )
    return {key: next(iter(folders)) for key, folders in tops.items()}


def labels_of_table(table: Path, series: dict[str, list[Head]]) -> dict[str, str]:
    """The labels of labels.csv; each series has one, and each row says something."""
    labels: dict[str, str] = {}
    for place, row in enumerate(read_table(table, ("label",)), 1):
        given = [(key, row[key]) for key in KEYS if row.get(key)]
        if len(given) != 1 or not row["label"]:
            raise DataError(
                f"{table}: row {place} needs a label and one of {', '.join(KEYS)}; fill it in"
            )
        found = [key for key, files in series.items() if is_of(table.parent, key, files, *given[0])]
        if not found or any(labels.get(key, row["label"]) != row["label"] for key in found):
            # What the row says may identify a patient.
            what = "names another label for a series of it" if found else "is of no file here"
            raise DataError(f"{table}: row {place} {what}; repair it")
        labels |= dict.fromkeys(found, row["label"])
    for key, files in series.items():
        if key not in labels:
            raise DataError(f"{table}: has no row for the series of {files[0].path}; add one")
    return labels


def is_of(root: Path, key: str, files: list[Head], column: str, value: str) -> bool:
    """Whether a row of the table speaks of a series."""
    if column == "path":
        path = root / value.replace("\\", "/")
        return any(head.path == path or path in head.path.parents for head in files)
    return hashed(value) == (key if column == "series" else files[0].patient)


def read(files: list[Head], label: str, how: How) -> list[Record]:
    """The slices of a series that are taken."""
    every = [(head, frame) for head in files for frame in range(head.frames)]
    taken = spread(len(every), how.slices)
    modality = files[0].modality
    by_file: dict[Path, list[int]] = {}
    for head, frame in (every[place] for place in taken):
        by_file.setdefault(head.path, []).append(frame)
    suv = in_suv(modality, how)
    frames = [f for path, own in by_file.items() for f in read_frames(path, own, suv=suv)]
    first = files[0]
    group = first.patient or first.study or first.series or hashed(first.path.name)
    return [
        Record(image, label, f"slice={place}", group, modality=modality)
        for place, image in zip(taken, shown(files[0].path, frames, modality, how), strict=True)
    ]


def in_suv(modality: str, how: How) -> bool:
    """Whether values become standardised uptake values."""
    return modality == "pt" and how.intensity == "auto" and how.window is None


def shown(path: Path, frames: list[Frame], modality: str, how: How) -> list[np.ndarray]:
    """The frames as images [h, w, 1 or 3] uint8."""
    method = how.intensity
    pictures = method == "auto" and modality in PICTURES and how.window is None
    if method == "auto":
        method = "soft" if modality == "ct" else "percentile"
    if in_suv(modality, how):
        shared: tuple[float, float] | None = (0.0, how.suv_max)
    elif method == "header" or modality in ALONE:
        shared = None
    else:
        shared = range_of(path, frames, method, how.window)
    images = []
    for frame in frames:
        if frame.values.ndim == 3:
            images.append(frame.values)
            continue
        if pictures and frame.bits <= 8:
            low, high = 0.0, 2.0**frame.bits - 1
        elif how.window is None and how.intensity == "header":
            low, high = header_range(path, frame)
        else:
            low, high = shared or range_of(path, [frame], method, how.window)
        image = between(frame.values, low, high)
        if frame.inverted:
            image = np.where(np.isfinite(frame.values), 255 - image, np.uint8(0))
        images.append(image[..., None])
    return images


def range_of(
    path: Path, frames: list[Frame], method: str, window: tuple[float, float] | None
) -> tuple[float, float]:
    """What is black and what is white, over some frames (DataError)."""
    if window is not None or method in WINDOWS:
        return limits(np.empty(0), window or method)
    grey = [f.values[np.isfinite(f.values)] for f in frames if f.values.ndim == 2]
    if not grey:
        return 0.0, 255.0
    try:
        return limits(np.concatenate(grey), method)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def header_range(path: Path, frame: Frame) -> tuple[float, float]:
    """The window of a file's header, by the standard's linear function (PS3.3 C.11.2.1.2.1)."""
    if frame.window is None or frame.window[1] < 1:
        raise DataError(f"{path}: has no WindowCenter and WindowWidth; use another intensity")
    level, width = frame.window
    return level - 0.5 - (width - 1) / 2, level - 0.5 + (width - 1) / 2


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    pydicom = library()
    rng = np.random.default_rng(0)
    for kind in range(6):
        for patient in range(4):
            folder = where / f"kind{kind}"
            folder.mkdir(parents=True, exist_ok=True)
            made = pydicom.Dataset()
            made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
            made.SOPInstanceUID = f"1.2.3.{kind}.{patient}.1"
            made.SeriesInstanceUID = f"1.2.3.{kind}.{patient}"
            made.PatientID, made.Modality = f"id{kind}{patient}", "MR"
            values = rng.integers(0, 4096, (9, 12)).astype(np.uint16)
            made.set_pixel_data(values, "MONOCHROME2", 12)
            made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            made.save_as(folder / f"p{patient}.dcm", enforce_file_format=True)
    return str(where)
