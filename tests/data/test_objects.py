"""From boxes and masks to tasks: marks, kinds, sides, episodes."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from medmeta_jax.data import masks as mask_source, objects, sources, voc
from medmeta_jax.data.episodes import EpisodeSpec, sample, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.objects import Objects, draw, fit_boxes, parts_of, with_objects
from medmeta_jax.data.pool import fit_scaling, make_pool, of_one_way, pool_hash
from medmeta_jax.data.samples import DataError, Samples, fit_image, join
from medmeta_jax.data.splits import SIDES, held_out, make_split
from medmeta_jax.labels import OBJECTS, kind_of_pool
from medmeta_jax.metrics.objects import match_image

from ..conftest import write_cells

SPEC = EpisodeSpec(ways=1, shots=2, queries=3, disjoint="group")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    where = write_cells(tmp_path_factory.mktemp("cells") / "smears")
    return objects.load(str(where), image_size=24, shrink=0.5)


def test_a_mark_is_an_ellipse_in_the_middle_of_its_box() -> None:
    mask = np.zeros((6, 10), np.uint8)
    draw(mask, np.asarray([[[0.0, 0.0], [6.0, 10.0]]]), np.asarray([7]), 1.0)
    rows, columns = np.mgrid[:6, :10] + 0.5
    inside = ((rows - 3) / 3) ** 2 + ((columns - 5) / 5) ** 2 <= 1
    np.testing.assert_array_equal(mask, 7 * inside)
    half = np.zeros((6, 10), np.uint8)
    draw(half, np.asarray([[[0.0, 0.0], [6.0, 10.0]]]), np.asarray([7]), 0.5)
    inside = ((rows - 3) / 1.5) ** 2 + ((columns - 5) / 2.5) ** 2 <= 1
    np.testing.assert_array_equal(half, 7 * inside)


def test_the_least_object_is_marked_and_the_smaller_stands() -> None:
    mask = np.zeros((4, 4), np.uint8)
    tiny = np.asarray(
        [[[0.1, 0.1], [0.3, 0.3]], [[3.0, 3.0], [4.0, 4.0]], [[3.9, 0.0], [4.0, 0.2]]]
    )
    draw(mask, tiny, np.asarray([1, 2, 3]), 0.5)
    assert {tuple(place) for place in np.argwhere(mask)} == {(0, 0), (3, 3), (3, 0)}
    for order in ([0, 1], [1, 0]):
        mask = np.zeros((9, 9), np.uint8)
        two = np.asarray([[[0.0, 0.0], [9.0, 9.0]], [[3.0, 3.0], [6.0, 6.0]]])
        draw(mask, two[order], np.asarray([1, 2])[order], 1.0)
        assert mask[4, 4] == 2
        assert mask[4, 1] == 1


def test_a_mark_of_each_is_found_in_its_box_and_touching_boxes_stay_apart() -> None:
    boxes = np.asarray([[[2.0, x], [10.0, x + 8.0]] for x in (0.0, 8.0, 15.0)])  # the last overlap
    mask = np.zeros((12, 23), np.uint8)
    draw(mask, boxes, np.ones(3, int), 0.5)
    above = np.where(mask, 5.0, -5.0)
    found = match_image(np.stack([0 * above, above], -1), boxes)
    assert sorted(found.found) == [0, 1, 2]
    draw(mask, boxes, np.ones(3, int), 1.0)
    above = np.where(mask, 5.0, -5.0)
    assert len(match_image(np.stack([0 * above, above], -1), boxes).found) == 1


@pytest.mark.parametrize("shape", [(24, 24), (10, 37), (37, 10), (13, 24), (9, 23), (5, 8, 7)])
@pytest.mark.parametrize("size", [16, 25])
def test_boxes_are_scaled_and_moved_as_their_images(shape: tuple[int, ...], size: int) -> None:
    """A bright box of an image is, after scaling, where its corners say, to a pixel."""
    image = np.zeros((*shape, 1), np.uint8)
    low, high = np.asarray(shape) // 4, np.asarray(shape) // 4 + np.asarray(shape) // 2
    image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 255
    (box,) = fit_boxes(np.asarray([[low, high]], np.float64), shape, size)
    bright = np.argwhere(fit_image(image, size)[..., 0] > 127)
    np.testing.assert_allclose(bright.min(0), box[0], atol=0.75)
    np.testing.assert_allclose(bright.max(0) + 1, box[1], atol=0.75)


def test_parts_of_a_mask_are_objects_of_their_value() -> None:
    mask = np.zeros((8, 9), np.uint8)
    mask[0:2, 0:3] = 128
    mask[2, 3] = 128  # by a corner
    mask[0:2, 3:6] = 255  # beside it, of another value
    mask[6:8, 0:2] = 255
    mask[7, 6:9] = 255  # three pixels
    found = parts_of(mask)
    assert found.kinds == ["128", "255", "255"]
    np.testing.assert_array_equal(
        found.boxes, [[[0, 0], [3, 4]], [[0, 3], [2, 6]], [[6, 0], [8, 2]]]
    )
    empty = parts_of(np.zeros((4, 5, 6), np.uint8))
    assert (empty.kinds, empty.boxes.shape) == ([], (0, 2, 3))
    (box,) = parts_of(np.ones((2, 3, 4), np.uint8)).boxes
    np.testing.assert_array_equal(box, [[0, 0, 0], [2, 3, 4]])


def test_of_voc_whole_images_with_all_their_boxes(cells: Samples) -> None:
    assert cells.images.shape == (18, 24, 24, 1)
    assert cells.class_names == ("platelet", "rbc", "wbc")
    assert cells.labels.all()
    assert cells.boxes.shape == (18, 4, 2, 2)
    np.testing.assert_array_equal(np.sort(cells.kinds, 1), np.tile([1, 2, 2, 3], (18, 1)))
    for image, boxes, kinds, mask in zip(
        cells.images[..., 0], cells.boxes, cells.kinds, cells.masks, strict=True
    ):
        for box, kind in zip(boxes, kinds, strict=True):
            (top, left), (bottom, right) = box.astype(int)
            own = np.zeros((24, 24), bool)
            own[top:bottom, left:right] = True
            assert (bottom - top, right - left) == ((2, 2), (4, 4), (6, 6))[kind - 1]
            bright = image[own].min() > 240
            assert bright or image[own].max() < 20
            assert bright == (kind != 2)
            marked = own & (mask > 0)
            assert set(mask[marked]) == {kind}
            assert not (mask[own & ~marked]).any()
            assert 1 <= marked.sum() < own.sum()
    # 24 wide and 16 high: four rows of padding above.
    assert cells.boxes[..., 0].min() >= 4
    assert cells.boxes[..., 0].max() <= 20


def test_masks_without_boxes_and_numbered_instances(tmp_path: Path) -> None:
    path = mask_source.example(tmp_path / "masks")
    found = objects.load(path, image_size=12, shrink=1.0)
    assert found.class_names == ("255",)
    # Rows 2 to 7 and columns from 3 on, 1 to 6 of them; 12 wide and 9 high.
    np.testing.assert_array_equal(found.boxes[0, 0], [[2 + 2, 3], [7 + 2, 4]])
    np.testing.assert_array_equal(found.boxes[5, 0], [[2 + 2, 3], [7 + 2, 9]])
    for name in ("images", "masks"):
        (tmp_path / "nuclei" / name).mkdir(parents=True)
    numbers = np.zeros((9, 12), np.uint16)
    numbers[:4, :6], numbers[:4, 6:], numbers[6, 6] = 300, 2, 9
    Image.fromarray(numbers).save(tmp_path / "nuclei" / "masks" / "0.png")
    Image.fromarray(np.zeros((9, 12), np.uint8)).save(tmp_path / "nuclei" / "images" / "0.png")
    nuclei = objects.load(str(tmp_path / "nuclei"), image_size=12, shrink=0.5)
    assert nuclei.class_names == ("nuclei",)
    found = {tuple(box.ravel()) for box in nuclei.boxes[0]}  # those that touch, and the least
    assert found == {(2, 0, 6, 6), (2, 6, 6, 12), (8, 6, 9, 7)}
    plain = sources.catalogue(str(tmp_path / "nuclei")).units[0].read()[0]
    assert plain.boxes == ()


def test_what_has_no_objects_is_refused(tmp_path: Path, cells: Samples) -> None:
    (tmp_path / "folder" / "a").mkdir(parents=True)
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "folder" / "a" / "0.png")
    with pytest.raises(DataError, match="class folders of folder: its images have neither boxes"):
        objects.load(str(tmp_path / "folder"), image_size=9, shrink=0.5)
    nothing = [Objects([], np.zeros((0, 2, 2)))] * 18
    with pytest.raises(DataError, match="no image shows an object; 1 to 255 kinds are needed"):
        with_objects(cells, nothing, shrink=0.5)
    many = [Objects([str(i) for i in range(256)], np.tile([[[0.0, 0], [1, 1]]], (256, 1, 1)))] * 18
    with pytest.raises(DataError, match="has 256 kinds of objects"):
        with_objects(cells, many, shrink=0.5)
    with pytest.raises(DataError, match="shrink must be > 0 and <= 1, got 2"):
        with_objects(cells, nothing, shrink=2)


def test_images_that_show_nothing_are_of_no_task(cells: Samples) -> None:
    one = Objects(["b"], np.asarray([[[0.0, 0.0], [4.0, 4.0]]]))
    two = Objects(["b", "a"], np.asarray([[[0.0, 0.0], [4.0, 4.0]], [[8.0, 8.0], [9.0, 9.0]]]))
    of_classes = cells._replace(split={"train": ("c",), "val": ("d",), "test": ("e",)})
    rest = [None, two, Objects([], np.zeros((0, 2, 2))), *[one] * 14]
    found = with_objects(of_classes, [one, *rest], shrink=1.0)
    assert found.class_names == ("a", "b")
    assert found.split is None  # which was of other classes
    np.testing.assert_array_equal(found.labels[:4], [[0, 1], [0, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(found.kinds[:4], [[2, 0], [0, 0], [2, 1], [0, 0]])
    assert np.isnan(found.boxes[:4]).any((2, 3)).tolist() == [
        [False, True], [True, True], [False, False], [True, True],
    ]  # fmt: skip
    assert not found.masks[1].any()
    pool = make_pool(found, ("a", "b"), fit_scaling(found.images))
    assert pool.counts.tolist() == [1, 16]
    assert len(pool.x) == 16


def test_an_episode_is_of_one_kind_and_is_judged_by_its_boxes(cells: Samples) -> None:
    pool = make_pool(cells, ("rbc", "wbc"), fit_scaling(cells.images))
    assert kind_of_pool(pool) is OBJECTS
    assert of_one_way(pool) == "objects"
    check_pool(pool, SPEC, ("rbc", "wbc"), "meta-train")
    keys = jax.random.split(jax.random.key(0), 20)
    indices = jax.jit(jax.vmap(lambda key: sample_indices(key, pool, SPEC)))(keys)
    episodes = jax.jit(jax.vmap(lambda key: sample(key, pool, SPEC)))(keys)
    assert episodes.truth.shape == (20, 3, 4, 2, 2)
    seen = set()
    for e in range(20):
        value = (2, 3)[int(indices.classes[e, 0])]
        for index, side in (
            (indices.support[e], episodes.support), (indices.query[e], episodes.query),
        ):  # fmt: skip
            np.testing.assert_array_equal(side.y[e], cells.masks[np.asarray(index)] == value)
        own = cells.kinds[np.asarray(indices.query[e])] == value
        truth = np.asarray(episodes.truth[e])
        np.testing.assert_array_equal(~np.isnan(truth).any((2, 3)), own)
        np.testing.assert_array_equal(truth[own], cells.boxes[np.asarray(indices.query[e])][own])
        seen.add(value)
    assert seen == {2, 3}
    few = make_pool(cells, ("wbc",), fit_scaling(cells.images))._replace(rows=pool.rows[1:, :4])
    padded = sample(jax.random.key(0), few, SPEC)
    assert not padded.query.mask.all()
    assert np.isnan(np.asarray(padded.truth)[~np.asarray(padded.query.mask)]).all()
    moved = pool._replace(boxes=pool.boxes + 1)
    assert pool_hash(moved) != pool_hash(pool)


def test_sides_have_other_images_and_other_kinds(cells: Samples) -> None:
    split = make_split(cells)
    assert split.classes == {"train": ("platelet",), "val": ("rbc",), "test": ("wbc",)}
    images = [{image.tobytes() for image in np.asarray(split.pools[s].x)} for s in SIDES]
    assert [len(own) for own in images] == [12, 3, 3]
    assert len(set.union(*images)) == 18
    held = make_split(held_out(cells, ("wbc",), ("platelet",)))
    assert held.classes == {"train": ("rbc",), "val": ("wbc",), "test": ("platelet",)}
    assert held.pools["test"].marks.tolist() == [1]
    kept = [{image.tobytes() for image in np.asarray(held.pools[s].x)} for s in SIDES]
    assert kept == images
    two = cells._replace(
        class_names=("platelet", "rbc"), labels=cells.labels[:, :2], marks=cells.marks[:2]
    )
    assert set(make_split(two).classes.values()) == {("platelet", "rbc")}
    other = make_split(two, test=cells._replace(images=cells.images ^ 255))
    assert other.classes["test"] == ("platelet", "rbc", "wbc")
    assert other.classes["val"] == ("platelet", "rbc")


@pytest.mark.parametrize(
    ("val", "test", "says"),
    [
        (("wbc",), ("cell",), "'cell' is no class of it; it has platelet, rbc, wbc"),
        (("wbc",), ("wbc",), "'wbc' is held out twice"),
        (("wbc", "rbc"), ("platelet",), "all classes are held out"),
    ],
)
def test_classes_that_cannot_be_held_out(
    cells: Samples, val: tuple[str, ...], test: tuple[str, ...], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        held_out(cells, val, test)


def test_the_data_sets_own_test_side_is_meta_test(cells: Samples) -> None:
    """With all images of its groups that are not put in train."""
    sides = np.full(18, "train")
    sides[:5] = "test"
    sides[5] = ""
    groups = np.asarray([f"p{i:02d}" for i in range(18)])
    groups[5] = groups[4]
    groups[6] = groups[3]
    split = make_split(cells._replace(sides=sides, groups=groups))
    numbers = {image.tobytes(): i for i, image in enumerate(cells.images)}
    at = {s: {numbers[x.tobytes()] for x in np.asarray(split.pools[s].x)} for s in SIDES}
    assert at["test"] == {0, 1, 2, 3, 4, 5}
    assert at["train"] | at["val"] == set(range(7, 18))
    assert at["val"]


def test_joined_data_sets_keep_their_objects(cells: Samples) -> None:
    more = cells._replace(
        images=cells.images ^ 255,
        boxes=np.concatenate([cells.boxes, np.full((18, 2, 2, 2), np.nan, np.float32)], 1),
        kinds=np.concatenate([cells.kinds, np.zeros((18, 2), np.uint8)], 1),
    )
    joined = join({"a": cells, "b": more})
    assert joined.class_names[2:4] == ("a/wbc", "b/platelet")
    assert joined.boxes.shape == (36, 6, 2, 2)
    np.testing.assert_array_equal(joined.kinds, np.concatenate([joined.kinds[:18], more.kinds]))
    np.testing.assert_array_equal(joined.kinds[:18, :4], cells.kinds)
    assert not joined.kinds[:18, 4:].any()
    assert np.isnan(joined.boxes[:18, 4:]).all()
    pool = make_pool(joined, joined.class_names, fit_scaling(joined.images))
    episode = sample(jax.random.key(0), pool, SPEC)
    assert episode.truth.shape == (3, 6, 2, 2)


def test_voc_by_default_cuts_out(tmp_path: Path) -> None:
    where = str(write_cells(tmp_path / "smears", 2))
    assert len(sources.load(where, image_size=8).images) == 8
    assert sources.of_whole_images(where) == {"crops": False} == voc.WHOLE
