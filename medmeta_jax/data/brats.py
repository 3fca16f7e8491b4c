"""BraTS, brain tumours in four MR contrasts, as it is downloaded (2018 to 2023).

    ROOT/[HGG/]SUBJECT/SUBJECT_flair.nii.gz     and _t1, _t1ce, _t2, _seg, to 2021; or
    ROOT/SUBJECT/SUBJECT-t2f.nii.gz             and -t1n, -t1c, -t2w, -seg, from 2023

The contrasts of a subject share one grid. Masks keep three labels: 1 necrotic core, 2 oedema, 3
enhancing tumour (4 before 2023). The whole tumour (WT) is 1, 2 and 3, the tumour core (TC) 1 and 3,
the enhancing tumour (ET) 3. Voxels outside of the brain are 0 and no part of its intensities. A
group is a subject: 2018 and 2019 name some patients twice by their scans' numbers, which no file
tells apart.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data._cuts import about, check_cut, cut
from medmeta_jax.data._tables import check_option, first_names
from medmeta_jax.data._volumes import Volume, check_grid, read_mask, read_volume, stem_of
from medmeta_jax.data.records import TEXT_NAMES, TEXT_SUFFIXES, Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError

# Both spellings of a contrast, by the name that records give it.
CONTRASTS = {
    "t1": ("t1", "t1n"), "t1ce": ("t1ce", "t1c"), "t2": ("t2", "t2w"), "flair": ("flair", "t2f"),
}  # fmt: skip
KNOWN = {ending: name for name, endings in CONTRASTS.items() for ending in endings}
GRADES = ("HGG", "LGG")
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
INNERMOST = ("none", "oedema", "core", "enhancing")  # by how many regions an image shows


class Subject(NamedTuple):
    """A subject's folder, its files by contrast, its mask, and its grade's folder, if any."""

    folder: Path
    contrasts: dict[str, Path]
    mask: Path
    grade: str


def recognises(source: str) -> bool:
    """A folder of subjects whose files are named after it and a contrast."""
    root = Path(source)
    if not root.is_dir():
        return False
    roots = [root / grade for grade in GRADES if (root / grade).is_dir()] or [root]
    folders = [roots[0] / name for name in sorted(first_names(roots[0]))]
    return any(
        contrast_of(folder, Path(name)) for folder in folders[:20] if folder.is_dir()
        for name in first_names(folder)
    )  # fmt: skip


def catalogue(
    source: str, *, contrast: str = "all", label: str = "region", plane: str = "axial",
    slices: int = 16, patches: int = 0, edge: float = 32.0, spacing: float = 0.0,
    intensity: str = "percentile", missing: str = "fail",
) -> Catalogue:  # fmt: skip
    """The subjects, a unit each. Raises DataError naming what is wrong.

    Args:
      contrast: "t1", "t1ce", "t2", "flair", or "all", each with images of its own.
      label: "region": the innermost region that a slice or patch shows, one of `INNERMOST`;
        "regions": all that it shows, of WT, TC and ET; "grade": HGG or LGG.
      plane, slices, patches, edge, spacing, intensity: as in `nifti`; intensities are of the
        brain's voxels, and patches are around the parts of the whole tumour.
      missing: "fail" refuses subjects without a contrast that is asked for; "leave" takes what
        there is. Subjects without a mask are refused, or left out.
    """
    how: dict[str, Any] = {
        "plane": plane, "slices": slices, "patches": patches, "edge": edge, "spacing": spacing,
        "intensity": intensity,
    }  # fmt: skip
    check_cut(**how)
    check_option("contrast", contrast, (*CONTRASTS, "all"))
    check_option("label", label, ("region", "regions", "grade"))
    check_option("missing", missing, ("fail", "leave"))
    root = Path(source)
    wanted = tuple(CONTRASTS) if contrast == "all" else (contrast,)
    subjects, left = list_subjects(root, wanted, missing)
    if label == "grade" and not all(subject.grade for subject in subjects):
        raise DataError(f"{root}: has no folders HGG and LGG; the option label cannot be 'grade'")
    units = [
        Unit(s.folder.relative_to(root).as_posix(), functools.partial(read, s, label, how))
        for s in subjects
    ]
    notes = [f"{left} subjects left out: no mask or contrast"] if left else []
    said = "; ".join([f"BraTS {about(how)} of {root.resolve().name}", *notes])
    names = {"region": INNERMOST, "regions": tuple(REGIONS), "grade": GRADES}[label]
    return Catalogue(units, said, class_names=names)


def read(subject: Subject, label: str, how: dict) -> list[Record]:
    """The slices or patches of all contrasts of a subject, with their masks."""
    mask: Volume | None = None
    records = []
    for contrast, path in subject.contrasts.items():
        image = read_volume(path)
        if mask is None:
            mask = tumour(read_mask(subject.mask, image))
        check_grid(image, mask)
        for one in cut(image, mask, within=image.values != 0, **how):
            shown = [] if one.mask is None else regions(one.mask)
            records.append(
                Record(
                    one.image, label_of(subject, shown, label), f"{contrast} {one.place}",
                    subject.folder.name, modality=contrast, mask=one.mask, place=str(one.place),
                )
            )  # fmt: skip
    return records


def label_of(subject: Subject, shown: list[str], label: str) -> str | tuple[str, ...]:
    """An image's label, or its several, as the option asks."""
    if label == "regions":
        return tuple(shown)
    return subject.grade if label == "grade" else INNERMOST[len(shown)]


def tumour(mask: Volume) -> Volume:
    """Labels 1, 2, 4 or 1, 2, 3 as 1, 2, 3. Raises DataError for any other."""
    values = mask.values
    found = set(np.unique(values).tolist())
    if not found <= {0, 1, 2, 3} and not found <= {0, 1, 2, 4}:
        raise DataError(f"{mask.path}: labels {sorted(found)} are not 1, 2, 3 or 1, 2, 4")
    return mask._replace(values=np.where(values == 4, np.uint8(3), values))


def regions(mask: np.ndarray) -> list[str]:
    """Those of WT, TC and ET that a mask shows: each lies in the one before."""
    return [name for name, labels in REGIONS.items() if np.isin(mask, labels).any()]


def contrast_of(folder: Path, path: Path) -> str:
    """What a file of a subject's folder is: a contrast, "seg", or "" for another file."""
    stem, name = stem_of(path), folder.name
    if not stem.startswith(name) or stem[len(name) :][:1] not in ("_", "-"):
        return ""
    ending = stem[len(name) + 1 :].lower()
    return ending if ending == "seg" else KNOWN.get(ending, "")


def list_subjects(root: Path, wanted: tuple[str, ...], missing: str) -> tuple[list[Subject], int]:
    """The subjects that have what is wanted, and how many were left out (DataError)."""
    grades = [grade for grade in GRADES if (root / grade).is_dir()]
    found: list[Subject] = []
    left = 0
    for top in [root / grade for grade in grades] or [root]:
        for folder in sorted(top.iterdir()):
            if folder.name.startswith(".") or is_text(folder):
                continue
            files = list_files(folder)
            contrasts = {name: files[name] for name in wanted if name in files}
            lacking = [name for name in ("seg", *wanted) if name not in files]
            if lacking and missing == "fail":
                endings = zip("_-", CONTRASTS.get(lacking[0], ("seg", "seg")), strict=True)
                names = " or ".join(f"{folder.name}{a}{b}.nii.gz" for a, b in endings)
                raise DataError(
                    f"{folder}: has no {names}; add it, or leave it out by missing='leave'"
                )
            if "seg" not in files or not contrasts:
                left += 1
                continue
            found.append(Subject(folder, contrasts, files["seg"], top.name if grades else ""))
    if not found:
        raise DataError(f"{root}: holds no subject with a mask and one of {', '.join(wanted)}")
    return found, left


def is_text(path: Path) -> bool:
    """Whether a file stands beside images and holds none."""
    return path.suffix.lower() in TEXT_SUFFIXES or path.name in TEXT_NAMES


def list_files(folder: Path) -> dict[str, Path]:
    """A subject's files by contrast, and "seg". Raises DataError for files that are none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: not a subject's folder; remove it")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or is_text(path):
            continue
        name = contrast_of(folder, path)
        if not name or name in files:
            what = f"also in {files[name].name}" if name else "not named as a contrast or seg"
            raise DataError(f"{path}: {what}; rename or remove it")
        files[name] = path
    return files


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    for number in range(4):
        name = f"BraTS-GLI-{number:05d}-000"
        (where / name).mkdir(parents=True, exist_ok=True)
        seg = np.zeros((12, 14, 16), np.uint8)
        for label, deepest in ((2, 12), (1, 8), (3, 4)):  # a slice of each innermost region
            seg[3:9, 3 + label : 9, :deepest] = label
        for ending in ("t1n", "t1c", "t2w", "t2f", "seg"):
            values = rng.integers(1, 900, seg.shape).astype(np.int16)
            image = nib.Nifti1Image(seg if ending == "seg" else values, np.eye(4))
            nib.save(image, where / name / f"{name}-{ending}.nii.gz")
    return str(where)
