"""BraTS of 2018 to 2023: names, labels, regions, absent contrasts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medmeta_jax.data import brats, sources

from .damage import Case, check_refused, list_units, records, remove, write

OLD = ("_t1", "_t1ce", "_t2", "_flair")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f")
BRAIN = np.arange(1, 97, dtype=np.int16).reshape(4, 6, 4)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def subject(folder: Path, endings: tuple[str, ...] = OLD, enhancing: int = 4) -> None:
    """Axial slices without a tumour, with oedema, with core in it, with enhancing tumour in that.
    Each contrast is brighter than the one before; a column of voxels is outside of the brain."""
    seg = np.zeros(BRAIN.shape, np.uint8)
    seg[1:, 1:5, 1:] = 2
    seg[2:, 2:4, 2:] = 1
    seg[3, 3, 3] = enhancing
    for number, ending in enumerate(endings):
        values = BRAIN * (number + 1)
        values[0, 0] = 0
        save(folder / f"{folder.name}{ending}.nii.gz", values)
    save(folder / f"{folder.name}{endings[0][0]}seg.nii.gz", seg)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subject(tmp_path / "MICCAI/HGG/Brats18_A_1")
    subject(tmp_path / "MICCAI/LGG/Brats18_B_1")
    return tmp_path / "MICCAI"


@pytest.mark.parametrize(("endings", "enhancing"), [(OLD, 4), (NEW, 3)])
def test_both_spellings_and_both_numberings(
    tmp_path: Path, endings: tuple[str, ...], enhancing: int
) -> None:
    subject(tmp_path / "BraTS-GLI-00000-000", endings, enhancing)
    assert sources.find(str(tmp_path)) == "brats"
    found = records(tmp_path, slices=0, plane="axial")
    assert [r.modality for r in found] == [name for name in brats.CONTRASTS for _ in range(4)]
    assert [r.label for r in found] == ["none", "oedema", "core", "enhancing"] * 4
    assert {r.group for r in found} == {"BraTS-GLI-00000-000"}
    assert [set(r.mask.ravel().tolist()) for r in found[:4]] == [
        {0}, {0, 2}, {0, 1, 2}, {0, 1, 2, 3}
    ]  # fmt: skip
    assert found[3].mask[6 - 1 - 3, 0] == 3, "x = 3 is the patient's right, drawn on the left"


def test_the_regions_that_a_slice_shows(root: Path) -> None:
    found = records(root, slices=0, label="regions", contrast="flair")
    expected = [(), ("WT",), ("WT", "TC"), ("WT", "TC", "ET")]
    assert [r.label for r in found] == expected * 2
    assert sources.catalogue(str(root), label="regions").class_names == ("WT", "TC", "ET")


def test_the_enhancing_tumour_counts_where_no_core_is(tmp_path: Path) -> None:
    assert brats.regions(np.array([0, 3], np.uint8)) == ["WT", "TC", "ET"]
    assert brats.regions(np.array([0, 1], np.uint8)) == ["WT", "TC"]
    assert brats.regions(np.array([0, 2], np.uint8)) == ["WT"]


def test_the_grade_is_the_folder(root: Path, tmp_path: Path) -> None:
    assert [r.label for r in records(root, slices=1, label="grade", contrast="t1")] == [
        "HGG", "LGG",
    ]  # fmt: skip
    subject(tmp_path / "flat/BraTS_1")
    check_refused(
        tmp_path / "flat", (lambda _: None, "has no folders HGG and LGG"),
        lambda root: records(root, label="grade"),
    )  # fmt: skip


def test_intensities_are_of_the_brain(root: Path) -> None:
    """The lowest of the brain, 5, is 0 as is what lies outside; the highest is 255."""
    found = records(root, slices=0, contrast="t1", intensity="range")
    image = found[0].image[..., 0]
    values = np.where(np.arange(4)[:, None] + np.arange(6) == 0, 0, BRAIN[..., 0])
    low = np.delete(BRAIN.reshape(24, 4), 0, axis=0).min()
    expected = np.clip((values - low) / (96 - low), 0, 1) * 255
    np.testing.assert_allclose(image, expected[::-1, ::-1].T, atol=0.5)


def test_each_contrast_is_scaled_by_itself(root: Path) -> None:
    """They differ by a factor alone."""
    found = records(root, slices=1)
    for record in found[1:4]:
        np.testing.assert_allclose(record.image.astype(float), found[0].image.astype(float), atol=1)


def test_patches_are_of_the_tumour_and_say_what_they_show(root: Path) -> None:
    """One tumour of 3 x 4 x 3 voxels in every contrast; a smaller patch may miss its inner parts,
    and without a tumour patches are of the middle."""
    found = records(root, patches=4, edge=8.0)
    assert [r.name for r in found[:4]] == ["t1 0", "t1ce 0", "t2 0", "flair 0"]
    assert {(r.image.shape, r.mask.shape) for r in found} == {((8, 8, 8, 1), (8, 8, 8))}
    assert {r.label for r in found} == {"enhancing"}
    assert [int((found[0].mask == label).sum()) for label in (1, 2, 3)] == [7, 28, 1]
    assert {r.label for r in records(root, patches=4, edge=8.0, label="regions")} == {
        ("WT", "TC", "ET")
    }  # fmt: skip
    assert {r.label for r in records(root, patches=1, edge=1.0)} == {"core"}
    assert sources.catalogue(str(root), patches=1).about == "BraTS 3-D patches of MICCAI"
    reseg(np.uint8(0))(root)
    assert [r.label for r in records(root, patches=2, edge=2.0, contrast="t1")] == [
        "none", "none", "core",
    ]  # fmt: skip


def test_absent_contrasts_are_left_where_asked(root: Path) -> None:
    remove("HGG/Brats18_A_1/Brats18_A_1_t2.nii.gz")(root)
    assert len(records(root, slices=1, missing="leave")) == 3 + 4
    assert len(records(root, slices=1, contrast="t1")) == 2, "what is not asked for may be absent"
    listed = sources.catalogue(str(root), missing="leave", contrast="t2")
    assert len(listed.units) == 1
    assert "1 subjects left out: no mask or contrast" in listed.about
    remove("LGG/Brats18_B_1/Brats18_B_1_seg.nii.gz")(root)
    listed = sources.catalogue(str(root), missing="leave")
    assert [unit.name for unit in listed.units] == ["HGG/Brats18_A_1"]


def test_other_trees_are_not_taken_for_it(tmp_path: Path) -> None:
    assert not brats.recognises(str(tmp_path))
    save(tmp_path / "p1/T1w.nii.gz", BRAIN)
    save(tmp_path / "p1/other_t1.nii.gz", BRAIN)
    save(tmp_path / "p2/p2t1.nii.gz", BRAIN)
    assert not brats.recognises(str(tmp_path))
    assert not brats.recognises(str(tmp_path / "absent"))


A = "HGG/Brats18_A_1"


def reseg(values: Any) -> Any:
    return lambda root: save(root / A / "Brats18_A_1_seg.nii.gz", np.full(BRAIN.shape, values))


def other_grid(root: Path) -> None:
    image = nib.Nifti1Image(BRAIN, np.diag([1, 1, 1.5, 1]))
    nib.save(image, root / A / "Brats18_A_1_t2.nii.gz")


LISTED: list[Case] = [
    (remove(f"{A}/Brats18_A_1_t1ce.nii.gz"), r"has no Brats18_A_1_t1ce\.nii\.gz or .*-t1c\.nii"),
    (remove(f"{A}/Brats18_A_1_seg.nii.gz"), r"has no Brats18_A_1_seg\.nii\.gz .*missing='leave'"),
    (write(f"{A}/Brats18_A_1_t1x.nii.gz", "x"), "not named as a contrast or seg"),
    (write(f"{A}/Brats18_A_1_t1.nii", "x"), r"also in Brats18_A_1_t1\.nii"),
    (write("HGG/notes.doc", "x"), r"notes\.doc: not a subject's folder"),
]
READ: list[Case] = [
    (reseg(np.uint8(5)), r"seg\.nii\.gz: labels \[5\] are not 1, 2, 3 or 1, 2, 4"),
    (reseg(np.float32(1.5)), r"seg\.nii\.gz: taken for a mask"),
    (other_grid, r"t2\.nii\.gz: does not lie on the voxels of Brats18_A_1_seg\.nii\.gz"),
    (lambda root: save(root / A / "Brats18_A_1_t2.nii.gz", BRAIN * 0), r"t2\.nii\.gz: .*no value"),
]


@pytest.mark.parametrize("case", LISTED, ids=lambda case: case[1][:30])
def test_what_is_refused_before_a_voxel_is_read(root: Path, case: Case) -> None:
    check_refused(root, case, list_units)


@pytest.mark.parametrize("case", READ, ids=lambda case: case[1][:30])
def test_what_is_refused_in_reading(root: Path, case: Case) -> None:
    check_refused(root, case)


def test_labels_3_and_4_do_not_stand_together(root: Path) -> None:
    seg = np.zeros(BRAIN.shape, np.uint8)
    seg[0, 0, :2] = 3, 4
    save(root / A / "Brats18_A_1_seg.nii.gz", seg)
    check_refused(root, (lambda _: None, r"labels \[0, 3, 4\] are not"))


def test_text_and_hidden_files_are_passed_over(root: Path) -> None:
    for name in ("survival.csv", "HGG/survival.csv", f"{A}/notes.txt", ".DS_Store", f"{A}/.hidden"):
        write(name, "x")(root)
    assert len(records(root, slices=1)) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrast": "pd"}, "the option contrast must be one of t1, t1ce, t2, flair, all"),
        ({"label": "size"}, "the option label must be one of region, regions, grade"),
        ({"missing": "no"}, "the option missing must be one of fail, leave"),
        ({"plane": "top"}, "the option plane must be one of"),
    ],
)
def test_options_are_checked(root: Path, options: dict[str, str], message: str) -> None:
    check_refused(
        root, (lambda _: None, message), lambda root: sources.catalogue(str(root), **options)
    )


def test_a_set_without_a_usable_subject_is_refused(tmp_path: Path) -> None:
    (tmp_path / "HGG/Brats18_A_1").mkdir(parents=True)
    check_refused(
        tmp_path, (lambda _: None, "holds no subject with a mask and one of t1"),
        lambda root: brats.catalogue(str(root), missing="leave"),
    )  # fmt: skip
