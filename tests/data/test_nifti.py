"""NIfTI trees: classes, groups and modalities by name, masks, one grid, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medmeta_jax.data import nifti, sources
from medmeta_jax.data.records import Record

from .damage import Case, check_refused, list_units, records, remove, write

REAL = Path(os.environ.get("MEDMETA_TEST_DATA") or "../shared/data") / "spinal_cord"


def save(path: Path, values: Any = None, spacing: tuple[float, ...] = (1, 1, 1)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5) if values is None else values
    nib.save(nib.Nifti1Image(values, np.diag([*spacing, 1.0])), path)
    return path


def facts(root: Path, **options: Any) -> set[tuple[str | tuple[str, ...], str | None, str | None]]:
    return {(r.label, r.group, r.modality) for r in records(root, **options)}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # Class folders: every volume is its own group.
        (["a/x.nii.gz", "b/y_T1w.nii"], {("a", "a/x", None), ("b", "b/y", "t1w")}),
        # Two modalities of one patient are one group.
        (
            ["a/p_T1.nii", "a/p_T2.nii", "b/p_T1.nii"],
            {("a", "a/p", "t1"), ("a", "a/p", "t2"), ("b", "b/p", "t1")},
        ),
        # BIDS: the subject is the group, sessions and runs included; the suffix is the class.
        (
            ["sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-02/anat/sub-02_run-1_T2w.nii.gz"],
            {("t1w", "sub-01", "t1w"), ("t2w", "sub-02", "t2w")},
        ),
        # A folder a patient.
        (
            ["p1/T1w.nii", "p1/FLAIR.nii", "p2/T1w.nii"],
            {("t1w", "p1", "t1w"), ("flair", "p1", "flair"), ("t1w", "p2", "t1w")},
        ),
        # Neither: one class, named after the folder.
        (["x.nii", "y.nii"], {("tree", "x", None), ("tree", "y", None)}),
        (["T1w.nii", "T2w.nii"], {("t1w", "tree", "t1w"), ("t2w", "tree", "t2w")}),
    ],
)
def test_what_names_say(
    tmp_path: Path, files: list[str], expected: set[tuple[str, str, str | None]]
) -> None:
    for file in files:
        save(tmp_path / "tree" / file)
    assert facts(tmp_path / "tree") == expected


def test_the_label_is_as_asked(tmp_path: Path) -> None:
    save(tmp_path / "p1/T1w.nii")
    save(tmp_path / "p2/T2w.nii")
    assert {label for label, _, _ in facts(tmp_path, label="folder")} == {"p1", "p2"}
    assert {label for label, _, _ in facts(tmp_path, label="modality")} == {"t1w", "t2w"}


def test_a_table_goes_before_folders(tmp_path: Path) -> None:
    save(tmp_path / "a/x_T1w.nii")
    save(tmp_path / "b/y.nii")
    (tmp_path / "labels.csv").write_text("path,label,group\na/x_T1w.nii,ill,7\nb\\y.nii,well,8\n")
    assert facts(tmp_path) == {("ill", "7", "t1w"), ("well", "8", None)}
    (tmp_path / "labels.csv").write_text("path,label\na/x_T1w.nii,ill\nb/y.nii,ill\n")
    assert facts(tmp_path) == {("ill", "a/x", "t1w"), ("ill", "b/y", None)}


def test_a_file_named_behind_another_is_its_mask(tmp_path: Path) -> None:
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 2, 3] = 9
    save(tmp_path / "T1w.nii.gz")
    save(tmp_path / "T1w_cord.nii.gz", mask)
    (only,) = {r.modality for r in records(tmp_path)}
    assert only == "t1w"
    found = [r.mask for r in records(tmp_path, slices=0)]
    assert [int(m.sum()) for m in found] == [0, 0, 0, 9, 0]
    assert found[3][4 - 1 - 2, 3 - 1 - 1] == 9


def test_several_masks_are_one_numbered_by_name(tmp_path: Path) -> None:
    """cord is 1 and gm, which lies in it, 2."""
    cord, matter = np.zeros((2, 3, 4, 5), np.uint8)
    cord[:2], matter[0] = 7, 1
    save(tmp_path / "T1w.nii.gz")
    save(tmp_path / "T1w_gm.nii.gz", matter)
    save(tmp_path / "T1w_cord.nii.gz", cord)
    for record in records(tmp_path):
        assert record.mask is not None
        np.testing.assert_array_equal(record.mask, np.tile([0, 1, 2], (4, 1)))


def test_images_without_a_mask_have_none(tmp_path: Path) -> None:
    save(tmp_path / "x.nii")
    assert {r.mask is None for r in records(tmp_path)} == {True}


def test_slices_plane_and_names(tmp_path: Path) -> None:
    save(tmp_path / "x.nii")
    by_name = {r.name: r for r in records(tmp_path, slices=2)}
    assert list(by_name) == ["axial=1", "axial=3"]
    stored = np.arange(60).reshape(3, 4, 5)
    low, high = np.percentile(stored, (0.5, 99.5))
    grey = (np.clip(stored[2, 3, 1], low, high) - low) / (high - low) * 255
    assert by_name["axial=1"].image[0, 0, 0] == round(grey)
    assert [r.name for r in records(tmp_path, plane="coronal", slices=1)] == ["coronal=2"]


def test_other_modalities_onto_the_grid_of_one(tmp_path: Path) -> None:
    """T2w has voxels of 2 mm, T1w of 1 mm: the same slices show the same places."""
    across = np.broadcast_to(np.arange(0, 80, 20, dtype=np.int16)[:, None, None], (4, 4, 5))
    save(tmp_path / "p/T1w.nii", np.arange(7 * 7 * 9, dtype=np.int16).reshape(7, 7, 9))
    save(tmp_path / "p/T2w.nii", np.array(across), spacing=(2, 2, 2))
    save(tmp_path / "p/T2w_cord.nii", np.array(across > 30, np.uint8), spacing=(2, 2, 2))

    def second(**options: Any) -> list[Record]:
        return [r for r in records(tmp_path, slices=0, intensity="range", **options)
                if r.modality == "t2w"]  # fmt: skip

    assert {r.image.shape for r in second()} == {(4, 4, 1)}
    moved = second(onto_modality="T1w")
    assert len(moved) == 9
    for record in moved:
        # 0, 10, 20 to 60 across; the patient's right, where it is brightest, is on the left.
        expected = np.round(np.arange(6, -1, -1) / 6 * 255)
        np.testing.assert_allclose(record.image[..., 0], np.tile(expected, (7, 1)), atol=1)
        assert record.mask is not None
        assert record.mask[:, :3].all()
        assert not record.mask[:, 4:].any()


def test_the_grid_must_be_known(tmp_path: Path) -> None:
    save(tmp_path / "p/T1w.nii")
    save(tmp_path / "q/T2w.nii")
    check_refused(
        tmp_path, (lambda _: None, "T2w.nii: its group q has no volume of 'T1w'"),
        lambda root: records(root, onto_modality="T1w"),
    )  # fmt: skip
    (tmp_path / "q/T2w.nii").unlink()
    save(tmp_path / "p/run2_T1w.nii")
    (tmp_path / "labels.csv").write_text("path,label,group\np/T1w.nii,a,1\np/run2_T1w.nii,a,1\n")
    check_refused(
        tmp_path, (lambda _: None, "is of the same group and modality"),
        lambda root: records(root, onto_modality="T1w"),
    )  # fmt: skip


def test_a_tree_of_volumes_is_recognised(tmp_path: Path) -> None:
    assert not nifti.recognises(str(tmp_path))
    (tmp_path / "README").write_text("about")
    (tmp_path / "deep/er").mkdir(parents=True)
    assert not nifti.recognises(str(tmp_path))
    save(tmp_path / "deep/er/x.NII.gz".replace("NII", "nii"))
    assert nifti.recognises(str(tmp_path))
    assert sources.find(str(tmp_path)) == "nifti"
    assert not nifti.recognises(str(tmp_path / "absent"))


CASES: list[Case] = [
    (write("a/notes.doc", "x"), r"notes\.doc: not a NIfTI file; convert it to \.nii\.gz"),
    (lambda root: save(root / "a/x.nii"), r"x\.nii\.gz: x\.nii has the same name"),
    (
        write("labels.csv", "path,label\na/x.nii.gz,1\n"),
        r"labels\.csv: has no row for b/y",
    ),
    (write("labels.csv", "path,label\na/z.nii.gz,1\n"), r"labels\.csv: there is no image 'a/z"),
    (write("labels.csv", "path,label\n../a/x.nii.gz,1\n"), "there is no image '../a/x"),
    (write("labels.csv", "path,label\na/x.nii.gz,1\na/x.nii.gz,1\n"), "has two rows for 'a/x"),
    (write("labels.csv", "path,label\na/x.nii.gz,\nb/y.nii.gz,1\n"), "no label or no group"),
    (write("labels.csv", "path,label,group\na/x.nii.gz,1,\n"), "no label or no group"),
    (write("labels.csv", "path,kind\na/x.nii.gz,1\n"), r"labels\.csv: .*label"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1][:40])
def test_what_is_refused_before_a_voxel_is_read(tmp_path: Path, case: Case) -> None:
    save(tmp_path / "a/x.nii.gz")
    save(tmp_path / "b/y.nii.gz")
    check_refused(tmp_path, case, list_units)


def test_an_empty_tree_and_a_lost_folder_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a/x.nii.gz")
    check_refused(
        tmp_path, (remove("a/x.nii.gz"), "holds no .nii or .nii.gz files"),
        lambda root: nifti.catalogue(str(root)),
    )  # fmt: skip
    save(tmp_path / "x.nii.gz")
    check_refused(
        tmp_path, (lambda _: None, r"x\.nii\.gz: lies in no class folder"),
        lambda root: nifti.catalogue(str(root), label="folder"),
    )  # fmt: skip


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data beside the project")
def test_real_volumes_of_one_subject() -> None:
    found = records(REAL, slices=4)
    assert {(r.label, r.group) for r in found} == {
        (name, "spinal_cord") for name in ("t1w", "t2w", "t2star", "mt1")
    }
    assert len(found) == 16
    labels = {r.modality: set() for r in found}
    for record in found:
        labels[record.modality] |= set(record.mask.ravel().tolist())
    assert labels == {"t1w": {0, 1}, "t2w": {0, 1}, "t2star": {0, 1, 2}, "mt1": {0, 1}}
    one_grid = records(REAL, slices=4, onto_modality="t2w")
    assert len({r.image.shape for r in one_grid}) == 1
    cords = {
        name: np.stack([r.mask > 0 for r in one_grid if r.modality == name])
        for name in ("t1w", "t2w")
    }
    both = (cords["t1w"] & cords["t2w"]).sum()
    dice = 2 * both / (cords["t1w"].sum() + cords["t2w"].sum())
    assert dice > 0.8, "the same cord in two contrasts, brought onto one grid"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data beside the project")
def test_real_patches_are_of_the_cord_and_drawn_as_its_slices() -> None:
    """One cord, one patch, with the cord in its middle; where voxels are cubes, each slice of the
    patch is a window of one of the volume's, in their order."""
    patches = {r.modality: r for r in records(REAL, patches=3, edge=16.0)}
    assert {name: r.image.shape[:3] for name, r in patches.items()} == {
        "t1w": (16, 16, 16), "t2w": (16, 16, 16), "t2star": (32, 32, 32), "mt1": (19, 19, 19),
    }  # fmt: skip
    for record in patches.values():
        middle = len(record.mask) // 2
        assert record.mask[:, middle, middle].all()
        assert not record.mask[:, 0, 0].any()
    whole = [r for r in records(REAL, slices=0) if r.modality == "t1w"]
    stack = np.stack([r.image[..., 0] for r in whole]).astype(np.int16)
    windows = np.lib.stride_tricks.sliding_window_view(stack, (16, 16), (1, 2))
    cube = patches["t1w"].image[..., 0].astype(np.int16)
    found = [np.argwhere((np.abs(windows - one) <= 1).all((-1, -2))) for one in cube]
    assert [len(places) for places in found] == [1] * 16
    first = found[0][0]
    np.testing.assert_array_equal(np.concatenate(found), first + [[i, 0, 0] for i in range(16)])
    labels = np.stack([r.mask for r in whole])
    inside = tuple(slice(a, a + 16) for a in first)
    np.testing.assert_array_equal(labels[inside], patches["t1w"].mask)
