"""From masks to tasks: structures, sides, episodes."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from medmeta_jax.data import masks as source, sources
from medmeta_jax.data.episodes import EpisodeSpec, sample, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import fit_scaling, make_pool
from medmeta_jax.data.samples import DataError, Samples, join
from medmeta_jax.data.splits import SIDES, make_split
from medmeta_jax.data.structures import structures

SPEC = EpisodeSpec(ways=1, shots=2, queries=3, disjoint="group")


@pytest.fixture(scope="module")
def samples() -> Samples:
    """36 images of 18 patients. The first pixel is the image's number; 128 is in the even ones
    alone, 255 in all but the last six, and a speck of 9 in one."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (36, 6, 6, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(36)
    masks = np.zeros((36, 6, 6), np.uint8)
    masks[::2, :2, :3] = 128
    masks[:30, 3:5, 2:5] = 255
    masks[3, 5, 5] = 9
    groups = np.asarray([f"p{i // 2}" for i in range(36)])
    labels = np.zeros(36, np.int32)
    return Samples(images, labels, ("cell",), groups, about="masks", masks=masks)


def test_values_are_structures_and_so_are_all_together(samples: Samples) -> None:
    found = structures(samples)
    assert found.class_names == ("any", "128", "255")  # too few pixels of 9
    np.testing.assert_array_equal(found.marks, [0, 128, 255])
    shown = found.labels
    np.testing.assert_array_equal(np.flatnonzero(shown[:, 1]), np.arange(0, 36, 2))
    np.testing.assert_array_equal(np.flatnonzero(shown[:, 2]), np.arange(30))
    assert shown[:, 0].sum() == 33
    one = structures(samples._replace(masks=(samples.masks == 255).astype(np.uint8)))
    assert one.class_names == ("any",)
    with pytest.raises(DataError, match="masks: no image shows 4 pixels or more of a structure"):
        structures(samples._replace(masks=np.zeros_like(samples.masks)))


def test_an_episode_is_of_one_structure_of_images_that_show_it(samples: Samples) -> None:
    found = structures(samples)
    pool = make_pool(found, found.class_names, fit_scaling(found.images))
    check_pool(pool, SPEC, found.class_names, "meta-train")
    keys = jax.random.split(jax.random.key(0), 60)
    indices = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, SPEC)))(keys)
    episodes = jax.jit(jax.vmap(lambda key: sample(key, pool, SPEC)))(keys)
    numbers = np.asarray(pool.x)[:, 0, 0, 0]
    seen = set()
    for e in range(60):
        (structure,) = np.asarray(indices.classes[e])
        value = (0, 128, 255)[structure]
        for index, side in (
            (indices.support[e], episodes.support), (indices.query[e], episodes.query),
        ):  # fmt: skip
            there = np.asarray(side.mask[e])
            own = samples.masks[numbers[np.asarray(index)[there]]]
            expected = own > 0 if value == 0 else own == value
            np.testing.assert_array_equal(np.asarray(side.y[e])[there], expected)
            assert expected.any((1, 2)).all()
            assert not np.asarray(side.y[e])[~there].any()
        seen.add(value)
    assert seen == {0, 128, 255}


def test_every_side_has_all_structures_of_other_patients(samples: Samples) -> None:
    split = make_split(structures(samples))
    numbers = [set(np.asarray(split.pools[s].x)[:, 0, 0, 0].tolist()) for s in SIDES]
    assert all(split.classes[s] == ("any", "128", "255") for s in SIDES)
    patients = [{n // 2 for n in own} for own in numbers]
    assert not patients[0] & patients[1]
    assert not patients[2] & (patients[0] | patients[1])
    assert set.union(*numbers) == set(np.flatnonzero(samples.masks.any((1, 2))).tolist())


def test_joined_data_sets_keep_their_masks(samples: Samples) -> None:
    other = samples._replace(images=samples.images ^ 255, masks=samples.masks // 2)
    joined = join({"a": structures(samples), "b": structures(other)})
    assert joined.class_names == ("a/any", "a/128", "a/255", "b/any", "b/64", "b/127")
    np.testing.assert_array_equal(joined.marks, [0, 128, 255, 0, 64, 127])
    np.testing.assert_array_equal(joined.masks, np.concatenate([samples.masks, other.masks]))
    pool = make_pool(joined, joined.class_names, fit_scaling(joined.images))
    np.testing.assert_array_equal(pool.domain, [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("ways", [2, 5])
def test_of_masks_an_episode_is_of_one(samples: Samples, ways: int) -> None:
    found = structures(samples)
    pool = make_pool(found, found.class_names, fit_scaling(found.images))
    with pytest.raises(DataError, match=f"ways must be 1 for masks, got {ways}"):
        check_pool(pool, EpisodeSpec(ways=ways), found.class_names, "meta-train")


def test_masks_are_scaled_as_their_images_by_the_nearest_value(tmp_path: Path) -> None:
    path = source.example(tmp_path / "masks")
    read = sources.load(path, image_size=10, masks=True)
    assert read.masks.shape == read.images.shape[:3]
    assert set(np.unique(read.masks)) <= {0, 255}
    # 12 wide and 9 high: the rows above and below are padding.
    assert not read.masks[:, 0].any()
    assert not read.masks[:, -1].any()
    assert sources.load(path, image_size=10).masks is None
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "plain.png")
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "plain.png").rename(tmp_path / "folder" / "a" / "0.png")
    with pytest.raises(DataError, match=r"class folders of folder: a/0\.png has no mask"):
        sources.load(str(tmp_path / "folder"), image_size=10, masks=True)
