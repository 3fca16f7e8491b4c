"""What is found in a data set: counts by hand, copies planted, files damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmeta_jax.data import sources, survey
from medmeta_jax.data.pictures import ContactSheet, save_histogram
from medmeta_jax.data.records import Record
from medmeta_jax.data.samples import Skipped

from .test_sources import REAL, needs_real


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> np.ndarray:
    """Smooth noise, as pictures are: near copies of it stay near."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of five pictures; of the first one an exact copy in the other class, a near
    copy (brighter, a pixel set) beside it, and a plain image in each class."""
    for c, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(picture(10 * c + i)).save(tmp_path / name / f"{i}.png")
        plain = np.full((8, 8), 50 + c, np.uint8)
        Image.fromarray(plain).save(tmp_path / name / "plain.png")
    first = picture(0)
    Image.fromarray(first).save(tmp_path / "b" / "copy.png")
    near = np.clip(first.astype(int) + 4, 0, 255).astype(np.uint8)
    near[3, 3] ^= 1
    Image.fromarray(near).save(tmp_path / "a" / "near.png")
    return tmp_path


def looked_at(folder: Path) -> tuple[list[survey.Seen], list[Skipped], dict]:
    unreadable: list[Skipped] = []
    listed = sources.catalogue(str(folder))
    seen = list(survey.go_through(listed, unreadable))
    looks = [one.look for one in seen]
    found = survey.facts(survey.Survey(listed.about, looks, unreadable))
    return seen, unreadable, found


@pytest.mark.parametrize(("flipped", "near"), [(1, True), (8, True), (9, False)])
def test_copies_are_near_up_to_the_limit(folder: Path, flipped: int, near: bool) -> None:
    """Bits spread over the whole hash, so that they fall into as many of its parts as they can."""
    first = looked_at(folder)[0][0].look
    bits = np.unpackbits(first.near)
    bits[np.linspace(0, len(bits) - 1, flipped).astype(int)] ^= 1
    other = first._replace(name="other", exact=b"other", near=np.packbits(bits))
    pairs, _ = survey.near_pairs([first, other])
    assert pairs == ([(0, 1)] if near else [])


def test_counts_and_copies(folder: Path) -> None:
    _, unreadable, found = looked_at(folder)
    assert not unreadable
    assert found["samples"] == 14
    assert found["classes"] == {"a": 7, "b": 7}
    assert found["groups"] is None
    assert found["sizes"] == [
        {"size": [32, 40, 1], "images": 12}, {"size": [8, 8, 1], "images": 2},
    ]  # fmt: skip
    exact, near = found["duplicates"]["exact"], found["duplicates"]["near"]
    assert exact["examples"] == [["a/0.png", "b/copy.png"]]
    assert (exact["pairs"], exact["across_classes"]) == (1, 1)
    assert sorted(map(sorted, near["examples"])) == [
        ["a/0.png", "a/near.png"], ["a/near.png", "b/copy.png"],
    ]  # fmt: skip
    assert near["not_compared"] == 0
    json.dumps(found)


def test_copies_across_patients_are_counted(folder: Path) -> None:
    lines = ["path,label,group"]
    for path in sorted(folder.rglob("*.png")):
        inside = path.relative_to(folder).as_posix()
        lines.append(f"{inside},{path.parent.name},{'p1' if 'copy' in inside else 'p2'}")
    (folder / "groups.csv").write_text("\n".join(lines))
    found = looked_at(folder)[2]
    assert found["groups"] == 2
    assert found["duplicates"]["exact"]["across_groups"] == 1
    assert found["duplicates"]["near"]["across_groups"] == 1


def test_what_cannot_be_read_is_listed_and_the_rest_counted(folder: Path) -> None:
    (folder / "a" / "1.png").write_bytes(b"")
    _, unreadable, found = looked_at(folder)
    assert [one.name for one in unreadable] == ["a/1.png"]
    assert found["samples"] == 13
    assert found["unreadable"][0]["name"] == "a/1.png"
    assert "not a readable image" in found["unreadable"][0]["reason"]
    assert any(line.startswith("unreadable") for line in survey.lines(found))


def test_intensity_by_hand() -> None:
    dark, light = np.zeros((2, 2, 1), np.uint8), np.full((2, 6, 1), 200, np.uint8)
    found = survey.intensity([survey.look_at(Record(x, "a")) for x in (dark, light)])
    assert found == {"mean": 150.0, "std": pytest.approx(86.603, abs=1e-3), "min": 0, "max": 200}


def test_a_volume_is_shown_by_its_middle_slice() -> None:
    """In its hash and on the sheet; an exact copy is one of all of it."""
    slices = np.stack([picture(i)[..., None] for i in range(5)])
    first, other = slices.copy(), slices.copy()
    other[0] = 0
    looks = [survey.look_at(Record(x, "a")) for x in (first, other, slices[2])]
    assert looks[0].size == (5, 32, 40, 1)
    assert len({look.exact for look in looks}) == 3
    assert survey.near_pairs(looks)[0] == [(0, 1), (0, 2), (1, 2)]
    sheet = ContactSheet()
    for look, image in zip(looks, (first, other, slices[2]), strict=True):
        sheet.add(look, image)
    for shown in sheet.kept["a"][1:]:
        np.testing.assert_array_equal(shown, sheet.kept["a"][0])
    found = survey.facts(survey.Survey("volumes", looks[:1], []))
    assert any("5x32x40x1 (1)" in line for line in survey.lines(found))


def test_too_many_alike_are_not_compared_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MOST_COMPARED", 3)
    looks = [survey.look_at(Record(picture(0)[..., None] // 2 + i, "a")) for i in range(5)]
    assert survey.near_pairs(looks) == ([], 5)


def test_near_pairs_are_those_of_a_full_comparison() -> None:
    """Looked for by parts of the hash, none is missed: against all pairs, at every distance."""
    rng = np.random.default_rng(0)
    looks = []
    for i in range(60):
        bits = rng.integers(0, 2, 256) if i % 3 == 0 else bits.copy()  # noqa: F821
        flips = rng.choice(256, i % 3 * 6, replace=False)
        bits[flips] ^= 1
        look = survey.look_at(Record(np.full((2, 2, 1), i, np.uint8), "a"))
        looks.append(look._replace(near=np.packbits(bits)))
    every = np.stack([np.unpackbits(look.near) for look in looks]).astype(int)
    apart = (every[:, None] != every).sum(-1)
    expected = [tuple(p) for p in np.argwhere(np.triu(apart <= survey.NEAR_BITS, 1)).tolist()]
    assert len(expected) > 10
    assert survey.near_pairs(looks) == (expected, 0)


def test_pictures_are_written(folder: Path, tmp_path: Path) -> None:
    seen = looked_at(folder)[0]
    sheet = ContactSheet()
    for one in seen:
        sheet.add(one.look, one.image)
    assert {name: len(images) for name, images in sheet.kept.items()} == {"a": 7, "b": 7}
    sheet.save(tmp_path / "sheet.png")
    save_histogram([one.look for one in seen], tmp_path / "histogram.png")
    for name in ("sheet.png", "histogram.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 100
            assert len(np.unique(np.asarray(image.convert("L")))) > 5


@needs_real
def test_real_copies() -> None:
    """Of 800 brain images, 13 repeat another of their own class."""
    found = looked_at(REAL / "brain_tumor_mri")[2]
    assert found["samples"] == 800
    assert found["duplicates"]["exact"]["pairs"] == 13
    assert found["duplicates"]["exact"]["across_classes"] == 0
