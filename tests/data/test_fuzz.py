"""Files with bytes changed at random, in every source: read, or refused by name, never worse."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from medmeta_jax.data import sources
from medmeta_jax.data.reading import read_unit
from medmeta_jax.data.samples import DataError

# The built-in sets have no files of the user's.
FUZZED = tuple(name for name in sources.sources() if name not in ("anatomy", "phantom"))
MOST_BYTES = 256 << 20  # whatever a header asks for: the intact data sets are below 1 MB
# What headers are worst with, as little-endian shorts, words and floats: the largest and
# smallest numbers, minus one, not a number, infinity.
EXTREMES = (
    b"\xff\x7f",
    b"\x00\x80",
    b"\xff\xff",
    b"\x00\x00",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\xff",
    b"\x00\x00\xc0\x7f",
    b"\x00\x00\x80\x7f",
    b"\x40\x42\x0f\x00",
    b"999999999",
)


class Edit(NamedTuple):
    """What is done to a file at a share of its length, or at a byte of its header."""

    kind: str
    place: float | int
    data: bytes

    def __call__(self, content: bytes) -> bytes:
        at = self.place if isinstance(self.place, int) else int(self.place * len(content))
        at = min(at, len(content))
        if self.kind == "cut":
            return content[:at]
        kept = content[at:] if self.kind == "insert" else content[at + len(self.data) :]
        return content[:at] + self.data + kept


EDITS = st.lists(
    st.builds(
        Edit,
        st.sampled_from(["overwrite"] * 6 + ["insert", "cut"]),
        st.one_of(st.integers(0, 400), st.floats(0, 1)),
        st.one_of(st.sampled_from(EXTREMES), st.binary(min_size=1, max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each source's own example, and the name to load it by."""
    root = tmp_path_factory.mktemp("intact")
    made = {name: sources.sources()[name].example(root / name) for name in FUZZED}
    for source in made.values():  # else all that is changed below would be refused for nothing
        assert not [u for u in sources.catalogue(source).units if read_unit(u, str).problem]
    return made


def edited(path: Path, edits: list[Edit]) -> None:
    """Change a file; a gzipped one inside, where the header is."""
    inside = path.suffix == ".gz"
    content = gzip.decompress(path.read_bytes()) if inside else path.read_bytes()
    for edit in edits:
        content = edit(content)
    path.write_bytes(gzip.compress(content, 1) if inside else content)


def check_read(source: str, name: str) -> None:
    """Everything that can be read is as records are; what cannot is named."""
    try:
        units = sources.catalogue(source).units
    except DataError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert not refusal or name in refusal
    for unit in () if refusal else units:
        read = read_unit(unit, lambda record: record.name)
        if read.problem:
            assert Path(unit.name).name in read.problem or name in read.problem, read.problem


@pytest.mark.parametrize("name", FUZZED)
@settings(
    max_examples=25, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(place=st.floats(0, 1, exclude_max=True), edits=EDITS)
def test_changed_bytes_are_read_or_refused_by_name(
    intact: dict[str, str], name: str, place: float, edits: list[Edit]
) -> None:
    with tempfile.TemporaryDirectory() as where:
        original = Path(intact[name])
        root = original if original.is_dir() else original.parent
        shutil.copytree(root, Path(where) / name)
        files = sorted(p for p in (Path(where) / name).rglob("*") if p.is_file())
        edited(files[int(place * len(files))], edits)
        source = Path(where) / name / ("" if original.is_dir() else original.name)
        tracemalloc.start()
        try:
            check_read(str(source), name)
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "file", "edit"),
    [
        ("npz", "example.npz", Edit("overwrite", 85, b"[")),  # tokenize.TokenError of NumPy
        ("dicom", "kind0/p0.dcm", Edit("overwrite", 196, b"\xff\xff\xff\x7f")),  # 2 GB in a length
        ("masks", "", Edit("overwrite", 33, b"\xff\x7f")),  # 4 GB in the length of a PNG's part
    ],
)
def test_what_was_found(intact: dict[str, str], tmp_path: Path, name: str, file: str, edit) -> None:
    """Each once led to another exception than DataError, or asked for gigabytes."""
    original = Path(intact[name])
    root = original if original.is_dir() else original.parent
    shutil.copytree(root, tmp_path / name)
    path = tmp_path / name / file if file else min((tmp_path / name).rglob("*.png"))
    edited(path, [edit])
    tracemalloc.start()
    try:
        check_read(str(tmp_path / name / ("" if original.is_dir() else original.name)), name)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
