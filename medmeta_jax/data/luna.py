"""LUNA16, lung nodules in CT, as it is downloaded: ten folders of MetaImage files, and tables.

    ROOT/subset0/SERIES.mhd, SERIES.raw   to subset9; a scan is a header and its voxels
    ROOT/annotations.csv                  seriesuid, coordX, coordY, coordZ, diameter_mm
    ROOT/candidates_V2.csv                optional, or candidates.csv: seriesuid, coordX, coordY,
                                          coordZ, class (0: no nodule)

Coordinates are of the world, in millimetres. LUNA names no kinds of nodule, so there are two
classes: a patch around each nodule, and as many of the same scan that show none: axial slices, or
cubes. A group is a scan; LUNA has one scan of nearly every patient.
"""

from __future__ import annotations

import functools
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmeta_jax.data._cuts import LARGEST_EDGE, cube
from medmeta_jax.data._metaimage import Scan, read_scan
from medmeta_jax.data._tables import AGAIN, check_option, first_names, read_table
from medmeta_jax.data.intensity import limits, to_uint8
from medmeta_jax.data.records import Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError

TABLES = ("candidates_V2.csv", "candidates.csv")
COORDINATES = ("coordX", "coordY", "coordZ")
LOWEST_HU = -10_000  # scanners pad with -3024 at the lowest; below this the bytes are no CT
LUNG_HU = (-950, -500)  # of aerated lung; the air around a patient is lower
AWAY_MM = 30.0  # of a background patch of 40 mm, from any nodule's centre
TRIES = 200_000

Place = tuple[float, float, float]  # x, y, z in mm


class Nodule(NamedTuple):
    """A nodule's centre, in mm of the world, and its diameter in mm."""

    centre: Place
    diameter: float


def recognises(source: str) -> bool:
    """A folder with subset0, or another of the ten, and annotations.csv or .mhd files in it."""
    root = Path(source)
    subset = next((root / f"subset{i}" for i in range(10) if (root / f"subset{i}").is_dir()), None)
    if subset is None or (root / "annotations.csv").is_file():
        return subset is not None
    return any(Path(name).suffix == ".mhd" for name in first_names(subset))


def catalogue(
    source: str, *, patch_mm: float = 40.0, cubes: bool = False, missing: str = "fail",
    seed: int = 0,
) -> Catalogue:  # fmt: skip
    """The scans that have nodules, a unit each. Raises DataError naming what is wrong.

    Args:
      patch_mm: width and height of a patch; of a cube, depth too.
      cubes: take cubes in place of axial slices, their voxels as deep as they are wide.
      missing: "fail" refuses annotated scans that are not there; "leave" goes on without them,
        where only some of the ten subsets are there, and says how many.
      seed: of which places become background.
    """
    check_option("missing", missing, ("fail", "leave"))
    if not 1 <= patch_mm <= 500:
        raise DataError(f"the option patch_mm must be from 1 to 500 mm, got {patch_mm}")
    root = Path(source)
    table = root / "annotations.csv"
    if not table.is_file():
        raise DataError(f"{table}: no such file; download it beside the subsets")
    nodules, scans = read_nodules(table), list_scans(root)
    lacking = sorted(nodules.keys() - scans.keys())
    if lacking and missing == "fail":
        raise DataError(
            f"{table}: {len(lacking)} of its scans are not in subset0 to subset9, the first "
            f"{lacking[0]}.mhd; complete the download, or leave them out by missing='leave'"
        )
    used = sorted(nodules.keys() & scans.keys())
    if not used:
        raise DataError(f"{root}: holds no scan that annotations.csv names")
    candidates = read_candidates(root, set(used))
    units = [
        Unit(
            scans[uid].relative_to(root).as_posix(),
            functools.partial(
                read, scans[uid], nodules[uid], candidates.get(uid, []), patch_mm, seed, cubes
            ),
        )
        for uid in used
    ]
    notes = [f"{len(lacking)} annotated scans not there"] if lacking else []
    rest = len(scans) - len(used)
    notes += [f"{rest} scans without nodules left out"] if rest else []
    kind = "3-D patches" if cubes else "patches"
    return Catalogue(units, "; ".join([f"LUNA16 {kind} of {root.name}", *notes]))


def read(
    path: Path, nodules: list[Nodule], candidates: list[Place], patch_mm: float, seed: int,
    cubes: bool = False,
) -> list[Record]:  # fmt: skip
    """A patch around each nodule of a scan, and as many of background."""
    scan = read_scan(path)
    rng = np.random.default_rng([seed, zlib.crc32(path.stem.encode())])
    away = max(AWAY_MM, 0.75 * patch_mm)
    centres = np.asarray([nodule.centre for nodule in nodules])

    def around(points: list[Nodule], label: str) -> list[Record]:
        patches = [(block if cubes else patch)(scan, point, patch_mm) for point in points]
        return [
            Record(image, label, f"{label}{place}", path.stem, modality="ct", mask=mask)
            for place, (image, mask) in enumerate(patches)
        ]

    # Nodules first: what is wrong with the voxels shows there, with the better message.
    records = around(nodules, "nodule")
    places = far_places(scan, centres, candidates, away, rng)
    return records + around([Nodule(place, 0.0) for place in places], "background")


def patch(scan: Scan, nodule: Nodule, patch_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """The axial slice through a point, cut to a patch: [h, h, 1] uint8 in the lung window, black
    where the scan ends; and the disc of the nodule's diameter, [h, h] uint8 of 0 and 1."""
    at, (x, y, z) = place_of(scan, nodule)
    _, height, width = scan.values.shape
    half = half_edge(scan, patch_mm)
    rows, columns = (
        slice(max(middle - half, 0), min(middle + half, n))
        for middle, n in ((y, height), (x, width))
    )
    values = np.asarray(scan.values[z, rows, columns])
    check_hounsfield(scan, values)
    image = np.zeros((2 * half, 2 * half, 1), np.uint8)
    top, left = rows.start - (y - half), columns.start - (x - half)
    height, width = values.shape
    image[top : top + height, left : left + width, 0] = to_uint8(values, "lung")
    grid = np.arange(2 * half) - half
    down = (grid + y - at[1]) * scan.spacing[1]
    across = (grid + x - at[0]) * scan.spacing[0]
    distance = np.hypot(down[:, None], across)
    return image, np.asarray(distance < nodule.diameter / 2, np.uint8)


def block(scan: Scan, nodule: Nodule, patch_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """A cube around a point, of cubic voxels as wide as the scan's: [d, d, d, 1] uint8 in the lung
    window, black where the scan ends; and the ball of the nodule's diameter, [d, d, d] uint8."""
    at, middle = place_of(scan, nodule)
    check_hounsfield(scan, scan.values[middle[2]])
    half = half_edge(scan, patch_mm)
    if 2 * half > LARGEST_EDGE:
        raise DataError(
            f"{scan.path}: a cube of {patch_mm:g} mm would be of {2 * half} voxels an edge, more "
            f"than {LARGEST_EDGE}; lower the option patch_mm"
        )
    spacing = scan.spacing[::-1]
    steps = scan.spacing[0] / spacing
    corner = middle[::-1] - half * steps
    image = cube(scan.values, corner, steps, 2 * half, *limits(np.empty(0), "lung"))
    away = [
        (first + step * np.arange(2 * half) - centre) * mm
        for first, step, centre, mm in zip(corner, steps, at[::-1], spacing, strict=True)
    ]
    distance = np.sqrt(sum(along**2 for along in np.ix_(*away)))
    return image[..., None], np.asarray(distance < nodule.diameter / 2, np.uint8)


def place_of(scan: Scan, nodule: Nodule) -> tuple[np.ndarray, np.ndarray]:
    """Where a point is among the voxels, and its voxel: (x, y, z) each (DataError)."""
    at = scan.voxel(nodule.centre)
    nearest = np.floor(at + 0.5).astype(int)
    if (nearest < 0).any() or (nearest >= scan.values.shape[::-1]).any():
        raise DataError(
            f"{scan.path}: the point {nodule.centre} of the tables lies outside it; "
            "check Offset and ElementSpacing"
        )
    return at, nearest


def check_hounsfield(scan: Scan, values: np.ndarray) -> None:
    """DataError where some of a scan's values are none that a CT has."""
    if values.min() < LOWEST_HU:
        raise DataError(f"{scan.file}: its voxels are no Hounsfield units; download it again")


def half_edge(scan: Scan, patch_mm: float) -> int:
    """Of a patch, in voxels."""
    return max(1, round(patch_mm / scan.spacing[0] / 2))


def far_places(
    scan: Scan, centres: np.ndarray, candidates: list[Place], away: float, rng: np.random.Generator
) -> list[Place]:
    """As many points as there are nodules, each at least `away` mm from all of them: candidates
    that are no nodules where there are enough, else places whose voxel is of lung tissue."""

    def far(place: np.ndarray) -> bool:
        return bool((np.linalg.norm(centres - place, axis=1) >= away).all())

    places = [place for place in candidates if far(np.asarray(place))]
    if len(places) > len(centres):
        chosen = rng.choice(len(places), len(centres), replace=False)
        return [places[i] for i in sorted(chosen)]
    for _ in range(TRIES):
        if len(places) == len(centres):
            return places
        index = rng.integers(0, scan.values.shape)
        if not LUNG_HU[0] <= scan.values[tuple(index)] <= LUNG_HU[1]:
            continue
        world = scan.origin + index[::-1] * scan.spacing
        if far(world):
            x, y, z = world.tolist()
            places.append((x, y, z))
    raise DataError(
        f"{scan.path}: no places of lung found {away:g} mm from its nodules; "
        f"add {TABLES[0]}, or check the voxels"
    )


def list_scans(root: Path) -> dict[str, Path]:
    """The headers of all subsets by series."""
    found: dict[str, Path] = {}
    for folder in (root / f"subset{i}" for i in range(10)):
        for path in sorted(folder.glob("*.mhd")) if folder.is_dir() else ():
            if path.stem in found:
                raise DataError(f"{path}: also in {found[path.stem].parent.name}; remove one")
            found[path.stem] = path
    return found


def numbers_of(path: Path, row: dict[str, str], columns: tuple[str, ...]) -> list[float]:
    """The numbers of some columns of a row, or DataError."""
    try:
        values = [float(row[column]) for column in columns]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise DataError(
            f"{path}: {row['seriesuid']}: {', '.join(columns)} must be numbers, got "
            f"{[row[column] for column in columns]}; repair it"
        )
    return values


def read_nodules(path: Path) -> dict[str, list[Nodule]]:
    """The nodules of each series, in the order of the table."""
    nodules: dict[str, list[Nodule]] = {}
    columns = (*COORDINATES, "diameter_mm")
    for row in read_table(path, ("seriesuid", *columns), remedy=AGAIN):
        x, y, z, diameter = numbers_of(path, row, columns)
        if diameter <= 0:
            raise DataError(f"{path}: {row['seriesuid']}: diameter_mm must be above 0; repair it")
        nodules.setdefault(row["seriesuid"], []).append(Nodule((x, y, z), diameter))
    return nodules


def read_candidates(root: Path, used: set[str]) -> dict[str, list[Place]]:
    """The candidates that are no nodules, of the series that are used; none without a table."""
    path = next((root / name for name in TABLES if (root / name).is_file()), None)
    found: dict[str, list[Place]] = {}
    needs = ("seriesuid", *COORDINATES, "class")
    for row in read_table(path, needs, remedy=AGAIN) if path else ():
        if row["class"] not in ("0", "1"):
            raise DataError(f"{path}: class must be 0 or 1, got {row['class']!r}; repair it")
        if path and row["class"] == "0" and row["seriesuid"] in used:
            x, y, z = numbers_of(path, row, COORDINATES)
            found.setdefault(row["seriesuid"], []).append((x, y, z))
    return found


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    rng = np.random.default_rng(0)
    lines = ["seriesuid,coordX,coordY,coordZ,diameter_mm"]
    for i in range(6):
        uid, folder = f"1.3.6.1.4.1.14519.5.2.1.{i}", where / f"subset{i // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        values = rng.integers(-900, -700, (20, 24, 24)).astype("<i2")
        values[4:7, 5:8, 5:8] = 40
        values[9:12, 6:9, 6:9] = 10
        values.tofile(folder / f"{uid}.raw")
        (folder / f"{uid}.mhd").write_text(
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
            "CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = -48 -48 -100\n"
            "CenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\nElementSpacing = 4 4 5\n"
            f"DimSize = 24 24 20\nElementType = MET_SHORT\nElementDataFile = {uid}.raw\n"
        )
        lines += [f"{uid},-24.0,-24.0,-75.0,12.5", f"{uid},-20.0,-20.0,-50.0,11.25"]
    (where / "annotations.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(where)
