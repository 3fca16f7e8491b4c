"""DICOM: series and their order, values, SUV, labels, identity, and what is refused."""

from __future__ import annotations

import datetime
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmeta_jax.data import _dicom, _identity, dicom, sources
from medmeta_jax.data.intensity import between
from medmeta_jax.data.prepare import prepare
from medmeta_jax.data.samples import DataError

from .damage import Case, check_refused, list_units, records, write

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
BUNDLED = Path(pydicom.__file__).parent / "data/test_files"
NAME = "DOE^JANE"


@pytest.fixture(autouse=True)
def salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMETA_SALT", "of the tests")


def save(
    path: Path, values: Any = None, stored: int = 16, kind: str = "MONOCHROME2", **fields: Any
) -> Path:
    """A file of a CT series with one slice, of `stored` bits a value; any field of its header may
    be given, None for none."""
    values = np.arange(12, dtype=np.int16).reshape(3, 4) if values is None else values
    made = pydicom.Dataset()
    given = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": f"1.2.{abs(hash(path))}",
        "SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "PatientID": "SECRET-7",
        "PatientName": NAME, "Modality": "CT", **fields,
    }  # fmt: skip
    for name, value in given.items():
        if value is not None:
            setattr(made, name, value)
    made.set_pixel_data(values, kind, stored)
    if values.dtype.kind == "i":
        made.PixelRepresentation = 1
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def at(z: float, number: int = 0, turn: Any = (1, 0, 0, 0, 1, 0)) -> dict[str, Any]:
    """The position of a slice, along z in an axial series."""
    return {
        "ImagePositionPatient": [0, 0, z], "ImageOrientationPatient": list(turn),
        "InstanceNumber": number,
    }  # fmt: skip


def flat(value: int) -> np.ndarray:
    return np.full((3, 4), value, np.int16)


def greys(root: Path, **options: Any) -> list[int]:
    """The first pixel of each record."""
    return [int(r.image[0, 0, 0]) for r in records(root, **options)]


def test_slices_are_in_the_order_of_their_positions(tmp_path: Path) -> None:
    """Against their names and numbers, in folders of their own, with and without suffix."""
    save(tmp_path / "a.dcm", flat(30), **at(5, 1))
    save(tmp_path / "b/IM0001", flat(10), **at(-5, 2))
    save(tmp_path / "c/x.ima", flat(20), **at(0, 3))
    assert greys(tmp_path, window="25,50") == [51, 102, 153]
    (unit,) = sources.catalogue(str(tmp_path)).units
    assert [r.name for r in unit.read()] == ["slice=0", "slice=1", "slice=2"]


def test_the_normal_of_the_slices_counts_and_no_axis(tmp_path: Path) -> None:
    """Sagittal slices: rows along y, columns along -z, so the normal is -x."""
    for value, x in ((10, 7), (20, -3), (30, -9)):
        turn = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [x, 50, 90]}
        save(tmp_path / f"{90 - value}", flat(value), **turn)  # not in the order of names
    assert greys(tmp_path, window="25,50") == [51, 102, 153]


def test_without_positions_numbers_order_the_slices(tmp_path: Path) -> None:
    for name, value, number in (("a", 30, 10), ("b", 20, 9), ("c", 10, 2)):
        save(tmp_path / name, flat(value), InstanceNumber=number)
    assert greys(tmp_path, window="25,50") == [51, 102, 153]
    # Planes of different orientation have no common normal either.
    save(tmp_path / "a", flat(30), **at(0, 10))
    save(tmp_path / "b", flat(20), **at(9, 9))
    save(tmp_path / "c", flat(10), **at(5, 2, (0, 1, 0, 0, 0, -1)))
    assert greys(tmp_path, window="25,50") == [51, 102, 153]


def test_slices_are_spread_over_the_middle(tmp_path: Path) -> None:
    for place in range(20):
        save(tmp_path / f"{place}", flat(place), **at(place))
    assert [r.name for r in records(tmp_path, slices=4)] == [f"slice={i}" for i in (4, 8, 12, 16)]
    assert greys(tmp_path, slices=4, window="10,20") == [51, 102, 153, 204]
    assert len(records(tmp_path, slices=0)) == 20


def test_values_are_stored_times_slope_plus_intercept(tmp_path: Path) -> None:
    values = np.array([[0, 500, 1000, 2000]], np.int16)
    save(tmp_path / "x", values, RescaleSlope=2, RescaleIntercept=-1024)
    (record,) = records(tmp_path, window="-24,2000")
    expected = between(values * 2.0 - 1024, -1024, 976)
    np.testing.assert_array_equal(record.image[..., 0], expected)
    assert expected.ravel().tolist() == [0, 128, 255, 255]


def test_intensity_by_modality_and_as_asked(tmp_path: Path) -> None:
    """CT: the soft window, -150 to 250; MR: percentiles of the series; or by name."""
    values = np.array([[-150, 50, 250, 1000]], np.int16)
    save(tmp_path / "x", values)
    assert records(tmp_path)[0].image.ravel().tolist() == [0, 128, 255, 255]
    assert records(tmp_path, intensity="bone")[0].image.ravel()[2] == round(
        (250 + 500) / 1800 * 255
    )
    assert records(tmp_path, intensity="range")[0].image.ravel()[1] == round(200 / 1150 * 255)
    save(tmp_path / "x", values, Modality="MR")
    low, high = np.percentile(values, (0.5, 99.5))
    np.testing.assert_array_equal(records(tmp_path)[0].image[..., 0], between(values, low, high))


def test_a_series_is_scaled_together_and_x_rays_each_alone(tmp_path: Path) -> None:
    save(tmp_path / "a", np.array([[0, 50]], np.int16), Modality="MR", **at(0))
    save(tmp_path / "b", np.array([[0, 100]], np.int16), Modality="MR", **at(1))
    assert [r.image.max() for r in records(tmp_path, intensity="range")] == [128, 255]
    for name in "ab":
        found = pydicom.dcmread(tmp_path / name)
        found.Modality = "DX"
        found.save_as(tmp_path / name)
    assert [r.image.max() for r in records(tmp_path, intensity="range")] == [255, 255]


def test_the_headers_own_window(tmp_path: Path) -> None:
    """Level 100, width 201: from -0.5 to 199.5 by the standard."""
    values = np.array([[-1, 0, 100, 199, 200]], np.int16)
    save(tmp_path / "x", values, WindowCenter=[100, 7], WindowWidth=[201, 9])
    expected = np.clip((values + 0.5) / 200, 0, 1) * 255
    np.testing.assert_array_equal(
        records(tmp_path, intensity="header")[0].image[..., 0], expected.round()
    )


def test_monochrome1_is_inverted_and_padding_black(tmp_path: Path) -> None:
    values = np.array([[0, 100, 200, -2000]], np.int16)
    fields = {"PixelPaddingValue": -2000, "Modality": "DX"}
    save(tmp_path / "x", values, kind="MONOCHROME2", **fields)
    assert records(tmp_path, intensity="range")[0].image.ravel().tolist() == [0, 128, 255, 0]
    save(tmp_path / "x", values, kind="MONOCHROME1", **fields)
    assert records(tmp_path, intensity="range")[0].image.ravel().tolist() == [255, 127, 0, 0]
    # The same padding as some write it, without its sign.
    found = pydicom.dcmread(tmp_path / "x")
    del found.PixelPaddingValue
    found.add_new("PixelPaddingValue", "US", 65536 - 2000)
    found.save_as(tmp_path / "x")
    assert records(tmp_path, intensity="range")[0].image.ravel().tolist() == [255, 127, 0, 0]


def tracer(**fields: Any) -> Any:
    made = pydicom.Dataset()
    for name, value in {
        "RadionuclideTotalDose": 4e8,
        "RadionuclideHalfLife": 6000.0,
        **fields,
    }.items():
        if value is not None:
            setattr(made, name, value)
    return [made]


PET = {
    "Modality": "PT", "Units": "BQML", "DecayCorrection": "START", "PatientWeight": 80,
    "SeriesDate": "20200102", "SeriesTime": "101640.00", "RescaleSlope": 2, "RescaleIntercept": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "started", "factor"),
    [
        # 100 minutes are one half-life: 2e8 Bq left in 80,000 g.
        ({}, {"RadiopharmaceuticalStartTime": "083640"}, 80_000 / 2e8),
        ({}, {"RadiopharmaceuticalStartDateTime": "20200102083640.000"}, 80_000 / 2e8),
        # Injected before midnight, scanned at 00:30 of the next day.
        ({"SeriesTime": "003000"}, {"RadiopharmaceuticalStartTime": "225000"}, 80_000 / 2e8),
        ({"DecayCorrection": "ADMIN"}, {}, 80_000 / 4e8),
        ({"Units": "GML", "PatientWeight": None}, {}, 1.0),
    ],
)
def test_pet_is_in_suv_by_body_weight(
    tmp_path: Path, fields: Any, started: Any, factor: float
) -> None:
    given = {**PET, **fields, "RadiopharmaceuticalInformationSequence": tracer(**started)}
    values = np.array([[0, 1000, 5000, 20000]], np.int16)
    path = save(tmp_path / "x", values, **given)
    (frame,) = _dicom.read_frames(path, [0], suv=True)
    np.testing.assert_allclose(frame.values, values * 2.0 * factor, rtol=1e-6)
    expected = between(values * 2.0 * factor, 0, 4.1)
    np.testing.assert_array_equal(records(tmp_path, suv_max=4.1)[0].image[..., 0], expected)
    (plain,) = _dicom.read_frames(path, [0], suv=False)
    np.testing.assert_array_equal(plain.values, values * 2.0)


@pytest.mark.parametrize(
    ("fields", "started", "message"),
    [
        ({"PatientWeight": None}, {}, "PatientWeight must be above 0"),
        ({"PatientWeight": 0}, {}, "PatientWeight must be above 0"),
        ({"Units": "CNTS"}, {}, "Units must be BQML or GML"),
        ({"DecayCorrection": "NONE"}, {}, "DecayCorrection must be START or ADMIN"),
        ({}, {"RadionuclideTotalDose": None}, "RadionuclideTotalDose must be above 0"),
        ({}, {"RadionuclideHalfLife": 0}, "RadionuclideHalfLife must be above 0"),
        ({}, {}, "RadiopharmaceuticalStartTime is missing or no time"),
        ({"AcquisitionTime": "090000"}, {"RadiopharmaceuticalStartTime": "083640"}, "written anew"),
        ({}, {"RadiopharmaceuticalStartDateTime": "20200103000000"}, "is after SeriesTime"),
    ],
)
def test_without_what_suv_needs_it_is_refused(
    tmp_path: Path, fields: Any, started: Any, message: str
) -> None:
    given = {**PET, **fields, "RadiopharmaceuticalInformationSequence": tracer(**started)}
    save(tmp_path / "scan", **given)
    check_refused(tmp_path, (lambda _: None, f"scan: {message}|scan: .*{message}"))
    assert records(tmp_path, intensity="percentile"), "as the message says"


def test_times_are_read_to_the_second() -> None:
    found = _dicom.parsed(Path("x"), "20200102", "0304", "SeriesTime")
    assert found == datetime.datetime(2020, 1, 2, 3, 4)
    found = _dicom.parsed(Path("x"), "20200102", "030405.25+0100", "SeriesTime")
    assert found == datetime.datetime(2020, 1, 2, 3, 4, 5, 250_000)
    assert _dicom.parsed(Path("x"), "20200102", "030405.25-0500", "SeriesTime") == found


def test_frames_of_a_file_with_values_of_their_own(tmp_path: Path) -> None:
    """Enhanced multi-frame: the slope is shared, each frame has an intercept of its own."""
    values = np.stack([flat(10), flat(10), flat(10)])
    path = save(tmp_path / "x", values, NumberOfFrames=3)
    found = pydicom.dcmread(path)
    shared, of_value = pydicom.Dataset(), pydicom.Dataset()
    of_value.RescaleSlope = 2
    shared.PixelValueTransformationSequence = [of_value]
    found.SharedFunctionalGroupsSequence = [shared]
    found.PerFrameFunctionalGroupsSequence = []
    for intercept in (0, 10, 20):
        group, own = pydicom.Dataset(), pydicom.Dataset()
        own.RescaleIntercept = intercept
        group.PixelValueTransformationSequence = [own]
        found.PerFrameFunctionalGroupsSequence.append(group)
    found.save_as(path)
    assert greys(tmp_path, window="25,50") == [102, 153, 204]


def test_classes_are_the_table_or_folders_or_modalities(tmp_path: Path) -> None:
    save(tmp_path / "ill/p1/x", SeriesInstanceUID="1.1", PatientID="a")
    save(tmp_path / "well/p2/y", SeriesInstanceUID="1.2", PatientID="b", Modality="MR")
    assert [r.label for r in records(tmp_path)] == ["ill", "well"]
    for row in ("series,1.1", "patient,a", "path,ill", "path,ill/p1/x", "path,ill\\p1"):
        column, value = row.split(",")
        (tmp_path / "labels.csv").write_text(f"{column},label\n{value},A\n")
        check_refused(tmp_path, (lambda _: None, r"labels\.csv: has no row for the series of .*y"))
        second = {"series": "1.2", "patient": "b", "path": "well"}[column]
        (tmp_path / "labels.csv").write_text(f"{column},label\n{value},A\n{second},B\n")
        assert [r.label for r in records(tmp_path)] == ["A", "B"]
    (tmp_path / "labels.csv").unlink()
    save(tmp_path / "z", SeriesInstanceUID="1.3", Modality="CR")
    assert [r.label for r in records(tmp_path)] == ["ct", "mr", "cr"]
    assert [r.modality for r in records(tmp_path)] == ["ct", "mr", "cr"]


def test_a_group_is_a_patient_and_says_nothing_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, series, patient in (("a", "1.1", "P1"), ("b", "1.2", "P1 "), ("c", "1.3", "P2")):
        save(tmp_path / name, SeriesInstanceUID=series, PatientID=patient)
    one, again, other = (r.group for r in records(tmp_path))
    assert one == again != other
    assert len(one) == 16
    assert not {"P1", "P2"} & {one, other}
    monkeypatch.setenv("MEDMETA_SALT", "another")
    assert records(tmp_path)[0].group != one
    # Without an id the study stands for the patient.
    for name, study in (("d", "7.1"), ("e", "7.1"), ("f", "7.2")):
        save(tmp_path / "n" / name, SeriesInstanceUID=name, PatientID="", StudyInstanceUID=study)
    one, again, other = (r.group for r in records(tmp_path / "n"))
    assert one == again != other


def test_no_identity_reaches_records_manifests_or_messages(tmp_path: Path) -> None:
    secrets = {
        "PatientID": "SECRET-7", "PatientName": NAME, "PatientBirthDate": "19610203",
        "AccessionNumber": "ACC-99", "InstitutionName": "St. Nowhere",
        "SeriesInstanceUID": "1.2.777.1", "StudyInstanceUID": "1.2.777.2",
        "ReferringPhysicianName": "WHO^DOC",
    }  # fmt: skip
    for name in ("ill/x", "well/y"):
        own = {
            **secrets,
            "SeriesInstanceUID": secrets["SeriesInstanceUID"]
            + name[0].replace("i", "1").replace("w", "2"),
        }
        save(tmp_path / "in" / name, **own, SOPInstanceUID=f"1.2.777.3.{len(name)}")
    told = repr(records(tmp_path / "in")) + repr(sources.catalogue(str(tmp_path / "in")))
    told += repr(prepare(str(tmp_path / "in"), tmp_path / "out"))
    for file in (tmp_path / "out").rglob("*"):
        told += file.read_bytes().decode("latin-1") if file.is_file() else ""
    for name, value in secrets.items():
        assert value not in told, name
    # Each field made unreadable in turn: whatever the message is, it does not quote one.
    content = (tmp_path / "in/ill/x").read_bytes()
    for value in secrets.values():
        damaged = content.replace(value.encode(), b"\xff" * len(value))
        (tmp_path / "in/ill/x").write_bytes(damaged[: len(damaged) - 9])
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with pytest.raises(DataError) as refused:
                records(tmp_path / "in")
        for secret in secrets.values():
            assert secret not in str(refused.value) + "".join(str(w.message) for w in warned)


def test_a_salt_is_kept_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data/salt"
    first = _identity.salt_of.__wrapped__(path)
    assert first == _identity.salt_of.__wrapped__(path) == path.read_text()
    assert len(first) == 32
    assert path.stat().st_mode & 0o077 == 0
    assert [p.name for p in path.parent.iterdir()] == ["salt"]
    assert _identity.salt_of.__wrapped__(tmp_path / "other/salt") != first
    path.write_text("short")
    with pytest.raises(DataError, match="holds no salt; remove it, or set MEDMETA_SALT"):
        _identity.salt_of.__wrapped__(path)
    with pytest.raises(DataError, match="cannot be kept"):
        _identity.salt_of.__wrapped__(path / "below/salt")
    path.write_bytes(b"\xff" * 32)
    with pytest.raises(DataError, match="cannot be kept"):
        _identity.salt_of.__wrapped__(path)
    path.write_text(first + "\n")
    assert _identity.salt_of.__wrapped__(path) == first
    # Another process has made it since this one looked: that one counts.
    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", lambda self: False)
        assert _identity.salt_of.__wrapped__(path) == first
    assert path.read_text() == first + "\n"
    monkeypatch.delenv("MEDMETA_SALT")
    monkeypatch.setattr(_identity, "kept_salt", lambda: "0123456789abcdef")
    kept = _identity.hashed("x")
    monkeypatch.setenv("MEDMETA_SALT", "0123456789abcdef")
    assert _identity.hashed("x") == kept
    monkeypatch.setenv("MEDMETA_SALT", "0123456789abcdefx")
    assert _identity.hashed("") != kept


def test_pictures_of_more_bits_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 500, 1000]], np.uint16)
    save(tmp_path / "x", values, Modality="US")
    low, high = np.percentile(values, (0.5, 99.5))
    np.testing.assert_array_equal(records(tmp_path)[0].image[..., 0], between(values, low, high))


def test_a_window_of_ones_own_goes_before_the_headers(tmp_path: Path) -> None:
    values = np.array([[0, 100, 200]], np.int16)
    save(tmp_path / "x", values, WindowCenter=0, WindowWidth=10)
    found = records(tmp_path, intensity="header", window="100,200")[0].image[..., 0]
    np.testing.assert_array_equal(found, between(values * 1.0, 0, 200))


def test_each_frame_has_the_window_of_its_own(tmp_path: Path) -> None:
    """Level 50.5 and widths 101 and 201: 0 to 100, and -50 to 150; the third has no such item."""
    path = save(tmp_path / "x", np.stack([flat(25)] * 3), NumberOfFrames=3)
    found = pydicom.dcmread(path)
    found.PerFrameFunctionalGroupsSequence = []
    for width in (101, 201):
        group, own = pydicom.Dataset(), pydicom.Dataset()
        own.WindowCenter, own.WindowWidth = 50.5, width
        group.FrameVOILUTSequence = [own]
        found.PerFrameFunctionalGroupsSequence.append(group)
    found.save_as(path)
    frames = _dicom.read_frames(path, [0, 1, 2], suv=False)
    assert [frame.window for frame in frames] == [(50.5, 101), (50.5, 201), None]


def test_a_range_of_values_may_be_padding(tmp_path: Path) -> None:
    """From either end; and of values without a sign, the highest ones are no negative ones."""
    values = np.array([[-2000, -1999, -1990, -1989, 0, 100]], np.int16)
    for first, last in ((-2000, -1990), (-1990, -2000)):
        fields = {"PixelPaddingValue": first, "PixelPaddingRangeLimit": last}
        (frame,) = _dicom.read_frames(save(tmp_path / "x", values, **fields), [0], suv=False)
        assert np.isnan(frame.values).tolist() == [[True, True, True, False, False, False]]
    values = np.array([[0, 65534, 65535]], np.uint16)
    path = save(tmp_path / "x", values, PixelPaddingValue=65535)
    (frame,) = _dicom.read_frames(path, [0], suv=False)
    assert np.isnan(frame.values).tolist() == [[False, False, True]]


def test_a_table_of_values_goes_before_slope_and_intercept(tmp_path: Path) -> None:
    path = save(tmp_path / "x", np.array([[0, 1, 2]], np.uint16))
    found, table = pydicom.dcmread(path), pydicom.Dataset()
    table.LUTDescriptor = [3, 0, 16]
    table.LUTData = np.array([100, 7, 30_000], "<u2").tobytes()
    table.ModalityLUTType = "US"
    found.ModalityLUTSequence = [table]
    found.save_as(path)
    (frame,) = _dicom.read_frames(path, [0], suv=False)
    assert frame.values.tolist() == [[100, 7, 30_000]]


def test_planes_are_the_same_but_for_rounding(tmp_path: Path) -> None:
    """Scanners write 0.9999 beside 1; a plane that is tilted by degrees is another."""
    for tilt, expected in ((0.0004, [51, 102, 153]), (0.3, [153, 102, 51])):
        for place, name in enumerate("abc"):
            turn = (1, 0, 0, 0, 1, tilt * (place == 1))
            save(tmp_path / name, flat(30 - 10 * place), **at(-place, place, turn))
        assert greys(tmp_path, window="25,50") == expected


def test_positions_that_are_no_numbers_do_not_order(tmp_path: Path) -> None:
    for name, value, number in (("a", 30, 3), ("b", 20, 2), ("c", 10, 1)):
        save(tmp_path / name, flat(value), **at(float("nan"), number))
    assert greys(tmp_path, window="25,50") == [51, 102, 153]


def test_the_colours_of_a_palette_are_the_high_bytes_of_its_entries(tmp_path: Path) -> None:
    (record,) = records(bundled(tmp_path, "examples_palette.dcm"))
    header = pydicom.dcmread(tmp_path / "examples_palette.dcm")
    for channel, name in enumerate(("Red", "Green", "Blue")):
        table = header[f"{name}PaletteColorLookupTableData"].value
        entries = np.frombuffer(table, "<u2") >> 8
        np.testing.assert_array_equal(record.image[..., channel], entries[header.pixel_array])


@pytest.mark.parametrize("kind", ["SR", "PR", "SEG", "RTSTRUCT", "RTPLAN", "REG", "KO", "sr"])
def test_objects_that_have_rows_may_be_no_images(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "x")
    save(tmp_path / "y", SeriesInstanceUID="1.9", Modality=kind)
    assert [r.modality for r in records(tmp_path)] == ["ct"]


def test_scans_over_midnight_have_a_date_of_their_own(tmp_path: Path) -> None:
    fields = {
        **PET, "SeriesTime": "235900", "AcquisitionTime": "000100", "AcquisitionDate": "20200103",
    }  # fmt: skip
    started = {"RadiopharmaceuticalStartTime": "221900"}  # 100 minutes, a half-life, before
    given = {**fields, "RadiopharmaceuticalInformationSequence": tracer(**started)}
    path = save(tmp_path / "x", np.array([[1000]], np.int16), **given)
    (frame,) = _dicom.read_frames(path, [0], suv=True)
    np.testing.assert_allclose(frame.values, 2000 * 80_000 / 2e8, rtol=1e-6)


def without(path: Path, *names: str) -> Path:
    """Take fields out of a header, those that pydicom wants when it makes a file too."""
    found = pydicom.dcmread(path)
    for name in names:
        delattr(found, name)
    found.save_as(path)
    return path


def test_units_are_named_by_the_hashes_of_their_series(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / name, SeriesInstanceUID=None if name == "c" else f"1.{name == 'b':d}")
    names = [unit.name for unit in sources.catalogue(str(tmp_path)).units]
    assert len(set(names)) == 3
    assert all(re.fullmatch("ct/series-[0-9a-f]{12}", name) for name in names)


def test_files_of_no_series_stand_alone(tmp_path: Path) -> None:
    """Also of one name, and with no identity of their own."""
    for folder in ("1", "2"):
        path = save(tmp_path / folder / "x", SeriesInstanceUID=None, PatientID=None)
        without(path, "SOPInstanceUID", "StudyInstanceUID")
    assert len(sources.catalogue(str(tmp_path)).units) == 2


def test_a_series_of_no_patient_and_study_is_a_group(tmp_path: Path) -> None:
    """Exports call the first file of every series alike."""
    for series in "123":
        fields = {"SeriesInstanceUID": f"1.{series}", "PatientID": "", "StudyInstanceUID": ""}
        save(tmp_path / series / "IM0001", **fields)
    assert len({record.group for record in records(tmp_path)}) == 3


def test_slices_at_one_place_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name, value, number in (("a", 30, 3), ("b", 20, 2), ("c", 10, 1)):
        save(tmp_path / name, flat(value), **at(5, number))
    assert greys(tmp_path, window="25,50") == [51, 102, 153]


def test_a_single_folder_is_no_class(tmp_path: Path) -> None:
    save(tmp_path / "export/x", SeriesInstanceUID="1.1")
    save(tmp_path / "export/y", SeriesInstanceUID="1.2", Modality="MR")
    assert [r.label for r in records(tmp_path)] == ["ct", "mr"]


def test_the_index_of_an_export_is_no_image_and_nothing_left_out(tmp_path: Path) -> None:
    save(tmp_path / "x")
    save(tmp_path / "DICOMDIR", SeriesInstanceUID="1.9")
    (tmp_path / "READ.TXT").write_text("x")
    listed = sources.catalogue(str(tmp_path))
    assert len(listed.units) == 1
    assert listed.about == f"DICOM series of {tmp_path.name}"
    (tmp_path / "DICOMDIR").unlink()
    save(tmp_path / "DICOMDIR", Modality="SR")
    assert sources.catalogue(str(tmp_path)).about == f"DICOM series of {tmp_path.name}"


def test_a_window_of_ones_own_goes_before_suv_and_pictures(tmp_path: Path) -> None:
    values = np.array([[0, 100, 200, 255]], np.int16)
    save(tmp_path / "x", values, **{**PET, "PatientWeight": None})
    found = records(tmp_path, window="200,400")[0].image[..., 0]
    np.testing.assert_array_equal(found, between(values * 2.0, 0, 400))
    eight = values.astype(np.uint8)
    save(tmp_path / "x", eight, stored=8, Modality="US")
    np.testing.assert_array_equal(records(tmp_path)[0].image[..., 0], eight)
    found = records(tmp_path, window="100,200")[0].image[..., 0]
    np.testing.assert_array_equal(found, between(eight * 1.0, 0, 200))


def test_what_is_no_image_is_counted_and_left_out(tmp_path: Path) -> None:
    save(tmp_path / "x")
    save(tmp_path / "dose", Modality="RTDOSE")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    listed = sources.catalogue(str(tmp_path))
    assert len(listed.units) == 1
    assert listed.about.endswith("; 1 objects without an image left out")
    (tmp_path / "viewer.exe").write_bytes(b"MZ")
    check_refused(tmp_path, (lambda _: None, r"viewer\.exe: not a DICOM file.*other_files='leave'"))
    about = sources.catalogue(str(tmp_path), other_files="leave").about
    assert about.endswith("1 files that are not DICOM left out")


def test_burned_in_identity_is_refused_unless_kept(tmp_path: Path) -> None:
    save(tmp_path / "x", BurnedInAnnotation="yes")
    with pytest.raises(DataError, match="identity is burned into"):
        records(tmp_path)
    save(tmp_path / "x", BurnedInAnnotation="YES")
    check_refused(tmp_path, (lambda _: None, "x: its header says that identity is burned into"))
    assert len(records(tmp_path, burned_in="keep")) == 1
    save(tmp_path / "x", BurnedInAnnotation="NO")
    assert len(records(tmp_path)) == 1


def same_image(root: Path) -> None:
    (root / "copy").write_bytes((root / "ill/x").read_bytes())


def shorter(root: Path) -> None:
    (root / "ill/x").write_bytes((root / "ill/x").read_bytes()[:-5])


def change(root: Path, **values: Any) -> None:
    found = pydicom.dcmread(root / "ill/x")
    for name, value in values.items():
        setattr(found, name, value)
    found.save_as(root / "ill/x")


def absurd(root: Path) -> None:
    change(root, NumberOfFrames=10**9)


def larger(root: Path) -> None:
    change(root, Rows=65535, Columns=65535)


def larger_than_the_file(root: Path) -> None:
    change(root, Rows=512, Columns=512)


def fields(**values: Any) -> Any:
    return lambda root: save(root / "ill/x", SeriesInstanceUID="1.1", **values)


CASES: list[Case] = [
    (write("ill/x", b""), "x: not a DICOM file"),
    (write("ill/x", b"\0" * 128 + b"DICM" + b"\x08\0\5\0" * 5), "x: "),
    (same_image, "the same image as"),
    (shorter, r"x: not a readable DICOM image \(ValueError\)"),
    (absurd, "x: NumberOfFrames of 1000000000 is not to be read"),
    (larger, "x: a frame of 4294836225 pixels is not to be read"),
    (larger_than_the_file, "x: is cut off: smaller than the 524288 bytes of its pixels"),
    (lambda root: without(root / "ill/x", "Rows"), "x: has no Rows and Columns"),
    (lambda root: change(root, BitsAllocated=64), "x: BitsAllocated of 64 is not to be read"),
    (fields(RescaleSlope="nan"), "x: RescaleSlope must be a number|x: not a readable"),
    (lambda root: save(root / "well/z", SeriesInstanceUID="1.1"), "class folders ill, well"),
    (write("labels.csv", "label\nA\n"), "row 1 needs a label and one of series, patient, path"),
    (write("labels.csv", "path,label\nill,\n"), "row 1 needs a label"),
    (write("labels.csv", "path,patient,label\nill,a,A\n"), "row 1 needs a label and one of"),
    (write("labels.csv", "path,label\nill,A\nnone,A\n"), "row 2 is of no file here"),
    (write("labels.csv", "path,label\nill,A\nill/x,B\n"), "row 2 names another label for a series"),
    (write("labels.csv", "patient,kind\na,A\n"), r"labels\.csv: .*label"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1][:40])
def test_damage_is_refused(tmp_path: Path, case: Case) -> None:
    save(tmp_path / "ill/x", SeriesInstanceUID="1.1", PatientID="a")
    save(tmp_path / "well/y", SeriesInstanceUID="1.2", PatientID="b")
    check_refused(tmp_path, case)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intensity": "best"}, "the option intensity must be one of auto, header, percentile"),
        ({"burned_in": "x"}, "the option burned_in must be one of refuse, keep"),
        ({"other_files": "x"}, "the option other_files must be one of fail, leave"),
        ({"slices": -1}, "the options slices >= 0 and suv_max > 0, got -1"),
        ({"suv_max": 0.0}, "the options slices >= 0 and suv_max > 0"),
        ({"window": "50"}, "the option window must be LEVEL,WIDTH"),
        ({"window": "50,0"}, "the option window must be LEVEL,WIDTH"),
        ({"window": "nan,5"}, "the option window must be LEVEL,WIDTH"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    save(tmp_path / "x")
    check_refused(tmp_path, (lambda _: None, message), lambda root: records(root, **options))


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 40, "WindowWidth": 0}])
def test_a_header_without_a_window_is_named(tmp_path: Path, window: dict[str, int]) -> None:
    save(tmp_path / "x", **window)
    check_refused(
        tmp_path, (lambda _: None, "x: has no WindowCenter and WindowWidth"),
        lambda root: records(root, intensity="header"),
    )  # fmt: skip


def test_an_empty_tree_and_an_absent_library(tmp_path: Path, monkeypatch: Any) -> None:
    assert not dicom.recognises(str(tmp_path))
    assert not dicom.recognises(str(tmp_path / "absent"))
    save(tmp_path / "dose", Modality="RTDOSE")
    assert sources.find(str(tmp_path)) == "dicom"
    check_refused(tmp_path, (lambda _: None, "holds no DICOM images"), list_units)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    check_refused(tmp_path, (lambda _: None, r"pip install 'medmeta_jax\[dicom\]'"), list_units)


def bundled(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).write_bytes((BUNDLED / name).read_bytes())
    return tmp_path


def test_a_real_ct_slice(tmp_path: Path) -> None:
    """Against its stored bytes, past the library's decoder: 16 bit, slope 1, intercept -1024."""
    path = bundled(tmp_path, "CT_small.dcm") / "CT_small.dcm"
    header = pydicom.dcmread(path)
    stored = np.frombuffer(header.PixelData, "<i2").reshape(128, 128)
    hounsfield = stored.astype(float) - 1024
    (record,) = records(tmp_path, intensity="lung")
    np.testing.assert_array_equal(record.image[..., 0], between(hounsfield, -1350, 150))
    assert (record.label, record.modality) == ("ct", "ct")


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
     "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_expb.dcm"],
)  # fmt: skip
def test_real_files_compressed_without_loss_are_as_the_plain_one(tmp_path: Path, name: str) -> None:
    (plain,) = records(bundled(tmp_path, "MR_small.dcm"))
    (tmp_path / "MR_small.dcm").unlink()
    (found,) = records(bundled(tmp_path, name))
    np.testing.assert_array_equal(found.image, plain.image)
    assert plain.modality == "mr"


@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [
        ("JPEG2000.dcm", 1, 1), ("examples_rgb_color.dcm", 3, 1),
        ("examples_ybr_color.dcm", 3, 16), ("examples_palette.dcm", 3, 1),
        ("SC_rgb_jpeg_dcmtk.dcm", 3, 1), ("SC_rgb_rle_2frame.dcm", 3, 2),
        ("SC_ybr_full_422_uncompressed.dcm", 3, 1),
    ],
)  # fmt: skip
def test_real_files_of_other_kinds(tmp_path: Path, name: str, channels: int, count: int) -> None:
    found = records(bundled(tmp_path, name))
    header = pydicom.dcmread(tmp_path / name)
    assert [r.image.shape for r in found] == [(header.Rows, header.Columns, channels)] * count
    assert all(np.ptp(r.image) > 100 for r in found)


def test_the_colours_of_a_real_picture(tmp_path: Path) -> None:
    """Bands of red, green and blue from the top, compressed without loss."""
    (record,) = records(bundled(tmp_path, "SC_rgb_rle.dcm"))
    found = [record.image[row, 50].tolist() for row in (5, 25, 45)]
    assert found == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MR_truncated.dcm", "not a readable DICOM image"),
        ("JPEG-lossy.dcm", "12-bit JPEG needs pylibjpeg-libjpeg"),
    ],
)
def test_real_files_that_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    check_refused(bundled(tmp_path, name), (lambda _: None, f"{name}: .*{message}"))
