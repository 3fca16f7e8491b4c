"""DICOM files: what a header says of order and identity, and an image's values.

Values are those of the modality: stored ones times slope plus intercept, PET in SUV by body weight.
What is padding is not a number. Nothing that identifies a patient is put into a message: errors of
the library, which may quote a header, are told by their kind alone.
"""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data._files import Within
from medmeta_jax.data._identity import hashed
from medmeta_jax.data.samples import DataError

TAGS = [
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "Rows",
    "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient",
    "InstanceNumber", "BurnedInAnnotation",
]  # fmt: skip
# Objects that are no images, some of which have Rows all the same.
NO_IMAGES = {
    "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTRECORD", "RTDOSE", "SEG", "REG", "AU", "ECG", "DOC",
    "FID", "SMR", "PLAN",
}  # fmt: skip
MOST_FRAMES = 2**16  # of a file
MOST_PIXELS = 2**28  # of a frame


class Head(NamedTuple):
    """A file's header. uid, series, study, patient: salted hashes, or ""; place: its position along
    its slices' normal in mm, or None; plane: the orientation of its rows and columns; burned: the
    header says that identity is in the pixels."""

    path: Path
    uid: str
    series: str
    study: str
    patient: str
    modality: str
    number: int
    frames: int
    place: float | None
    plane: tuple[float, ...]
    burned: bool


class Frame(NamedTuple):
    """values: [h, w] float32 of the modality, or [h, w, 3] uint8 in colour; inverted: low values
    are drawn bright; window: level and width by the header, if any; bits: of a stored value."""

    values: np.ndarray
    inverted: bool
    window: tuple[float, float] | None
    bits: int


def library() -> Any:
    """pydicom, told not to check values: its warnings quote them (DataError)."""
    try:
        import pydicom
    except ImportError:
        raise DataError("DICOM needs pydicom: pip install 'medmeta_jax[dicom]'") from None
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does."""
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def damaged(path: Path, error: Exception) -> DataError:
    """What to raise for an error of the library, which is told by its kind alone."""
    if isinstance(error, RuntimeError):  # all decoders of its compression have failed
        return DataError(
            f"{path}: its pixels are damaged, or compressed as no installed decoder reads "
            "(12-bit JPEG needs pylibjpeg-libjpeg); repair, install or remove it"
        )
    return DataError(
        f"{path}: not a readable DICOM image ({type(error).__name__}); repair or remove it"
    )


def read_head(path: Path) -> Head | None:
    """A file's header, or None for an object that is no image. Raises DataError."""
    pydicom = library()

    def secret(name: str) -> str:
        value = str(found.get(name) or "").strip()
        return hashed(value) if value else ""

    try:
        with Within(path) as file:
            found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
        if str(found.get("Modality", "")).upper() in NO_IMAGES:
            return None
        if not (found.get("Rows") and found.get("Columns")):
            raise DataError(f"{path}: has no Rows and Columns; it is cut off, or no image")
        frames = max(1, int(found.get("NumberOfFrames") or 1))
        if frames > MOST_FRAMES:
            raise DataError(f"{path}: NumberOfFrames of {frames} is not to be read")
        turn = tuple(map(float, found.get("ImageOrientationPatient") or ()))
        position = tuple(map(float, found.get("ImagePositionPatient") or ()))
        placed = len(turn) == 6 and len(position) == 3 and all(map(math.isfinite, turn + position))
        return Head(
            path=path,
            uid=secret("SOPInstanceUID"),
            series=secret("SeriesInstanceUID"),
            study=secret("StudyInstanceUID"),
            patient=secret("PatientID"),
            modality=str(found.get("Modality") or "ot").lower(),
            number=int(found.get("InstanceNumber") or 0),
            frames=frames,
            place=float(np.cross(turn[:3], turn[3:]) @ position) if placed else None,
            plane=tuple(round(value, 2) for value in turn) if placed else (),
            burned=str(found.get("BurnedInAnnotation") or "").upper() == "YES",
        )
    except DataError:
        raise
    except Exception as error:  # a damaged header raises whatever it likes
        raise damaged(path, error) from None


def read_frames(path: Path, places: list[int], *, suv: bool) -> list[Frame]:
    """Some frames of a file. Raises DataError naming the file and the field.

    Args:
      suv: whether PET values become standardised uptake values; else they stay as they are.
    """
    pydicom = library()
    try:
        with Within(path) as file:
            header = pydicom.dcmread(file, defer_size=2**16)
        check_size(path, header)
        factor = suv_factor(path, header) if suv else 1.0
        decoded = [pydicom.pixels.pixel_array(path, index=place) for place in places]
        return [
            frame_of(path, header, stored, place, factor)
            for place, stored in zip(places, decoded, strict=True)
        ]
    except DataError:
        raise
    except Exception as error:  # as do damaged pixels
        raise damaged(path, error) from None


def check_size(path: Path, header: Any) -> None:
    """DataError where the header asks for more than there is, or than can be decoded."""
    pydicom = library()
    frames = max(1, int(header.get("NumberOfFrames") or 1))
    pixels = int(header.Rows) * int(header.Columns)
    if pixels > MOST_PIXELS:
        raise DataError(f"{path}: a frame of {pixels} pixels is not to be read")
    if int(header.BitsAllocated) not in (1, 8, 16, 32):
        raise DataError(f"{path}: BitsAllocated of {header.BitsAllocated} is not to be read")
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        if not pydicom.pixels.get_decoder(syntax).is_available:
            raise DataError(
                f"{path}: compressed as {syntax.name}, which needs a decoder: "
                "pip install 'medmeta_jax[dicom]'"
            )
    elif not syntax.is_deflated:
        size = frames * pixels * int(header.SamplesPerPixel) * int(header.BitsAllocated) // 8
        if header.PhotometricInterpretation == "YBR_FULL_422":
            size = size * 2 // 3
        if size > path.stat().st_size:
            raise DataError(f"{path}: is cut off: smaller than the {size} bytes of its pixels")


def frame_of(path: Path, header: Any, stored: np.ndarray, place: int, factor: float) -> Frame:
    """One frame of stored values as the modality's, or in colour."""
    pydicom = library()
    kind = str(header.PhotometricInterpretation)
    bits = int(header.BitsStored)
    if kind == "PALETTE COLOR":
        stored = pydicom.pixels.apply_color_lut(stored, header)
        stored = stored if stored.dtype == np.uint8 else (stored >> 8).astype(np.uint8)
    if stored.ndim == 3:
        if stored.dtype != np.uint8:
            raise DataError(f"{path}: colour of {stored.dtype} is not to be read; convert it")
        return Frame(stored[..., :3], False, None, 8)
    padding = padded(header, stored)
    if header.get("ModalityLUTSequence"):
        values = pydicom.pixels.apply_modality_lut(stored, header).astype(np.float32)
    else:
        slope = number(path, of_frame(header, place, "RescaleSlope"), 1.0, "RescaleSlope")
        first = number(path, of_frame(header, place, "RescaleIntercept"), 0.0, "RescaleIntercept")
        values = stored.astype(np.float32) * np.float32(slope) + np.float32(first)
    values = np.where(padding, np.nan, values * np.float32(factor)).astype(np.float32)
    level, width = (of_frame(header, place, name) for name in ("WindowCenter", "WindowWidth"))
    window = None
    if level is not None and width is not None:
        window = number(path, level, 0.0, "WindowCenter"), number(path, width, 0.0, "WindowWidth")
    return Frame(values, kind == "MONOCHROME1", window, bits)


def padded(header: Any, stored: np.ndarray) -> np.ndarray:
    """Which stored values are padding: [h, w] bool."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit")
    ends = [value, limit if isinstance(limit, int) else value]
    if int(header.PixelRepresentation) == 1:  # some write a negative value as if it had no sign
        whole = 1 << int(header.BitsAllocated)
        ends = [end - whole if end >= whole // 2 else end for end in ends]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def of_frame(header: Any, place: int, name: str) -> Any:
    """A field of the file, or in multi-frame files of what its frames share, or of a frame."""
    if name in header:
        return header.get(name)
    for groups, at in (
        ("SharedFunctionalGroupsSequence", 0),
        ("PerFrameFunctionalGroupsSequence", place),
    ):
        items = header.get(groups) or []
        for sequence in items[at] if at < len(items) else ():
            if sequence.VR == "SQ" and sequence.value and name in sequence.value[0]:
                return sequence.value[0].get(name)
    return None


def number(path: Path, value: Any, default: float, name: str) -> float:
    """A header's number, the first of several. Raises DataError for one that is not finite."""
    if value is None or value == "":
        return default
    try:
        found = float(value if np.isscalar(value) or not hasattr(value, "__len__") else value[0])
    except (TypeError, ValueError, IndexError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{path}: {name} must be a number; repair the header")
    return found


def suv_factor(path: Path, header: Any) -> float:
    """What PET values are multiplied by to be SUV by body weight: g/ml. Raises DataError."""
    units = str(header.get("Units") or "")
    if units == "GML":
        return 1.0
    if units != "BQML":
        raise DataError(f"{path}: Units must be BQML or GML for SUV; use intensity='percentile'")
    tracers = header.get("RadiopharmaceuticalInformationSequence") or [{}]

    def above_zero(holder: Any, name: str) -> float:
        found = number(path, holder.get(name), 0.0, name)
        if found <= 0:
            raise DataError(f"{path}: {name} must be above 0 for SUV; use intensity='percentile'")
        return found

    weight = above_zero(header, "PatientWeight")
    dose = above_zero(tracers[0], "RadionuclideTotalDose")
    corrected = str(header.get("DecayCorrection") or "")
    if corrected == "START":
        half_life = above_zero(tracers[0], "RadionuclideHalfLife")
        dose *= 2 ** (-seconds_to_scan(path, header, tracers[0]) / half_life)
    elif corrected != "ADMIN":
        raise DataError(f"{path}: DecayCorrection must be START or ADMIN for SUV")
    return 1000 * weight / dose


def seconds_to_scan(path: Path, header: Any, tracer: Any) -> float:
    """From the injection to the start of the series, to which START corrects. Raises DataError."""
    scan = moment(path, header, "Series")
    if header.get("AcquisitionTime") and scan > moment(path, header, "Acquisition"):
        raise DataError(
            f"{path}: SeriesTime is after AcquisitionTime: the series was written anew, and what "
            "its decay was corrected to is not known; use intensity='percentile'"
        )
    whole = str(tracer.get("RadiopharmaceuticalStartDateTime") or "")
    if whole:
        injected = parsed(path, whole[:8], whole[8:], "RadiopharmaceuticalStartDateTime")
    else:
        time = str(tracer.get("RadiopharmaceuticalStartTime") or "")
        day = str(header.get("SeriesDate") or "")
        injected = parsed(path, day, time, "RadiopharmaceuticalStartTime")
        if injected > scan:  # before midnight
            injected -= datetime.timedelta(days=1)
    seconds = (scan - injected).total_seconds()
    if seconds < 0:
        raise DataError(f"{path}: RadiopharmaceuticalStartDateTime is after SeriesTime")
    return seconds


def moment(path: Path, header: Any, of: str) -> datetime.datetime:
    """The date and time of the series or the acquisition."""
    day = header.get(f"{of}Date") or header.get("SeriesDate") or ""
    return parsed(path, str(day), str(header.get(f"{of}Time") or ""), f"{of}Time")


def parsed(path: Path, day: str, time: str, name: str) -> datetime.datetime:
    """A DICOM date and time, the latter of hours at least. Raises DataError."""
    time = time.split("+")[0].split("-")[0]
    digits, _, part = time.partition(".")
    try:
        if len(digits) < 2:
            raise ValueError("no hour")
        whole = datetime.datetime.strptime(day + digits.ljust(6, "0"), "%Y%m%d%H%M%S")
        return whole + datetime.timedelta(seconds=float(f"0.{part or 0}"))
    except ValueError:
        raise DataError(
            f"{path}: {name} is missing or no time; use intensity='percentile'"
        ) from None
