"""Covariates by hand: what is joined, what is missing, what is refused, and who has a part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmeta_jax import data_verbs
from medmeta_jax.data import covariates, dicom, folder
from medmeta_jax.data._identity import hashed
from medmeta_jax.data.samples import DataError
from medmeta_jax.options import DataInspect

TABLE = """group,age,sex,gene
p1,40,F,0.5
p2,60,M,
p3,NA,F,1.5
p4,80,,2.5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8")
    return tmp_path / "table.csv"


def test_the_join_by_hand(path: Path) -> None:
    """Fitted on p1 (twice there, counted once) and p2: age 50 ± 10, gene 0.5 with no spread."""
    groups = np.asarray(["p1", "p3", "p1", "p2", "p9", "p4"])
    fitted_on = np.asarray([True, False, True, True, False, False])
    joined = covariates.join(covariates.read(path), groups, fitted_on)
    assert joined.names == ("age", "sex=F", "sex=M", "gene")
    assert joined.absent == ("p9",)
    assert joined.values.dtype == np.float32
    expected = {
        "p1": ([-1, 1, 0, 0], [True] * 4),
        "p2": ([1, 0, 1, 0], [True, True, True, False]),
        "p3": ([0, 1, 0, 1], [False, True, True, True]),
        "p4": ([3, 0, 0, 2], [True, False, False, True]),
        "p9": ([0] * 4, [False] * 4),
    }
    for row, group in enumerate(groups):
        np.testing.assert_allclose(joined.values[row], expected[group][0], rtol=1e-6)
        np.testing.assert_array_equal(joined.present[row], expected[group][1])


def test_no_judged_patient_has_a_part(path: Path) -> None:
    groups, fitted_on = np.asarray(["p1", "p2", "p4"]), np.asarray([True, True, False])
    before = covariates.join(covariates.read(path), groups, fitted_on).values[:2]
    path.write_text(TABLE.replace("p4,80", "p4,8000"), encoding="utf-8")
    after = covariates.join(covariates.read(path), groups, fitted_on)
    np.testing.assert_array_equal(before, after.values[:2])
    assert after.values[2, 0] == pytest.approx(795)


def test_hashed_groups_are_joined_by_hashed_names(path: Path) -> None:
    groups = np.asarray([hashed("p1"), hashed("p2")])
    joined = covariates.join(covariates.read(path, hashes=True), groups, np.ones(2, bool))
    assert joined.absent == ()
    assert joined.values[:, 0].tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("group,age\np1,40\np1,50\n", "row 2 repeats the group of another"),
        ("group,age\np1,40\n,50\n", "row 2 names no group"),
        ("group,age\np1,40\np2,5o\np3,60\n", "row 2 has the age '5o', no number"),
        ("group,age\np1,40\np2,inf\np3,60\n", "row 2 has the age 'inf', no number"),
        ("patient,age\np1,40\n", r"lacks the columns \['group'\]"),
        ("group\np1\n", "has no column beside group"),
        ("group,age\n", "has no rows; repair it$"),
        ("group,age\np1\n", "line 2 has 1 cells"),
    ],
)
def test_what_is_damaged_is_named(path: Path, text: str, message: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"table\.csv: {message}") as refused:
        covariates.read(path)
    assert "p1" not in str(refused.value).replace(str(path), "")


def test_what_cannot_be_joined_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match="names none of the 2 patients, the first of which is q1"):
        covariates.join(covariates.read(path), np.asarray(["q1", "q2"]), np.ones(2, bool))
    with pytest.raises(DataError, match=r"no\.csv: no such file"):
        covariates.read(path.with_name("no.csv"))


def test_inspect_says_how_a_table_fits(tmp_path: Path) -> None:
    source = folder.example(tmp_path / "images")
    table = tmp_path / "table.csv"
    table.write_text(
        "group,age,sex\na-patient0,40,F\na-patient1,70,M\nb-patient0,,F\nelsewhere,1,M\n"
    )
    looked = data_verbs.data_inspect(DataInspect(source, covariates=str(table)))
    found, told = looked["covariates"], looked["table"]
    groups = len({f"{name}-patient{i}" for name in folder.EXAMPLE_CLASSES for i in range(3)})
    assert (found["rows"], found["joined"], len(found["absent"])) == (4, 3, groups - 3)
    assert found["columns"]["age"] == {"missing": groups - 2, "min": 40, "max": 70}
    assert found["columns"]["sex"] == {"missing": groups - 3, "categories": {"F": 2, "M": 1}}
    assert f"3 patients joined by table.csv, {groups - 3} absent" in told
    assert f"age: 40 to 70, {groups - 2} missing" in told


def test_identities_of_a_dicom_export_are_hashed_alike(tmp_path: Path) -> None:
    source = dicom.example(tmp_path / "export")
    table = tmp_path / "table.csv"
    names = [f"id{kind}{patient}" for kind in range(6) for patient in range(4)]
    table.write_text("group,age\n" + "".join(f"{name},50\n" for name in names))
    found = data_verbs.data_inspect(DataInspect(source, covariates=str(table)))
    assert found["covariates"]["joined"] == found["groups"] == 24
    assert "id00" not in str(found)
