"""Images of which something was measured: from files to episodes."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from medmeta_jax.data import measured, sources
from medmeta_jax.data.episodes import EpisodeSpec, sample, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import Pool, fit_scaling, make_pool
from medmeta_jax.data.prepare import prepare
from medmeta_jax.data.samples import DataError, Samples, join
from medmeta_jax.data.splits import SIDES, make_split

SPEC = EpisodeSpec(ways=1, shots=(2, 5), queries=6, disjoint="group")


@pytest.fixture(scope="module")
def samples() -> Samples:
    """60 images of 30 patients; pixels hold the image's number, a third has no weight."""
    rng = np.random.default_rng(0)
    images = np.zeros((60, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(60)
    values = np.stack([50 + 10 * rng.normal(size=60), rng.normal(size=60)], 1).astype(np.float32)
    values[::3, 1] = np.nan
    groups = np.asarray([f"p{i // 2}" for i in range(60)])
    return Samples(images, values, ("age", "weight"), groups, about="measured")


def pool_of(samples: Samples) -> Pool:
    return make_pool(samples, samples.class_names, fit_scaling(samples.images))


def test_an_episode_is_of_one_value_measured_from_the_supports_mean(samples: Samples) -> None:
    pool = pool_of(samples)
    check_pool(pool, SPEC, samples.class_names, "meta-train")
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.tree.map(
        np.asarray, jax.jit(jax.vmap(lambda key: sample_indices(key, pool, SPEC)))(keys)
    )
    sd = np.nanstd(samples.labels.astype(np.float64), 0)
    seen = set()
    for e in range(200):
        (way,) = drawn.classes[e]
        support, query = drawn.support[e], drawn.query[e]
        there = support[support >= 0]
        assert 2 <= len(there) <= 5
        own = samples.labels[:, way].astype(np.float64)
        assert not np.isnan(own[there]).any()
        for part, y in ((support, drawn.support_y[e]), (query, drawn.query_y[e])):
            expected = np.where(part >= 0, (own[part] - own[there].mean()) / sd[way], 0)
            np.testing.assert_allclose(y, expected, atol=1e-4)
        groups = samples.groups
        assert not set(groups[there]) & set(groups[query[query >= 0]])
        seen.add((int(way), len(there)))
    assert {way for way, _ in seen} == {0, 1}


def test_an_episodes_labels_are_its_values(samples: Samples) -> None:
    pool = pool_of(samples)
    episode = sample(jax.random.key(3), pool, SPEC)
    assert episode.support.y.dtype == np.float32
    assert abs(float(episode.support.y[episode.support.mask].mean())) < 1e-5
    assert float(np.abs(np.where(episode.query.mask, 0, episode.query.y)).max()) == 0


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (EpisodeSpec(ways=2), "ways must be 1 for values, got 2"),
        (EpisodeSpec(ways=1, rotate=True), "images have values"),
        (EpisodeSpec(ways=1, balance="proportional"), "images have values"),
    ],
)
def test_what_values_cannot_be(samples: Samples, spec: EpisodeSpec, says: str) -> None:
    with pytest.raises(DataError, match=says):
        check_pool(pool_of(samples), spec, samples.class_names, "meta-train")


def test_one_way_is_for_values_alone(samples: Samples) -> None:
    plain = samples._replace(labels=np.zeros(60, np.int32), class_names=("a",))
    with pytest.raises(DataError, match="ways must be >= 2 for classes, got 1"):
        check_pool(pool_of(plain), SPEC, ("a",), "meta-train")


def test_values_that_are_all_the_same_are_refused(samples: Samples) -> None:
    flat = samples.labels.copy()
    flat[:, 0] = 7
    with pytest.raises(
        DataError, match="all values of 'age' on one side of the split are the same"
    ):
        pool_of(samples._replace(labels=flat))


def test_every_side_has_all_values_of_other_patients(samples: Samples) -> None:
    split = make_split(samples)
    groups = [
        {str(samples.groups[int(i)]) for i in np.asarray(split.pools[side].x)[:, 0, 0, 0]}
        for side in SIDES
    ]
    assert all(split.classes[side] == ("age", "weight") for side in SIDES)
    assert [len(own) for own in groups] == [20, 5, 5]
    assert len(set.union(*groups)) == 30
    assert split.shared_groups == 0


def test_joined_data_sets_know_their_own_values(samples: Samples) -> None:
    joined = join({"a": samples, "b": samples._replace(images=samples.images + 100)})
    assert joined.class_names == ("a/age", "a/weight", "b/age", "b/weight")
    np.testing.assert_array_equal(joined.labels[:60, :2], samples.labels)
    assert np.isnan(joined.labels[:60, 2:]).all()
    pool = make_pool(joined, joined.class_names, fit_scaling(joined.images))
    np.testing.assert_array_equal(pool.domain, [0, 0, 1, 1])
    assert pool.x.shape[0] == 120


def test_a_prepared_folder_keeps_them(tmp_path: Path) -> None:
    raw = measured.example(tmp_path / "raw")
    manifest = prepare(raw, tmp_path / "out")
    assert manifest["classes"] == {"brightness": 36, "width": 28}
    for one, other in zip(
        sources.load(raw, image_size=8), sources.load(str(tmp_path / "out"), image_size=8),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_equal(one, other)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0.png,,", "0.png has no value; fill one in, or remove it"),
        ("0.png,old,1", "age of 0.png is 'old'; give a number or leave it empty"),
        ("0.png,nan,1", "age of 0.png is 'nan'"),
        ("0.png,inf,1", "age of 0.png is 'inf'"),
        ("2.png,1,1", "there is no image '2.png'"),
        ("1.png,1,1", "has two rows for '1.png'"),
        ("", "has no row for 0.png; add one, or remove the file"),
    ],
)
def test_a_table_that_is_wrong_is_named(tmp_path: Path, line: str, says: str) -> None:
    for place in range(2):
        Image.fromarray(np.full((4, 4), 9 * place, np.uint8)).save(tmp_path / f"{place}.png")
    text = f"path,age,weight\n1.png,3,4.5\n{line}\n"
    (tmp_path / "values.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"values.csv: .*{says}"):
        sources.load(str(tmp_path), image_size=4)


def test_sides_domains_and_no_values_in_the_table(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "0.png")
    table = tmp_path / "values.csv"
    table.write_text("path,age,side,domain,group\n0.png,3,Test,site1,p1\n", encoding="utf-8")
    read = sources.load(str(tmp_path), image_size=4)
    assert (read.sides[0], read.domains[0], read.groups[0]) == ("test", "site1", "p1")
    for text, says in (
        ("path,side\n0.png,test\n", "has no column of values beside path, side"),
        ("path,age,side\n0.png,1,left\n", "side of 0.png is 'left'; give train or test"),
        ("path,age,group\n0.png,1,\n", "0.png has no group; fill it in"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=says):
            sources.load(str(tmp_path), image_size=4)


IMAGES = np.zeros((3, 4, 4), np.uint8)


def test_an_archive_of_values(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    values = np.asarray([[1.5, np.nan], [2.0, 3.0], [np.nan, 4.0]])
    np.savez(path, images=IMAGES, values=values, value_names=["age", "dose"])
    read = sources.load(str(path), image_size=4)
    assert read.class_names == ("age", "dose")
    np.testing.assert_array_equal(read.labels, values.astype(np.float32))
    np.savez(path, images=IMAGES, values=np.arange(3))
    assert sources.load(str(path), image_size=4).class_names == ("value0",)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"values": [1.0, 2.0]}, r"values must be numbers \[3\] or \[3, L\]"),
        ({"values": ["a", "b", "c"]}, "values must be numbers"),
        ({"values": [1.0, np.inf, 2.0]}, "image 1 has no value that is a finite number"),
        ({"values": [1.0, 2.0, np.nan]}, "image 2 has no value that is a finite number"),
        ({"values": [1.0, 2.0, 3.0], "value_names": "age"}, "value_names must name the labels"),
        ({"labels": [0.5, 1.0, 2.0]}, "numbers that were measured are the array values"),
    ],
)
def test_an_archive_that_is_wrong_is_named(tmp_path: Path, arrays: dict, says: str) -> None:
    np.savez(tmp_path / "v.npz", images=IMAGES, **{k: np.asarray(v) for k, v in arrays.items()})
    with pytest.raises(DataError, match=f"v.npz: .*{says}"):
        sources.load(str(tmp_path / "v.npz"), image_size=4)


def test_what_is_measured_on_masks(tmp_path: Path) -> None:
    """Numbered instances are counted by number though they touch; other masks by parts."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    instances = np.zeros((4, 5), np.uint16)
    instances[0, :2], instances[0, 2:4], instances[3, 4] = 7, 300, 9
    parts = np.zeros((4, 5), np.uint8)
    parts[0, 0] = parts[1, 1] = 255
    parts[3, 3:] = 128
    for name, mask in (("0.png", instances), ("1.png", parts)):
        Image.fromarray(np.full((4, 5), 9, np.uint8)).save(tmp_path / "images" / name)
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    units = sources.catalogue(str(tmp_path), label="measured").units
    found = [record.label for unit in units for record in unit.read()]
    assert found == [{"area": 5 / 20, "objects": 3.0}, {"area": 4 / 20, "objects": 2.0}]
    with pytest.raises(DataError, match="label must be one of class, measured, got 'area'"):
        sources.catalogue(str(tmp_path), label="area")
