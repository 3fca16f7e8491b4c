"""Splits that are written down: how images are dealt out, read back, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmeta_jax.data import split_file
from medmeta_jax.data.samples import DataError, Samples, Skipped
from medmeta_jax.data.split_file import deal, read, write
from medmeta_jax.data.splits import SIDES, make_split

CLASSES = ("a", "b", "c", "d", "e", "f")


def samples(groups: Any = None, **changes: Any) -> Samples:
    """72 images of 6 classes and 24 patients, each of whom shows three classes."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(6), 12).astype(np.int32)
    own = np.asarray([f"p{i // 3:02d}" for i in range(72)]) if groups is None else groups
    return Samples(
        rng.integers(0, 256, (72, 8, 8, 1), np.uint8), labels, CLASSES, own,
        names=np.asarray([f"i{i:02d}" for i in range(72)]), about="sets",
    )._replace(**changes)  # fmt: skip


def groups_of(made: Samples, sides: np.ndarray) -> list[set[str]]:
    return [set(made.groups[sides == side].tolist()) for side in SIDES]


def alone() -> np.ndarray:
    """Every image a patient of its own."""
    return np.asarray([f"o{i:02d}" for i in range(72)])


def some_alone() -> np.ndarray:
    """Half of the images are of patients who show three classes."""
    return np.where(np.arange(72) < 36, alone(), samples().groups)


def check_disjoint(made: Samples, sides: np.ndarray) -> None:
    train, val, test = groups_of(made, sides)
    assert not (train & val)
    assert not (train & test)
    assert not (val & test)
    assert all((train, val, test))


@pytest.mark.parametrize("by", ["class", "group", "one_group"])
def test_sides_never_share_a_group(by: str) -> None:
    made = samples(some_alone())
    check_disjoint(made, deal(made, by).sides)


def test_by_group_each_side_has_its_share_of_each_class() -> None:
    made = samples()
    sides = deal(made, "group", val=0.25, test=0.125).sides
    for label in range(6):
        counts = [int((sides[made.labels == label] == side).sum()) for side in SIDES]
        assert counts == [pytest.approx(7.5, abs=1), pytest.approx(3, abs=1), pytest.approx(2, 1)]
    # Groups of very different sizes too: 1 to 12 images of one class each.
    sizes = np.repeat(np.arange(12), np.arange(12) + 1)[:72]
    uneven = samples(sizes.astype(str))
    share = [(deal(uneven, "group").sides == side).mean() for side in SIDES]
    np.testing.assert_allclose(share, [0.6, 0.2, 0.2], atol=0.1)


def test_the_seed_deals_otherwise_and_again_the_same() -> None:
    made = samples()
    first, again, other = (deal(made, "group", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.sides, again.sides)
    assert first.digest == again.digest != other.digest


def test_a_test_side_of_its_own_is_kept() -> None:
    """Patient p00 stands in train/ and in test/: all of it is test; no other is."""
    sides = np.where(np.arange(72) < 20, "test", "train")
    sides[0] = "train"
    made = samples(sides=sides)
    dealt = deal(made, "group", val=0.25).sides
    assert set(np.flatnonzero(dealt == "test").tolist()) == set(range(21))
    assert (dealt == "val").sum() == pytest.approx(0.25 * 72, abs=6)


def test_by_class_what_a_later_side_needs_is_on_no_other() -> None:
    made = samples(some_alone())
    sides = deal(made, "class").sides
    shown = [{CLASSES[label] for label in made.labels[sides == side]} for side in SIDES]
    assert shown[1] == {"b", "e"}
    assert not (shown[0] & shown[1])
    assert not (shown[1] & shown[2])
    assert not (shown[0] & shown[2])
    assert (sides[36:] == "").any(), "patients who show classes of several sides"
    assert not (sides[:36] == "").any()


@pytest.mark.parametrize("by", ["class", "group", "one_group"])
def test_copies_are_of_one_group(by: str) -> None:
    """Images 1 to 5 copy image 0, under other classes and patients."""
    made = samples(alone())
    made.images[1:6] = made.images[0]
    sides = deal(made, by, fold=5).sides  # image 5 for test, 6 for val
    assert len(set(sides[:6].tolist()) - {""}) == 1
    if by == "group":
        assert len(set(sides[:6].tolist())) == 1


def test_groups_are_joined_by_way_of_others() -> None:
    """0 and 1 are of a patient, 1 and 2 copies, 2 and 3 of a patient."""
    groups = np.arange(72).astype(str)
    groups[[0, 1]], groups[[2, 3]] = "x", "y"
    made = samples(groups)
    made.images[2] = made.images[1]
    together = split_file.joined_groups(made)
    assert len(set(together[:4].tolist())) == 1
    assert len(set(together.tolist())) == 69


def test_one_group_or_domain_is_left_out_in_turn() -> None:
    made = samples(domains=np.repeat(["ct", "mr", "us", "xr"], 18))
    for fold, (test, val) in enumerate([("ct", "mr"), ("mr", "us"), ("us", "xr"), ("xr", "ct")]):
        sides = deal(made, "one_domain", fold=fold).sides
        assert set(made.domains[sides == "test"]) == {test}
        assert set(made.domains[sides == "val"]) == {val}
        assert (sides == "train").sum() == 36
    sides = deal(made, "one_group", fold=23).sides
    assert groups_of(made, sides)[1:] == [{"p00"}, {"p23"}]


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (samples(), {"by": "luck"}, "the option by must be one of class, group"),
        (samples(), {"by": "group", "val": 0.6, "test": 0.4}, "must be > 0 and below 1 together"),
        (samples(), {"by": "group", "val": 0.0}, "must be > 0 and below 1 together"),
        (samples(), {"by": "one_group", "fold": 24}, "fold must be from 0 to 23, got 24"),
        (samples(), {"by": "one_domain"}, "names no domains"),
        (samples(groups=np.full(72, "p")), {"by": "group"}, "no image is left for"),
        (samples(names=None), {"by": "group"}, "its images have no names"),
        (samples(names=np.full(72, "i")), {"by": "group"}, "two images are named 'i'"),
        (samples(labels=np.eye(6, dtype=bool)[np.arange(72) % 6]), {"by": "class"}, "by group, no"),
    ],
)  # fmt: skip
def test_what_cannot_be_dealt(made: Samples, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        deal(made, **options)


def test_the_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    names = np.asarray([f'ü {i}, "x"' for i in range(72)])
    made = samples(names=names)
    dealt = deal(made, "group")
    write(path, made, dealt)
    found = read(path, made)
    np.testing.assert_array_equal(found.sides, dealt.sides)
    assert found.digest == dealt.digest
    turned = made._replace(**{
        field: getattr(made, field)[::-1] for field in ("images", "labels", "groups", "names")
    })  # fmt: skip
    np.testing.assert_array_equal(read(path, turned).sides, dealt.sides[::-1])
    assert read(path, turned).digest == dealt.digest
    first = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first == ["name,side,label,group", f'"ü 0, ""x""",{dealt.sides[0]},a,p00']
    assert [p.name for p in tmp_path.iterdir()] == ["split.csv"]


def test_several_labels_are_written_with_a_bar(tmp_path: Path) -> None:
    labels = np.zeros((72, 6), bool)
    labels[0, [1, 4]] = True
    labels[1:, 0] = True
    made = samples(labels=labels)
    write(tmp_path / "s.csv", made, deal(made, "group"))
    assert ",b|e,p00" in (tmp_path / "s.csv").read_text().splitlines()[1]


def edit(line: int, old: str, new: str) -> Any:
    def change(lines: list[str]) -> None:
        assert old in lines[line]
        lines[line] = lines[line].replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.pop(5), "says nothing of 1 images, the first i04"),
        (lambda lines: lines.append("i99,train,a,p9"), "names 1 images that are not there.*i99"),
        (lambda lines: lines.append(lines[3]), "i02 is there twice"),
        (edit(0, "side", "part"), r"s\.csv: .*side"),
        (edit(1, "i00,", "i00,up,"), "i00 has the side 'up'"),
        (lambda lines: lines.clear(), r"s\.csv"),
    ],
)
def test_a_file_of_other_data_or_damaged_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    made = samples()
    write(tmp_path / "s.csv", made, deal(made, "group"))
    lines = (tmp_path / "s.csv").read_text().splitlines()
    change(lines)
    (tmp_path / "s.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        read(tmp_path / "s.csv", made)
    with pytest.raises(DataError, match="no such file; make it by: medmeta data split"):
        read(tmp_path / "absent.csv", made)


def test_a_group_moved_by_hand_to_two_sides_is_refused(tmp_path: Path) -> None:
    made = samples()
    dealt = deal(made, "group")
    moved = dealt.sides.copy()
    moved[0] = "val" if moved[0] != "val" else "test"
    write(tmp_path / "s.csv", made, dealt._replace(sides=moved))
    with pytest.raises(DataError, match=rf"i00 is on {moved[0]} and i01, of the same group, on"):
        read(tmp_path / "s.csv", made)
    moved[0] = ""
    write(tmp_path / "s.csv", made, dealt._replace(sides=moved))
    assert read(tmp_path / "s.csv", made).sides[0] == ""


def test_files_left_out_as_damaged_may_be_absent(tmp_path: Path) -> None:
    made = samples()
    write(tmp_path / "s.csv", made, deal(made, "group"))
    keep = np.arange(72) != 7
    rest = made._replace(**{
        field: getattr(made, field)[keep] for field in ("images", "labels", "groups", "names")
    })  # fmt: skip
    with pytest.raises(DataError, match="names 1 images that are not there"):
        read(tmp_path / "s.csv", rest)
    assert (
        len(read(tmp_path / "s.csv", rest._replace(skipped=(Skipped("i07", "cut"),))).sides) == 71
    )


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    made = samples()
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "absent/s.csv", made, deal(made, "group"))
    (tmp_path / "s.csv").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "s.csv", made, deal(made, "group"))
    assert [p.name for p in tmp_path.iterdir()] == ["s.csv"]


def test_the_pools_hold_what_the_file_says() -> None:
    """A class may be on several sides; images of no side are in no pool."""
    made = samples()
    sides = deal(made, "group").sides
    sides[3:6] = ""
    split = make_split(made, given=sides)
    assert split.shared_groups == 0
    for side in SIDES:
        assert split.classes[side] == CLASSES
        pool = split.pools[side]
        found = sorted(image.tobytes() for image in np.asarray(pool.x))
        assert found == sorted(image.tobytes() for image in made.images[sides == side])
