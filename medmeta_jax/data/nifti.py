"""NIfTI volumes (.nii, .nii.gz) of any folder tree, cut into slices or 3-D patches.

    ROOT/CLASS/NAME.nii.gz                        class folders, or
    ROOT/sub-01/anat/sub-01_T1w.nii.gz            BIDS-like names, or
    ROOT/patient1/T1w.nii.gz                      a folder a patient, a file a modality
    ROOT/.../NAME_cord.nii.gz                     a mask of NAME, named behind its name
    ROOT/labels.csv                               optional: path, label, and if known group

Without labels.csv and class folders the class is the modality: the end of a name where it is one
of `MODALITIES`, of any case. A group is what the rest of the name says: sub-01, NAME without its
modality, or where nothing is left the folder. Several masks of an image are one, numbered from 1 in
the order of their names; where they overlap the higher number stands.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data import brats
from medmeta_jax.data._cuts import about, check_cut, cut
from medmeta_jax.data._tables import check_option, read_table, walk
from medmeta_jax.data._volumes import (
    MOST_LABELS,
    Volume,
    onto,
    read_mask,
    read_volume,
    stem_of,
)
from medmeta_jax.data.records import TEXT_NAMES, TEXT_SUFFIXES, Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError

MODALITIES = {
    "t1", "t1w", "t1ce", "t1gd", "t1n", "t1c", "t2", "t2w", "t2f", "t2star", "t2starw", "flair",
    "mt", "mt1", "mtr", "pd", "pdw", "dwi", "adc", "swi", "bold", "cbf", "ct", "pet", "suv", "us",
}  # fmt: skip
SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
LOOKED_AT = 1000  # files and folders, before a tree is taken to hold no volume
BESIDE = {".bval", ".bvec"}  # of a diffusion series


class File(NamedTuple):
    """A volume, its masks, and what its name or the table says of it."""

    path: Path
    masks: tuple[Path, ...]
    label: str
    group: str
    modality: str | None


def recognises(source: str) -> bool:
    """A folder with a .nii or .nii.gz among the first files of its tree, and not BraTS."""
    root = Path(source)
    if not root.is_dir() or brats.recognises(source):
        return False
    return any(stem_of(path) for path, _ in zip(walk(root), range(LOOKED_AT), strict=False))


def catalogue(
    source: str, *, plane: str = "axial", slices: int = 16, patches: int = 0, edge: float = 32.0,
    spacing: float = 0.0, intensity: str = "percentile", frame: int = 0, label: str = "auto",
    onto_modality: str = "",
) -> Catalogue:  # fmt: skip
    """The volumes, a unit each. Raises DataError naming what is wrong.

    Args:
      plane: "axial", "coronal" or "sagittal": of slices, and of those that a patch is a stack of.
      slices: how many of a volume, evenly over its middle 80 percent; 0 for all.
      patches: cubes of a volume in place of slices, so many at most: around each connected part of
        its mask, the largest first; without a mask, evenly over the middle of the volume. What of a
        patch lies beyond the volume is 0. 0: slices.
      edge: of a patch, in mm.
      spacing: of the pixels, in mm; 0 keeps the finer one of the plane. Patches are of isotropic
        voxels of it; 0 keeps the volume's finest.
      intensity: how a volume's values become 8 bits: "percentile", "zscore", "range", or a CT
        window: "lung", "soft", "brain", "bone".
      frame: which volume of a 4-D file.
      label: "folder" (the first below the root) or "modality"; "auto": the folder where there are
        two or more and they are no subjects, else the modality. labels.csv goes before it.
      onto_modality: bring a group's other volumes onto the voxels of its one of this modality.
    """
    how: dict[str, Any] = {
        "plane": plane, "slices": slices, "patches": patches, "edge": edge, "spacing": spacing,
        "intensity": intensity,
    }  # fmt: skip
    check_cut(**how)
    check_option("label", label, ("auto", "folder", "modality"))
    root = Path(source)
    files = list_files(root, label)
    grids = find_grids(files, onto_modality)
    units = [
        Unit(
            file.path.relative_to(root).as_posix(),
            functools.partial(read, file, grids.get(file.group), frame, how),
        )
        for file in files
    ]
    return Catalogue(units, f"{about(how)} of {root.resolve().name}")


def read(file: File, grid: Path | None, frame: int, how: dict) -> list[Record]:
    """The slices or patches of one file."""
    image = read_volume(file.path, frame)
    masks = [read_mask(path, image) for path in file.masks]
    if grid is not None and grid != file.path:
        target = read_volume(grid, frame)
        masks = [onto(mask, target, mask=True) for mask in masks]
        image = onto(image, target)
    named_after = "patch" if how["patches"] else how["plane"]
    records = [
        Record(
            one.image, file.label, f"{named_after}={one.place}", file.group,
            modality=file.modality, mask=one.mask,
        )
        for one in cut(image, united(masks), **how)
    ]  # fmt: skip
    # On grids of their own, places of one number are not the same.
    return records if grid is None else [one._replace(place=one.name) for one in records]


def united(masks: list[Volume]) -> Volume | None:
    """Several masks of an image as one; a single one keeps its values."""
    if len(masks) < 2:
        return masks[0] if masks else None
    values = np.zeros(masks[0].values.shape, np.uint8)
    for number, mask in enumerate(masks, 1):
        values[mask.values > 0] = number
    return masks[0]._replace(values=values)


def list_files(root: Path, label: str) -> list[File]:
    """The images with their masks, labels and groups."""
    paths = []
    for path in walk(root):
        if path.suffix.lower() in TEXT_SUFFIXES | BESIDE or path.name in TEXT_NAMES:
            continue
        if not stem_of(path):
            raise DataError(f"{path}: not a NIfTI file; convert it to .nii.gz, or remove it")
        paths.append(path)
    images = pair_masks(paths)
    if not images:
        raise DataError(f"{root}: holds no .nii or .nii.gz files")
    table = root / "labels.csv"
    rows = read_labels(table, root, set(images)) if table.is_file() else {}
    by_folder = rows == {} and takes_folders(root, list(images), label)
    files = []
    for path, masks in images.items():
        modality, group = named(root, path, by_folder)
        own = path.relative_to(root).parts[0] if by_folder else modality or root.resolve().name
        row = rows.get(path, {})
        files.append(File(path, masks, row.get("label", own), row.get("group") or group, modality))
    return files


def pair_masks(paths: list[Path]) -> dict[Path, tuple[Path, ...]]:
    """Images and their masks: of a folder's files, one named as another with _ and more behind."""
    images: dict[Path, tuple[Path, ...]] = {}
    stems: dict[tuple[Path, str], Path] = {}
    for path in paths:
        key = (path.parent, stem_of(path))
        if key in stems:
            raise DataError(f"{path}: {stems[key].name} has the same name; remove one")
        stems[key] = path
    for (folder, stem), path in sorted(stems.items()):
        parts = stem.split("_")
        starts = ("_".join(parts[:n]) for n in range(1, len(parts)))
        owner = next((stems[folder, start] for start in starts if (folder, start) in stems), None)
        if owner is None:
            images.setdefault(path, ())
        else:
            images[owner] = (*images.get(owner, ()), path)
    if any(len(masks) >= MOST_LABELS for masks in images.values()):
        crowded = next(path for path, masks in images.items() if len(masks) >= MOST_LABELS)
        raise DataError(f"{crowded}: {len(images[crowded])} files are named as masks of it")
    return images


def named(root: Path, path: Path, by_folder: bool) -> tuple[str | None, str]:
    """What a file's name says: its modality, if known, and its group."""
    head, _, tail = stem_of(path).rpartition("_")
    modality = tail.lower() if tail.lower() in MODALITIES else None
    inside = path.relative_to(root)
    subject = SUBJECT.search(inside.as_posix())
    if subject:
        return modality, subject[0]
    rest = head if modality else stem_of(path)
    # A file of one modality and no more lies in its patient's folder.
    group = (inside.parent / rest).as_posix()
    return modality, root.resolve().name if group == "." else group


def takes_folders(root: Path, images: list[Path], label: str) -> bool:
    """Whether the first folders below the root are the classes."""
    inside = [path.relative_to(root) for path in images]
    flat = [path for path in inside if len(path.parts) == 1]
    if label == "folder" and flat:
        raise DataError(f"{root / flat[0]}: lies in no class folder; move it, or label='modality'")
    if label != "auto":
        return label == "folder"
    subjects = any(SUBJECT.match(path.parts[0]) for path in inside)
    bare = any(stem_of(path).lower() in MODALITIES for path in images)
    several = len({path.parts[0] for path in inside}) > 1
    return several and not flat and not subjects and not bare


def read_labels(table: Path, root: Path, images: set[Path]) -> dict[Path, dict[str, str]]:
    """The rows of labels.csv by image; each image has one, with a label."""
    rows: dict[Path, dict[str, str]] = {}
    for row in read_table(table, ("path", "label")):
        path = root / row["path"].replace("\\", "/")
        if path not in images or path in rows:
            what = "has two rows for" if path in rows else "there is no image"
            raise DataError(f"{table}: {what} {row['path']!r}; repair its row")
        if not row["label"] or ("group" in row and not row["group"]):
            raise DataError(f"{table}: {row['path']} has no label or no group; fill it in")
        rows[path] = row
    for path in sorted(images - rows.keys()):
        inside = path.relative_to(root).as_posix()
        raise DataError(f"{table}: has no row for {inside}; add one, or remove the file")
    return rows


def find_grids(files: list[File], modality: str) -> dict[str, Path]:
    """The file of each group whose voxels are the group's grid."""
    if not modality:
        return {}
    grids: dict[str, Path] = {}
    for file in files:
        if file.modality == modality.lower():
            if file.group in grids:
                raise DataError(
                    f"{file.path}: {grids[file.group].name} is of the same group and modality; "
                    "which is to be the grid is not known"
                )
            grids[file.group] = file.path
    for file in files:
        if file.group not in grids:
            raise DataError(f"{file.path}: its group {file.group} has no volume of {modality!r}")
    return grids


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    for kind in range(6):
        for patient in range(4):
            folder = where / f"kind{kind}"
            folder.mkdir(parents=True, exist_ok=True)
            values = rng.integers(0, 200, (9, 10, 6)).astype(np.int16)
            image = nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0]))
            nib.save(image, folder / f"p{patient}_T1w.nii.gz")
    return str(where)
