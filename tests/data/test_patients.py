"""A patient as a task: earlier against later, one patient an episode, patients on one side each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from medmeta_jax import config as configs, tasks
from medmeta_jax.data import folder, npz, sources
from medmeta_jax.data.episodes import EpisodeSpec, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.patients import by_patient
from medmeta_jax.data.pool import Pool
from medmeta_jax.data.prepare import prepare
from medmeta_jax.data.samples import DataError, Samples, select
from medmeta_jax.data.splits import SIDES, make_split
from medmeta_jax.settings import ConfigError, TrainConfig

PATIENTS, VISITS = 12, 10
TIMES, LABELS = [0, 1, 2, 3, 3, 5, 6, 7, 8, 9], [0, 0, 0, 1, 0, 1, 1, 0, 1, 0]
ILL, WELL = [0, 1, 2, 3, 7, 9], [3, 5, 6, 8]


def visits(seed: int = 0) -> Samples:
    """Ten visits of twelve patients, each of one of two classes, in no order; the image's first
    pixel is the patient, the second the time. Two visits, of either class, are at one time."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(PATIENTS), VISITS)
    time = np.tile(TIMES, PATIENTS)
    label = np.tile(LABELS, PATIENTS)
    images = rng.integers(0, 256, (len(patient), 4, 4, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = patient, time
    order = rng.permutation(len(patient))
    return Samples(
        images[order], label[order].astype(np.int32), ("ill", "well"),
        groups=np.asarray([f"p{i:02}" for i in patient])[order],
        times=time[order].astype(np.float32), about="visits",
    )  # fmt: skip


def test_classes_are_a_patients_own_and_patients_are_of_one_side() -> None:
    found = by_patient(visits())
    assert found.class_names[:3] == ("p00/ill", "p00/well", "p01/ill")
    assert found.split is not None
    of = {side: {name.split("/")[0] for name in names} for side, names in found.split.items()}
    assert (of["val"], of["test"]) == ({"p04", "p10"}, {"p05", "p11"})
    assert len(of["train"]) == 8
    split = make_split(found)
    assert split.about == "visits, a patient a task"
    for side in SIDES:
        pool = split.pools[side]
        assert {int(p) for p in np.asarray(pool.x)[:, 0, 0, 0]} == {int(p[1:]) for p in of[side]}
        assert len(pool.mixing) == len(of[side])
    alone = by_patient(visits(), every_side=False)
    assert alone.split is None
    assert len(alone.class_names) == 2 * PATIENTS


def test_the_sides_of_files_give_way_to_those_of_patients() -> None:
    sides = np.where(np.arange(PATIENTS * VISITS) % 2, "train", "test")
    with_sides, without = (
        make_split(by_patient(s)) for s in (visits()._replace(sides=sides), visits())
    )
    for side in SIDES:
        np.testing.assert_array_equal(with_sides.pools[side].x, without.pools[side].x)


def test_patients_who_lack_a_class_are_left_out() -> None:
    samples = visits()
    assert samples.groups is not None
    keep = (samples.groups != "p03") | (samples.labels == 0)
    found = by_patient(select(samples, keep))
    assert found.about == "visits, a patient a task; 1 patients left out, who lack a class"
    assert len(found.class_names) == 2 * (PATIENTS - 1)
    patient, time = found.images[:, 0, 0, 0], found.images[:, 0, 1, 0]
    assert found.times is not None
    np.testing.assert_array_equal(found.times, time)
    for name, label in zip(found.class_names, range(len(found.class_names)), strict=True):
        own = found.labels == label
        assert set(patient[own]) == {int(name[1:3])}
        assert set(time[own]) == set(ILL if name.endswith("ill") else WELL)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"groups": None}, r"names no groups \(patients\)"),
        ({"times": None}, "names no times"),
        ({"labels": np.ones((120, 2), bool)}, "one class an image"),
        ({"groups": np.asarray(["a"] * 120)}, "1 of 1 patients have images of all classes"),
    ],
)
def test_what_is_not_known_is_refused(changes: dict, says: str) -> None:
    with pytest.raises(DataError, match=f"visits: .*{says}"):
        by_patient(visits()._replace(**changes))


SPEC = EpisodeSpec(
    ways=2, shots=(1, 2), queries=3, disjoint="time", within="domain", shuffle=False
)  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Pool:
    return make_split(by_patient(visits())).pools["train"]


def test_an_episode_is_of_one_patient_and_its_queries_are_later(pool: Pool) -> None:
    """A class's support is its earliest images; a way is the same class in every episode."""
    draw = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, SPEC)))
    drawn = draw(jax.random.split(jax.random.key(0), 200))
    x, label = np.asarray(pool.x), np.asarray(pool.labels)
    patient, time = x[:, 0, 0, 0].astype(int), x[:, 0, 1, 0].astype(int)
    earliest = {0: ILL[:2], 1: WELL[:2]}
    shots, patients, queries = set(), set(), set()
    for one in range(200):
        support, query = (np.asarray(part[one]) for part in (drawn.support, drawn.query))
        support_y, query_y = (np.asarray(part[one]) for part in (drawn.support_y, drawn.query_y))
        there, asked = support >= 0, query >= 0
        assert len({*patient[support[there]], *patient[query[asked]]}) == 1
        patients.add(int(patient[support[there]][0]))
        for way in (0, 1):
            own = sorted(time[support[there & (support_y == way)]].tolist())
            assert own == earliest[way][: len(own)]
            shots.add(len(own))
            assert (label[np.asarray(drawn.classes)[one, way]] % 2) == way
        last = time[support[there]].max()
        assert time[query[asked]].min() > last
        for way, own in enumerate((ILL, WELL)):
            told = time[query[asked & (query_y == way)]].tolist()
            assert set(told) <= {t for t in own if t > last}
            queries |= set(told)
    assert shots == {1, 2}
    assert len(patients) == 8
    # Not what is ill at 1 to 3, though it is later than that class's own support.
    assert queries == {5, 6, 7, 8, 9}


def test_a_copy_of_an_earlier_image_is_no_query(pool: Pool) -> None:
    """Though it is later."""
    first = np.asarray(pool.same).copy()
    row = np.asarray(pool.rows)[0]
    row = row[row >= 0][np.argsort(np.asarray(pool.time)[row[row >= 0]])]
    first[row[-1]] = row[0]
    changed = pool._replace(same=jax.numpy.asarray(first))
    draw = jax.jit(jax.vmap(lambda key: sample_indices(key, changed, SPEC).query))
    assert not (np.asarray(draw(jax.random.split(jax.random.key(0), 200))) == row[-1]).any()
    before = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, SPEC).query))
    assert (np.asarray(before(jax.random.split(jax.random.key(0), 200))) == row[-1]).any()


def test_nothing_later_is_refused_by_the_patients_name(pool: Pool) -> None:
    names = make_split(by_patient(visits())).classes["train"]
    check_pool(pool, SPEC, names, "train")
    with pytest.raises(DataError, match=r"train: p00/ill and its like: no image is later than"):
        check_pool(pool, dataclasses.replace(SPEC, shots=6), names, "train")
    with pytest.raises(DataError, match="needs one class and a time"):
        check_pool(pool._replace(time=None), SPEC, names, "train")


def test_times_come_from_tables_and_archives_and_are_kept(tmp_path: Path) -> None:
    samples = visits()
    np.savez(
        tmp_path / "visits.npz", images=samples.images, labels=samples.labels,
        groups=samples.groups, times=samples.times, class_names=["ill", "well"],
    )  # fmt: skip
    rows = ["path,group,time"]
    assert samples.groups is not None
    assert samples.times is not None
    for i, (image, label) in enumerate(zip(samples.images, samples.labels, strict=True)):
        path = tmp_path / "raw" / samples.class_names[label] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
        rows.append(f"{path.parent.name}/{path.name},{samples.groups[i]},{samples.times[i]}")
    (tmp_path / "raw" / "groups.csv").write_text("\n".join(rows))
    for source in (tmp_path / "visits.npz", tmp_path / "raw"):
        prepare(str(source), tmp_path / f"made {source.stem}")
        for one in (source, tmp_path / f"made {source.stem}"):
            found = sources.load(str(one), image_size=4)
            assert found.times is not None
            np.testing.assert_array_equal(found.times, found.images[:, 0, 1, 0])
    config = TrainConfig(data=str(tmp_path / "raw"), image_size=4, task="patient", queries=3)
    split = tasks.load_split(config)
    assert tasks.episode_spec(config, split) == dataclasses.replace(SPEC, shots=1)
    other = dataclasses.replace(config, meta_test=str(tmp_path / "visits.npz"))
    with pytest.raises(DataError, match="on another side too"):
        tasks.load_split(other)


def test_times_that_are_none_are_refused(tmp_path: Path) -> None:
    folder.example(tmp_path / "raw")
    table = tmp_path / "raw" / "groups.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",time", *(f"{line},soon" for line in lines[1:])]))
    with pytest.raises(DataError, match=r"groups\.csv: the time 'soon' is no number"):
        folder.catalogue(str(tmp_path / "raw"))
    table.write_text("\n".join([lines[0] + ",time", *(f"{line}," for line in lines[1:])]))
    with pytest.raises(DataError, match=r"has no time for a/0\.png"):
        folder.catalogue(str(tmp_path / "raw"))
    images, labels = np.zeros((4, 4, 4), np.uint8), np.arange(4)
    for times in (np.arange(3), np.asarray([0, 1, 2, np.nan]), np.asarray(["a"] * 4)):
        np.savez(tmp_path / "x.npz", images=images, labels=labels, times=times)
        with pytest.raises(DataError, match="times must be a finite number for each of 4 images"):
            npz.catalogue(str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    "changes", [{"also": ("b",)}, {"split": "s.csv"}, {"rotate_classes": True}]
)
def test_configurations_that_cannot_be_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError, match="task: patient splits the patients of one data set"):
        configs.check(dataclasses.replace(TrainConfig(task="patient"), **changes))
