"""LUNA16: MetaImage read by its header, the world in millimetres, patches, and what is refused."""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medmeta_jax.data import luna, sources
from medmeta_jax.data.samples import DataError

from .damage import check_refused, records, remove, write

SHAPE = (10, 40, 40)  # z, y, x
FIELDS = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "-80 -40 -100",
    "CenterOfRotation": "0 0 0", "AnatomicalOrientation": "RAI", "ElementSpacing": "2 2 5",
    "DimSize": "40 40 10", "ElementType": "MET_SHORT", "ElementDataFile": "s1.raw",
}  # fmt: skip
NODULES = "seriesuid,coordX,coordY,coordZ,diameter_mm\ns1,-60,-10,-80,8\n"


def write_scan(folder: Path, values: np.ndarray, uid: str = "s1", **fields: str) -> Path:
    """A header and its voxels, as LUNA has them; fields of its header may be changed."""
    folder.mkdir(parents=True, exist_ok=True)
    # ElementDataFile ends a header, whatever is added to it.
    header = {**FIELDS, "ElementDataFile": f"{uid}.raw", **fields}
    header["ElementDataFile"] = header.pop("ElementDataFile")
    text = "".join(f"{key} = {value}\n" for key, value in header.items() if value)
    (folder / f"{uid}.mhd").write_text(text)
    (folder / f"{uid}.raw").write_bytes(values.tobytes())
    return folder / f"{uid}.mhd"


def lung() -> np.ndarray:
    """Lung of -800 HU with a voxel of tissue at x = 10, y = 15, z = 4."""
    values = np.full(SHAPE, -800, "<i2")
    values[4, 15, 10] = 50
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_scan(tmp_path / "subset0", lung())
    (tmp_path / "annotations.csv").write_text(NODULES)
    return tmp_path


def grey(hounsfield: float) -> int:
    """In the lung window, from -1350 to 150."""
    return round((hounsfield + 1350) / 1500 * 255)


def test_a_nodule_is_in_the_middle_of_its_patch(root: Path) -> None:
    """World -60, -10, -80 is voxel 10, 15, 4; 40 mm are 20 voxels."""
    nodule, background = records(root)
    assert nodule.image.shape == background.image.shape == (20, 20, 1)
    assert nodule.image[10, 10, 0] == grey(50)
    assert (np.delete(nodule.image.ravel(), 10 * 20 + 10) == grey(-800)).all()
    assert (nodule.name, nodule.label, nodule.group) == ("nodule0", "nodule", "s1")
    assert (background.name, background.label) == ("background0", "background")
    assert {r.modality for r in (nodule, background)} == {"ct"}


def test_the_mask_is_a_disc_of_the_diameter(root: Path) -> None:
    """8 mm across: less than 4 mm from the centre, at steps of 2 mm: 9 voxels."""
    nodule, background = records(root)
    expected = np.zeros((20, 20), np.uint8)
    expected[9:12, 9:12] = 1
    np.testing.assert_array_equal(nodule.mask, expected)
    assert background.mask.shape == (20, 20)
    assert not background.mask.any()


@pytest.mark.parametrize("axis", [0, 1])
def test_the_disc_is_around_the_centre_and_not_its_voxel(root: Path, axis: int) -> None:
    """0.9 mm beside voxel 10 (or 15): it and the next, 1.1 mm away, are within 1.5 mm."""
    there = ("-59.1,-10", "-60,-9.1")[axis]
    (root / "annotations.csv").write_text(NODULES.replace("-60,-10", there).replace(",8\n", ",3\n"))
    nodule, _ = records(root)
    expected = np.zeros((20, 20), np.uint8)
    expected[10, 10] = expected[(10, 11)[axis], (11, 10)[axis]] = 1
    np.testing.assert_array_equal(nodule.mask, expected)


def test_the_nearest_voxel_is_the_middle(root: Path) -> None:
    """1.1 mm from voxel 10 is nearer to 11; 2.6 mm from slice 4, of 5 mm, nearer to 5."""
    (root / "annotations.csv").write_text(NODULES.replace("-60,", "-58.9,"))
    assert records(root)[0].image[10, 9, 0] == grey(50)
    (root / "annotations.csv").write_text(NODULES.replace("-80,", "-77.4,"))
    assert (records(root)[0].image == grey(-800)).all()


def test_black_is_where_the_scan_ends(root: Path) -> None:
    (root / "annotations.csv").write_text(NODULES.replace("-60,-10", "-80,-40"))
    nodule, _ = records(root)
    assert nodule.image.shape == (20, 20, 1)
    assert not nodule.image[:10].any()
    assert not nodule.image[:, :10].any()
    assert (nodule.image[10:, 10:] == grey(-800)).all()


@pytest.mark.parametrize(("there", "axis"), [("-80,-10", 1), ("-60,-40", 0)])
def test_black_is_at_the_side_where_the_scan_ends(root: Path, there: str, axis: int) -> None:
    (root / "annotations.csv").write_text(NODULES.replace("-60,-10", there))
    image = np.moveaxis(records(root)[0].image, axis, 0)
    assert not image[:10].any()
    assert image[10:].all()


def test_a_cube_is_as_wide_as_deep_around_the_nodule(root: Path) -> None:
    """Voxels of 2 mm; the scan's slices are 5 mm apart. Its middle slice is the patch."""
    rng = np.random.default_rng(0)
    write_scan(root / "subset0", rng.integers(-900, -600, SHAPE).astype("<i2"))
    for flat, cube in zip(records(root), records(root, cubes=True), strict=True):
        assert cube.image.shape == (20, 20, 20, 1)
        assert cube.mask.shape == (20, 20, 20)
        np.testing.assert_array_equal(cube.image[10], flat.image)
        np.testing.assert_array_equal(cube.mask[10], flat.mask)
        assert cube._replace(image=None, mask=None) == flat._replace(image=None, mask=None)
    assert sources.catalogue(str(root), cubes=True).about.startswith("LUNA16 3-D patches of")


def test_a_cube_lies_between_the_slices(root: Path) -> None:
    """A slice of -100 HU at z = 4, the nodule's, among -800: 2 and 4 mm from it, by 5 mm; from the
    feet to the head, which a brighter slice at z = 6 shows; and black where the scan ends."""
    values = np.full(SHAPE, -800, "<i2")
    values[4], values[6:] = -100, 0
    write_scan(root / "subset0", values)
    nodule = records(root, cubes=True)[0]
    column = nodule.image[:, 10, 10, 0].astype(int)
    hu = np.interp(np.arange(-10, 10) * 2.0, [-10, -5, 0, 5, 10], [-800, -800, -100, -800, 0])
    np.testing.assert_allclose(column, [grey(one) for one in hu], atol=1)
    (root / "annotations.csv").write_text(NODULES.replace(",8\n", ",7\n"))
    nodule = records(root, cubes=True)[0]
    steps = np.arange(-10, 10) * 2.0
    distance = np.sqrt(sum(s**2 for s in np.ix_(steps, steps, steps)))
    np.testing.assert_array_equal(nodule.mask, distance < 3.5)
    (root / "annotations.csv").write_text(NODULES.replace("-60,-10,-80", "-60,-10,-100"))
    nodule = records(root, cubes=True)[0]
    assert not nodule.image[:9].any()
    assert nodule.image[10:].all()


def test_a_ball_is_around_the_centre_and_not_its_voxel(root: Path) -> None:
    """0.9 mm above voxel z = 4: it and the next voxel of the cube, 1.1 mm away, are in a ball of
    1.5 mm, and none below."""
    (root / "annotations.csv").write_text(NODULES.replace("-80,8", "-79.1,3"))
    nodule = records(root, cubes=True)[0]
    assert np.argwhere(nodule.mask).tolist() == [[10, 10, 10], [11, 10, 10]]


def test_cubes_that_cannot_be_are_refused(root: Path) -> None:
    write_scan(root / "subset0", lung(), ElementSpacing="1 1 5", Offset="-70 -20 -100")
    with pytest.raises(DataError, match=r"s1\.mhd: a cube of 500 mm would be of 500 voxels"):
        records(root, cubes=True, patch_mm=500)
    write_scan(root / "subset0", np.full(SHAPE, -32768, "<i2"))
    with pytest.raises(DataError, match=r"s1\.raw: its voxels are no Hounsfield units"):
        records(root, cubes=True)


def test_patches_are_of_the_size_asked(root: Path) -> None:
    assert records(root, patch_mm=16)[0].image.shape == (8, 8, 1)
    assert records(root, patch_mm=1)[0].image.shape == (2, 2, 1)
    for size in (0.5, 501, float("nan")):
        with pytest.raises(DataError, match="the option patch_mm must be from 1 to 500 mm"):
            records(root, patch_mm=size)
    with pytest.raises(DataError, match="the option missing must be one of fail, leave"):
        records(root, missing="never")


def test_background_is_lung_far_from_nodules(root: Path) -> None:
    """Only one place of the scan is of lung and 30 mm away: others are air, or too near."""
    values = np.full(SHAPE, -1000, "<i2")
    values[4, 14:17, 9:12] = -800
    values[4, 15, 35] = -700
    write_scan(root / "subset0", values)
    _, background = records(root)
    assert background.image[10, 10, 0] == grey(-700)
    values[4, 15, 35] = -1000
    write_scan(root / "subset0", values)
    with pytest.raises(DataError, match=r"s1\.mhd: no places of lung found 30 mm from its nodules"):
        records(root)


def test_the_second_version_of_the_candidates_goes_first(root: Path) -> None:
    values = lung()
    values[4, 37, 10], values[4, 37, 20] = 75, 100
    write_scan(root / "subset0", values)
    for name, x in (("candidates.csv", -60), ("candidates_V2.csv", -40)):
        lines = ["seriesuid,coordX,coordY,coordZ,class", f"s1,{x},34,-80,0"]
        (root / name).write_text("\n".join(lines))
    assert records(root)[1].image[10, 10, 0] == grey(100)


def test_candidates_are_far_from_every_nodule_and_taken_once(root: Path) -> None:
    """Two nodules, and three candidates away from both; the first one is near one of them."""
    values = lung()
    places = [(5, 15, 250), (10, 37, 100), (20, 37, 50), (30, 37, 0)]
    for x, y, value in places:
        values[4, y, x] = value
    write_scan(root / "subset0", values)
    (root / "annotations.csv").write_text(NODULES + "s1,-20,-10,-80,8\n")
    lines = [f"s1,{2 * x - 80},{2 * y - 40},-80,0" for x, y, _ in places]
    (root / "candidates.csv").write_text(
        "\n".join(["seriesuid,coordX,coordY,coordZ,class", *lines])
    )
    seen = set()
    for seed in range(12):
        one, other = (r.image[10, 10, 0] for r in records(root, seed=seed)[2:])
        assert one > other  # in the table's order, and not one twice
        seen |= {int(one), int(other)}
    assert seen == {grey(100), grey(50), grey(0)}


def test_every_subset_is_read(tmp_path: Path) -> None:
    lines = [NODULES.splitlines()[0]]
    for place in range(10):
        write_scan(tmp_path / f"subset{place}", lung(), f"s{place}")
        lines.append(f"s{place},-60,-10,-80,8")
    (tmp_path / "annotations.csv").write_text("\n".join(lines))
    assert len(sources.catalogue(str(tmp_path)).units) == 10


def test_background_of_large_patches_is_further_away(root: Path) -> None:
    """Three quarters of 80 mm from the nodule: of candidates at 44 and 64 mm, the second."""
    values = np.full((10, 40, 60), -800, "<i2")
    values[4, 15, 42] = 100
    write_scan(root / "subset0", values, DimSize="60 40 10")
    (root / "candidates.csv").write_text(
        "seriesuid,coordX,coordY,coordZ,class\ns1,-60,34,-80,0\ns1,-16,-10,-80,0\ns1,4,-10,-80,0\n"
    )
    for seed in range(5):
        assert records(root, patch_mm=80, seed=seed)[1].image[20, 20, 0] == grey(100)


def test_scans_alike_have_other_places_and_stand_in_order(root: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-900, -600, SHAPE).astype("<i2")
    names = [f"s{i}" for i in range(8)]
    for name in names:
        write_scan(root / f"subset{8 - int(name[1])}", values, name)
    row = NODULES.splitlines()[1].removeprefix("s1")
    text = "\n".join([NODULES.splitlines()[0], *(f"{name}{row}" for name in names[::-1])])
    (root / "annotations.csv").write_text(text)
    (root / "subset0/s1.mhd").unlink()
    assert [Path(u.name).stem for u in sources.catalogue(str(root)).units] == names
    found = [r.image.tobytes() for r in records(root) if r.label == "background"]
    assert len(set(found)) == len(names)


def test_seeds_give_other_places(root: Path) -> None:
    rng = np.random.default_rng(0)
    write_scan(root / "subset0", rng.integers(-900, -600, SHAPE).astype("<i2"))
    one, again, other = (records(root, seed=seed)[1].image for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("name", ["candidates.csv", "candidates_V2.csv"])
def test_background_is_of_candidates_that_are_none(root: Path, name: str) -> None:
    """Not one of class 1, nor one 20 mm from the nodule, nor one of another scan."""
    values = lung()
    values[6, 20, 30] = 100
    write_scan(root / "subset0", values)
    (root / name).write_text(
        "seriesuid,coordX,coordY,coordZ,class\n"
        "s1,-5,35,-60,1\ns1,-40,-10,-80,0\ns1,-20,0,-70,0\ns2,-78,30,-90,0\n"
    )
    for seed in range(5):
        for size in (40, 16):  # 30 mm, however small a patch is
            _, background = records(root, seed=seed, patch_mm=size)
            assert background.image[size // 4, size // 4, 0] == grey(100)


@pytest.mark.parametrize("flips", [(-1, -1, 1), (1, -1, -1), (-1, 1, 1)])
def test_flipped_axes_are_turned_back(root: Path, flips: tuple[int, int, int]) -> None:
    """The same scan, stored from its other ends: the same patches."""
    straight = records(root)[0]
    values, steps = lung(), flips[::-1]
    stored = values[:: steps[0], :: steps[1], :: steps[2]]
    first = [
        start + (n - 1) * step if flip < 0 else start
        for start, n, step, flip in zip(
            (-80, -40, -100), (40, 40, 10), (2, 2, 5), flips, strict=True
        )
    ]
    write_scan(
        root / "subset0",
        np.ascontiguousarray(stored),
        TransformMatrix=" ".join(str(v) for v in np.diag(flips).ravel()),
        Offset=" ".join(map(str, first)),
    )
    np.testing.assert_equal(records(root)[0]._asdict(), straight._asdict())


def test_other_encodings_give_the_same(root: Path) -> None:
    """Big-endian, other kinds of number, compressed, and in one file with the header."""
    folder, values = root / "subset0", lung()
    straight = records(root)[0].image
    for kind, dtype in (("MET_FLOAT", "<f4"), ("MET_INT", "<i4"), ("MET_DOUBLE", "<f8")):
        write_scan(folder, values.astype(dtype), ElementType=kind)
        np.testing.assert_array_equal(records(root)[0].image, straight)
    write_scan(folder, values.astype(">i2"), BinaryDataByteOrderMSB="True")
    np.testing.assert_array_equal(records(root)[0].image, straight)
    write_scan(folder, values, CompressedData="True", ElementDataFile="s1.zraw")
    (folder / "s1.zraw").write_bytes(zlib.compress(values.tobytes()))
    np.testing.assert_array_equal(records(root)[0].image, straight)
    path = write_scan(folder, values, ElementDataFile="LOCAL")
    path.write_bytes(path.read_bytes() + values.tobytes())
    (folder / "s1.raw").unlink()
    np.testing.assert_array_equal(records(root)[0].image, straight)


@pytest.mark.parametrize(
    ("kind", "dtype", "value"),
    [
        ("CHAR", "i1", -3), ("UCHAR", "u1", 200), ("SHORT", "<i2", -3), ("USHORT", "<u2", 40_000),
        ("INT", "<i4", -70_000), ("UINT", "<u4", 3_000_000_000), ("FLOAT", "<f4", 0.5),
        ("DOUBLE", "<f8", 1e300),
    ],
)  # fmt: skip
def test_every_kind_of_number(tmp_path: Path, kind: str, dtype: str, value: float) -> None:
    values = np.full(SHAPE, 1, dtype)
    values[1, 2, 3] = value
    scan = luna.read_scan(write_scan(tmp_path, values, ElementType=f"MET_{kind}"))
    np.testing.assert_array_equal(scan.values, values)


def test_fields_by_their_other_names(tmp_path: Path) -> None:
    """And lines that end as Windows has it; the voxels begin right behind the last of them."""
    big = lung().astype(">i2")
    for offset, turn in (("Position", "Rotation"), ("Origin", "Orientation")):
        fields = {offset: "1 2 3", turn: "1 0 0 0 -1 0 0 0 1", "BinaryDataByteOrderMSB": "True"}
        gone = {"Offset": "", "TransformMatrix": "", "ElementDataFile": "LOCAL"}
        path = write_scan(tmp_path, big, **fields, **gone)
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + big.tobytes())
        scan = luna.read_scan(path)
        np.testing.assert_array_equal(scan.origin, [1, 2 - 2 * 39, 3])
        np.testing.assert_array_equal(scan.values, lung()[:, ::-1])


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
def test_packed_voxels_behind_the_header(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = write_scan(tmp_path, lung(), CompressedData="True", ElementDataFile="LOCAL")
    path.write_bytes(path.read_bytes() + pack(lung().tobytes()))
    np.testing.assert_array_equal(luna.read_scan(path).values, lung())


def test_as_the_library_writes_it(tmp_path: Path) -> None:
    """Where SimpleITK is installed: its files, and its own points and voxels."""
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.integers(-900, 100, (5, 6, 7)).astype(np.int16))
    image.SetSpacing((0.7, 0.7, 2.5))
    image.SetOrigin((-10.5, 20.25, -300.0))
    image.SetDirection((-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    for compressed in (False, True):
        sitk.WriteImage(image, str(tmp_path / "x.mhd"), compressed)
        scan = luna.read_scan(tmp_path / "x.mhd")
        for index in ((0, 0, 0), (6, 5, 4), (3, 1, 2)):
            at = scan.voxel(image.TransformIndexToPhysicalPoint(index))
            x, y, z = np.round(at).astype(int)
            np.testing.assert_allclose(at, (x, y, z), atol=1e-6)
            assert scan.values[z, y, x] == image.GetPixel(index)


def test_scans_that_are_not_there_are_left_out_and_said(root: Path) -> None:
    write_scan(root / "subset3", lung(), "s2")  # has no nodule
    (root / "annotations.csv").write_text(NODULES + "s9,0,0,0,5\n")
    with pytest.raises(DataError, match=r"annotations\.csv: 1 of its scans .* first s9\.mhd"):
        sources.catalogue(str(root))
    found = sources.catalogue(str(root), missing="leave")
    assert [unit.name for unit in found.units] == ["subset0/s1.mhd"]
    assert found.about.endswith("1 annotated scans not there; 1 scans without nodules left out")


def header(**fields: str) -> Callable[[Path], None]:
    return lambda root: write_scan(root / "subset0", lung(), **fields) and None


table = functools.partial(write, "annotations.csv")


def candidates(text: str) -> Callable[[Path], None]:
    columns = "seriesuid,coordX,coordY,coordZ,class\n"
    return lambda root: (root / "candidates.csv").write_text(columns + text) and None


def packed(data: bytes) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        write_scan(root / "subset0", lung(), CompressedData="True")
        (root / "subset0" / "s1.raw").write_bytes(data)

    return change


def raw(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "subset0" / "s1.raw"
        path.write_bytes(change(path.read_bytes()))

    return damage


def spoilt(data: bytes) -> bytes:
    """One voxel, next to the nodule, of a value that no scanner gives."""
    values = np.frombuffer(data, "<i2").reshape(SHAPE).copy()
    values[4, 15, 11] = -20_000
    return values.tobytes()


BYTES = lung().nbytes
BAD = {
    "no table": (remove("annotations.csv"), r"annotations\.csv: no such"),
    "columns": (table("seriesuid,x\ns1,1\n"), r"annotations\.csv: lacks the columns \['coordX'"),
    "cut table": (
        table(NODULES[:-4]), r"annotations\.csv: line 2 has 4 cells .*; download it again$"
    ),
    "cut candidates": (candidates("s1,0,0\n"), r"candidates\.csv: .*; download it again$"),
    "text": (table(NODULES.replace("-10", "x")), r"annotations\.csv: s1: coordX.* must be numbers"),
    "nan": (table(NODULES.replace("-10", "nan")), r"must be numbers"),
    "diameter": (table(NODULES.replace(",8\n", ",0\n")), r"s1: diameter_mm must be above 0"),
    "outside, below": (table(NODULES.replace("-80", "-120")), r"the point .* lies outside it"),
    "outside, left": (table(NODULES.replace("-60", "-90")), r"the point .* lies outside it"),
    "outside, right": (table(NODULES.replace("-60", "10")), r"the point .* lies outside it"),
    "outside, front": (table(NODULES.replace("-10", "-50")), r"the point .* lies outside it"),
    "outside, behind": (table(NODULES.replace("-10", "50")), r"the point .* lies outside it"),
    "outside": (table(NODULES.replace("-80", "80")), r"s1\.mhd: the point .* lies outside it"),
    "candidate class": (candidates("s1,0,0,0,2\n"), r"candidates\.csv: class must be 0 or 1"),
    "candidate text": (candidates("s1,0,x,0,0\n"), r"candidates\.csv: s1: coordX.* numbers"),
    "two subsets": (
        lambda root: write_scan(root / "subset1", lung()), r"subset1/s1\.mhd: also in subset0",
    ),
    "no voxels": (
        remove("subset0/s1.raw"), r"s1\.mhd: there is no file s1\.raw",
    ),
    "cut": (raw(lambda data: data[:-1]), rf"s1\.raw: {BYTES - 1} bytes of voxels, not {BYTES}"),
    "longer": (raw(lambda data: data + b"x"), rf"s1\.raw: {BYTES + 1} bytes of voxels, not"),
    "noise": (raw(lambda data: b"\x00\x80" * (len(data) // 2)), r"s1\.raw: its voxels are no Houn"),
    "a voxel": (raw(spoilt), r"s1\.raw: its voxels are no Houn"),
    "no header": (
        write("subset0/s1.mhd", b"\x00\xff"), r"s1\.mhd: not a Meta",
    ),
    "header bytes": (
        write("subset0/s1.mhd", b"\xff\nElementDataFile = s1.raw\n"),
        r"s1\.mhd: not a Meta",
    ),
    "cut header": (header(ElementDataFile=""), r"s1\.mhd: not a MetaImage header that ends in"),
    "axes": (header(NDims="2"), r"s1\.mhd: NDims must be 3, got '2'"),
    "no axes": (header(NDims=""), r"NDims must be 3, got None"),
    "channels": (header(ElementNumberOfChannels="3"), r"ElementNumberOfChannels must be 1"),
    "text voxels": (header(BinaryData="False"), r"BinaryData must be True"),
    "inner header": (header(HeaderSize="-1"), r"HeaderSize must be 0"),
    "huge": (header(DimSize="1000000 1000000 1000000"), r"s1\.mhd: DimSize of 1000000 .* not"),
    "no size": (header(DimSize="40 0 10"), r"DimSize of 40 0 10 is not to be read"),
    "half sizes": (header(DimSize="40 40.5 10"), r"DimSize of 40 40\.5 10 is not"),
    "two sizes": (header(DimSize="40 40"), r"DimSize must be 3 numbers, got '40 40'"),
    "infinite": (header(Offset="0 inf 0"), r"Offset must be 3 numbers"),
    "no spacing": (header(ElementSpacing=""), r"ElementSpacing must be 3 numbers, got None"),
    "zero spacing": (header(ElementSpacing="0 0 5"), r"ElementSpacing must be from 0\.1 to 50"),
    "tiny spacing": (header(ElementSpacing="1e-9 1e-9 5"), r"ElementSpacing must be from"),
    "coarse spacing": (header(ElementSpacing="2 2 60"), r"ElementSpacing must be from"),
    "stretched": (header(ElementSpacing="2 3 5"), r"that of x and y the same, got '2 3 5'"),
    "turned": (header(TransformMatrix="0 1 0 1 0 0 0 0 1"), r"TransformMatrix must be the axes"),
    "flat": (header(TransformMatrix="0 0 0 0 0 0 0 0 0"), r"TransformMatrix must be the axes"),
    "tilted": (header(TransformMatrix="1 0 0 0 1 .1 0 0 1"), r"TransformMatrix must be the axes"),
    "kind": (header(ElementType="MET_STRING"), r"ElementType 'MET_STRING'; must be one of MET_"),
    "above": (header(ElementDataFile="../s1.raw"), r"ElementDataFile '\.\./s1\.raw' must be"),
    "root": (header(ElementDataFile="/s1.raw"), r"ElementDataFile '/s1\.raw' must be"),
    "windows": (header(ElementDataFile="..\\s1.raw"), r"must be a file beside it"),
    "dots": (header(ElementDataFile=".."), r"ElementDataFile '\.\.' must be"),
    "not packed": (packed(b"hello"), r"s1\.raw: its compressed voxels are damaged"),
    "packed, cut": (packed(zlib.compress(lung().tobytes())[:30]), r"s1\.raw: unpacks to other"),
    "packed, more": (packed(zlib.compress(bytes(BYTES + 10**6))), r"s1\.raw: unpacks to other"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_damage_is_refused_by_name(root: Path, name: str) -> None:
    check_refused(root, BAD[name])


def test_what_is_recognised(root: Path, tmp_path: Path) -> None:
    assert sources.find(str(root)) == "luna"
    (root / "annotations.csv").unlink()
    assert luna.recognises(str(root))
    (root / "subset0" / "s1.mhd").unlink()
    assert not luna.recognises(str(root))
    assert not luna.recognises(str(tmp_path / "nowhere"))
