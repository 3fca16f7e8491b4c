"""MetaImage (.mhd and its .raw, or .mha), read with NumPy alone.

Three-dimensional, one channel, raw or zlib-compressed, its axes along the world's or flipped.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmeta_jax.data.samples import DataError

DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
OTHER_NAMES = {
    "Position": "Offset", "Origin": "Offset", "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix", "BinaryDataByteOrderMSB": "ElementByteOrderMSB",
}  # fmt: skip
MOST_VOXELS = 2**31
LARGEST_HEADER = 2**16  # bytes
FINEST_MM, COARSEST_MM = 0.1, 50.0  # of voxels


class Scan(NamedTuple):
    """file: that holds the voxels; values: [z, y, x] in Hounsfield units, all axes along the
    world's; origin: of the first voxel's centre, and spacing: both (x, y, z) in mm."""

    path: Path
    file: Path
    values: np.ndarray
    origin: np.ndarray
    spacing: np.ndarray

    def voxel(self, place: Iterable[float]) -> np.ndarray:
        """The place of a point of the world among the voxels, (x, y, z), not rounded."""
        return (np.asarray(tuple(place)) - self.origin) / self.spacing


def read_scan(path: Path) -> Scan:
    """A MetaImage file, its axes flipped so that they all run along the world's.

    Raises DataError naming the file and the field where it is damaged or of another kind.
    """
    header, end = read_header(path)

    def numbers(field: str, count: int) -> np.ndarray:
        try:
            found = np.asarray([float(word) for word in header[field].split()])
        except (KeyError, ValueError):
            found = np.empty(0)
        if found.shape != (count,) or not np.isfinite(found).all():
            raise DataError(f"{path}: {field} must be {count} numbers, got {header.get(field)!r}")
        return found

    shape = numbers("DimSize", 3)
    if (shape < 1).any() or (shape % 1).any() or np.prod(shape) > MOST_VOXELS:
        raise DataError(f"{path}: DimSize of {header['DimSize']} is not to be read")
    spacing, offset = numbers("ElementSpacing", 3), numbers("Offset", 3)
    within = (spacing >= FINEST_MM).all() and (spacing <= COARSEST_MM).all()
    if not within or not math.isclose(spacing[0], spacing[1], rel_tol=0.01):
        raise DataError(
            f"{path}: ElementSpacing must be from {FINEST_MM} to {COARSEST_MM} mm, that of x and y "
            f"the same, got {header['ElementSpacing']!r}"
        )
    turn = numbers("TransformMatrix", 9).reshape(3, 3)
    flips = np.sign(np.diag(turn))
    if not np.allclose(turn, np.diag(flips), atol=1e-4) or not flips.all():
        raise DataError(f"{path}: TransformMatrix must be the axes or flip them; resample the scan")
    count, (x, y, z) = int(np.prod(shape)), shape.astype(int).tolist()
    file, voxels = read_voxels(path, header, end, count)
    reverse = tuple(slice(None, None, int(flip)) for flip in flips[::-1])
    origin = offset + np.where(flips < 0, -spacing * (shape - 1), 0.0)
    return Scan(path, file, voxels.reshape(z, y, x)[reverse], origin, spacing)


def read_header(path: Path) -> tuple[dict[str, str], int]:
    """The fields of a header, by their usual names, and where it ends, in bytes."""
    with path.open("rb") as handle:
        start = handle.read(LARGEST_HEADER)
    # The field that names the voxels is the last by the format's rule; they may follow it.
    last = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[^\r\n]*(\r?\n|$)", start, re.MULTILINE)
    try:
        text = start[: last.end()].decode("utf-8") if last else ""
    except UnicodeDecodeError:
        text = ""
    if not text or last is None:
        raise DataError(f"{path}: not a MetaImage header that ends in ElementDataFile")
    lines = (line.partition("=") for line in text.splitlines() if "=" in line)
    fields = {key.strip(): value.strip() for key, _, value in lines}
    header = {OTHER_NAMES.get(key, key): value for key, value in fields.items()}
    for field, wanted in (
        ("NDims", "3"), ("ElementNumberOfChannels", "1"), ("BinaryData", "True"),
        ("HeaderSize", "0"),
    ):  # fmt: skip
        if header.get(field, "" if field == "NDims" else wanted) != wanted:
            raise DataError(f"{path}: {field} must be {wanted}, got {header.get(field)!r}")
    return header, last.end()


def read_voxels(
    path: Path, header: dict[str, str], end: int, count: int
) -> tuple[Path, np.ndarray]:
    """The file that holds a header's voxels, and they, [count]: those of an uncompressed file stay
    on disk until they are used. Raises DataError naming the file."""
    kind, name = header.get("ElementType", ""), header["ElementDataFile"]
    if kind not in DTYPES:
        raise DataError(f"{path}: ElementType {kind!r}; must be one of {', '.join(DTYPES)}")
    big = header.get("ElementByteOrderMSB", "False").lower() == "true"
    dtype = np.dtype(DTYPES[kind]).newbyteorder(">" if big else "<")
    # The header is untrusted: it may name a file beside it and none elsewhere.
    if not name or Path(name).name != name or "\\" in name or name in (".", ".."):
        raise DataError(f"{path}: ElementDataFile {name!r} must be a file beside it")
    file, offset = (path, end) if name == "LOCAL" else (path.parent / name, 0)
    if not file.is_file():
        raise DataError(f"{path}: there is no file {name} beside it; download it again")
    size = count * dtype.itemsize
    if header.get("CompressedData", "False").lower() != "true":
        if file.stat().st_size - offset != size:
            raise DataError(f"{file}: {file.stat().st_size - offset} bytes of voxels, not {size}")
        return file, np.memmap(file, dtype, "r", offset, (count,))
    unpack = zlib.decompressobj(wbits=47)  # zlib or gzip, by its first bytes
    try:
        data = unpack.decompress(file.read_bytes()[offset:], size)
    except zlib.error as error:
        raise DataError(f"{file}: its compressed voxels are damaged ({error})") from None
    if len(data) != size or unpack.decompress(unpack.unconsumed_tail, 1):
        raise DataError(f"{file}: unpacks to other than the {size} bytes of its header")
    return file, np.frombuffer(data, dtype)
