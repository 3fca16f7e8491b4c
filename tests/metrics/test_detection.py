"""Candidates, what is suppressed, and what is hit: by hand, and against plain loops."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from skimage.measure import label, regionprops

from medmeta_jax.metrics.detection import (
    AGAIN,
    FALSE,
    box_iou,
    candidates,
    in_box,
    in_mask,
    in_radius,
    match,
    suppress_boxes,
    suppress_points,
)

MAP = np.array(
    [
        [0.6, 0.0, 0.0, 0.0, 0.2],
        [0.0, 0.9, 0.0, 0.0, 0.5],
        [0.0, 0.0, 0.0, 0.0, 0.8],
        [0.7, 0.0, 0.0, 0.0, 0.5],
    ]
)


def test_candidates_by_hand() -> None:
    """A pair joined by a corner, a column of three, and a pixel alone."""
    found = candidates(MAP, 0.5)
    np.testing.assert_array_equal(found.scores, [0.9, 0.8, 0.7])
    np.testing.assert_allclose(found.centres, [[0.6, 0.6], [2.0, 4.0], [3.0, 0.0]])
    np.testing.assert_array_equal(
        found.boxes, [[[0, 0], [2, 2]], [[1, 4], [4, 5]], [[3, 0], [4, 1]]]
    )
    np.testing.assert_array_equal(found.sizes, [2, 3, 1])
    by_mean = candidates(MAP, 0.5, score="mean")
    np.testing.assert_allclose(by_mean.scores, [0.75, 0.7, 0.6])
    np.testing.assert_array_equal(by_mean.sizes, [2, 1, 3])
    np.testing.assert_array_equal(candidates(MAP, 0.5, 2).scores, [0.9, 0.8])
    np.testing.assert_array_equal(candidates(MAP, 0.5, 3).sizes, [3])


def test_nothing_and_what_is_no_number() -> None:
    found = candidates(np.zeros((4, 5, 6)))
    assert [len(array) for array in found] == [0, 0, 0, 0]
    assert (found.centres.shape, found.boxes.shape) == ((0, 3), (0, 2, 3))
    spoilt = np.where(MAP == 0.9, np.nan, MAP)
    found = candidates(spoilt, 0.5)
    np.testing.assert_array_equal(found.scores, [0.8, 0.7, 0.6])
    assert not len(candidates(np.full((3, 3), np.nan)).scores)


@given(
    hnp.arrays(np.float32, (4, 5, 3), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(1, 3),
)
def test_candidates_equal_scikit_image(p: np.ndarray, threshold: float, min_size: int) -> None:
    regions = regionprops(label(p >= threshold, connectivity=3), p.astype(np.float64))
    rows = sorted(
        (-r.intensity_max, *r.centroid_weighted, *r.bbox, r.area)
        for r in regions
        if r.area >= min_size
    )
    found = candidates(p, threshold, min_size)
    assert (np.diff(found.scores) <= 0).all()
    ours = sorted(
        (-score, *centre, *box.ravel(), size)
        for score, centre, box, size in zip(*found, strict=True)
    )
    np.testing.assert_allclose(np.asarray(ours), np.asarray(rows), atol=1e-9)
    means = sorted(r.intensity_mean for r in regions if r.area >= min_size)
    by_mean = candidates(p, threshold, min_size, score="mean").scores
    np.testing.assert_allclose(by_mean[::-1], means)


def test_iou_of_boxes_by_hand() -> None:
    cube = np.array([[[0, 0, 0], [2, 2, 2]]])
    others = np.stack([cube[0], cube[0] + 1, cube[0] + 2, cube[0] * 2, cube[0] + 3])
    np.testing.assert_allclose(box_iou(cube, others), [[1, 1 / 15, 0, 8 / 64, 0]])
    assert box_iou(cube, np.zeros((0, 2, 3))).shape == (1, 0)


def test_boxes_suppressed_by_hand() -> None:
    """Neighbours overlap by 1/2, the first and the third by 1/5; the last is the third again."""
    boxes = np.array([[[0.0], [3.0]], [[1.0], [4.0]], [[2.0], [5.0]], [[2.0], [5.0]]])
    scores = np.array([0.3, 0.6, 0.9, 0.9])
    np.testing.assert_array_equal(suppress_boxes(boxes, scores, 0.3), [2, 0])
    np.testing.assert_array_equal(suppress_boxes(boxes, scores, 0.49), [2, 0])
    np.testing.assert_array_equal(suppress_boxes(boxes, scores, 0.19), [2])
    np.testing.assert_array_equal(suppress_boxes(boxes, scores, 0.5), [2, 1, 0])


def test_points_suppressed_by_hand() -> None:
    points = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 3.0]])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    np.testing.assert_array_equal(suppress_points(points, scores, 2.0), [0, 1, 2])
    np.testing.assert_array_equal(suppress_points(points, scores, 2.1), [0, 3])
    np.testing.assert_array_equal(suppress_points(points, scores, 2.1, (2.0, 1.0)), [0, 2, 3])
    assert suppress_points(np.zeros((0, 3)), np.zeros(0), 1.0).shape == (0,)


@given(hnp.arrays(np.int8, (8, 2), elements=st.integers(0, 5)), hnp.arrays(np.int8, 8))
def test_what_is_kept_is_apart_and_takes_the_rest(points: np.ndarray, scores: np.ndarray) -> None:
    kept = suppress_points(points, scores, 2.5)
    far = np.linalg.norm(points[:, None] - points[None].astype(float), axis=-1)
    assert (far[np.ix_(kept, kept)] + 9 * np.eye(len(kept)) >= 2.5).all()
    for place in set(range(8)) - set(kept.tolist()):
        assert any(far[place, k] < 2.5 and scores[k] >= scores[place] for k in kept)


def test_a_centre_is_in_the_lesion_of_its_pixel() -> None:
    lesions = np.array([[0, 5, 0], [2, 5, 0]])
    inside = np.array([[0.4, 1.4], [0.5, 0.49], [-0.5, 0.5], [1.49, 1.0]])
    np.testing.assert_array_equal(in_mask(inside, lesions), [[0, 1], [1, 0], [0, 1], [0, 1]])
    outside = np.array([[0.0, 0.0], [0.0, 1.5], [-0.6, 1.0], [1.5, 1.0], [9.0, 1.0], [1.0, -9.0]])
    assert not in_mask(outside, lesions).any()
    assert in_mask(inside, np.zeros((2, 3), int)).shape == (4, 0)


def test_a_centre_at_the_radius_is_outside() -> None:
    centres = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])
    lesions, radii = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([2.0, 3.0])
    np.testing.assert_allclose(
        in_radius(centres, lesions, radii),
        [[1, 1 / 3], [1 / 2, 1 - np.sqrt(5) / 3], [1 / 2, 2 / 3], [0, 1]],
    )
    wide = in_radius(centres, lesions, radii, (1.0, 2.0))
    assert wide[1, 0] == 0
    assert wide[1, 1] == pytest.approx(1 - np.sqrt(8) / 3)


def test_matching_by_hand() -> None:
    """Two lesions that overlap, and a third; scores out of order.

    By LUNA16's rule 0.9 finds A, which it overlaps most; 0.8, which does so too, finds B, and
    0.7 hits found lesions alone. By VOC's, 0.8 and 0.7 belong to A, which is found, and are false.
    """
    scores = np.array([0.7, 0.9, 0.1, 0.8, 0.5])
    overlap = np.array(
        [[0.6, 0.5, 0.0], [0.9, 0.5, 0.0], [0.0, 0.0, 0.4], [0.7, 0.5, 0.0], [0.0, 0.0, 0.0]]
    )
    found = match(scores, overlap)
    np.testing.assert_array_equal(found.found, [AGAIN, 0, 2, 1, FALSE])
    assert found.lesions == 3
    np.testing.assert_array_equal(match(scores, overlap, 0.5).found, [AGAIN, 0, FALSE, 1, FALSE])
    np.testing.assert_array_equal(
        match(scores, overlap, 0.5, again="false").found, [FALSE, 0, FALSE, FALSE, FALSE]
    )


def test_matching_without_candidates_or_lesions() -> None:
    assert match(np.zeros(0), np.zeros((0, 2)))[1:] == (pytest.approx([]), 2)
    np.testing.assert_array_equal(match(np.ones(2), np.zeros((2, 0))).found, [FALSE, FALSE])


OVERLAPS = hnp.arrays(np.float64, (7, 3), elements=st.sampled_from([0.0, 0.0, 0.3, 0.5, 0.8]))
SCORES = hnp.arrays(np.float64, 7, elements=st.sampled_from([0.1, 0.2, 0.3, 0.4]))


@given(SCORES, OVERLAPS, st.sampled_from(["ignored", "false"]))
def test_what_a_higher_threshold_leaves_is_matched_as_before(
    scores: np.ndarray, overlap: np.ndarray, again: str
) -> None:
    """So that one matching serves for every threshold of a curve."""
    whole = match(scores, overlap, 0.4, again=again).found
    for threshold in (0.2, 0.3, 0.4):
        kept = scores >= threshold
        part = match(scores[kept], overlap[kept], 0.4, again=again).found
        np.testing.assert_array_equal(part, whole[kept])


@given(SCORES, OVERLAPS, st.sampled_from(["ignored", "false"]))
def test_a_lesion_is_found_once_by_one_that_hits_it(
    scores: np.ndarray, overlap: np.ndarray, again: str
) -> None:
    found = match(scores, overlap, 0.5, again=again).found
    hit = overlap >= 0.5
    places = np.flatnonzero(found >= 0)
    assert len(set(found[places])) == len(places)
    assert hit[places, found[places]].all()
    missed = sorted(set(range(3)) - set(found[places].tolist()))
    if again == "ignored":  # a lesion is missed only if those that hit it found another
        np.testing.assert_array_equal(found == FALSE, ~hit.any(1))
        assert (found[hit[:, missed].any(1)] >= 0).all()
    else:
        assert (found != AGAIN).all()


BOX = np.array([[[0.0, 0.0], [1.0, 1.0]]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: candidates(np.zeros(3)), "probability must be a 2-D or 3-D map"),
        (lambda: candidates(MAP - 1), "probabilities must be >= 0 and <= 1"),
        (lambda: candidates(MAP * 2), "probabilities must be >= 0 and <= 1"),
        (lambda: candidates(MAP, 0.0), "threshold must be > 0 and <= 1, got 0.0"),
        (lambda: candidates(MAP, np.nan), "threshold must be > 0"),
        (lambda: candidates(MAP, min_size=0), "min_size must be >= 1, got 0"),
        (lambda: candidates(MAP, score="sum"), "score must be max or mean, got 'sum'"),
        (lambda: box_iou(BOX, BOX[..., :1]), r"others must be finite and \[any, 2, 2\]"),
        (lambda: box_iou(BOX, BOX[:, ::-1]), "others must have their first corner below"),
        (lambda: suppress_boxes(BOX, np.ones(2)), r"boxes must be finite and \[2, 2, any\]"),
        (lambda: suppress_boxes(BOX, np.array([np.nan])), "scores must be finite"),
        (lambda: suppress_boxes(BOX, np.ones(1), 1.5), "iou must be >= 0 and <= 1, got 1.5"),
        (lambda: suppress_points(BOX[0], np.ones(2), 0), "distance must be > 0, got 0"),
        (lambda: suppress_points(BOX[0], np.ones(2), 1, (1,)), "spacing must be 2 numbers"),
        (lambda: in_mask(BOX[0], MAP), "lesions must be a map of whole numbers"),
        (lambda: in_mask(BOX[0], MAP > 0), "scipy.ndimage.label makes one"),
        (lambda: in_mask(BOX[0], np.full((2, 2), -1)), "lesions must be a map of whole"),
        (lambda: in_mask(BOX[0], np.ones((2, 2, 2), int)), r"centres must be finite and \[any, 3"),
        (lambda: in_radius(BOX[0], BOX[0], np.ones(3)), r"radii must be finite and \[2\]"),
        (lambda: in_radius(BOX[0], BOX[0], np.zeros(2)), "radii must be > 0"),
        (lambda: in_box(BOX[0], BOX[..., :1]), r"centres must be finite and \[any, 1\]"),
        (lambda: in_box(BOX[0], BOX[:, ::-1]), "boxes must have their first corner below"),
        (lambda: match(np.ones(2), np.ones((3, 1))), r"overlap must be finite and \[2, any\]"),
        (lambda: match(np.array([np.nan]), np.ones((1, 1))), "scores must be finite"),
        (lambda: match(np.ones(1), np.ones((1, 1)), again="true"), "again must be ignored or"),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
