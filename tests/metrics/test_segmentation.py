"""Scores of masks by hand, against scikit-learn, and against the definitions, pixel by pixel."""

from __future__ import annotations

from itertools import product

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from medmeta_jax.metrics.segmentation import (
    class_overlap_scores,
    each_image,
    lesion_scores,
    overlap_scores,
    surface_scores,
)

SHAPES = st.sampled_from([(1, 6), (5, 4), (7, 7), (3, 4, 3), (2, 5, 4)])
PAIRS = SHAPES.flatmap(lambda shape: hnp.arrays(bool, (2, *shape)))
SPARSE = SHAPES.flatmap(
    lambda shape: hnp.arrays(bool, (2, *shape), elements=st.sampled_from([True, *[False] * 4]))
)


def one(mask: np.ndarray) -> np.ndarray:
    """A batch of one image."""
    return mask[None, None]


ALL = np.ones((1, 1), bool)


# Pixels.


@pytest.mark.parametrize("spatial", [(9, 8), (4, 5, 6)])
def test_overlap_equals_scikit_learn(spatial: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((3, 4, *spatial)) < 0.3
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.random(truth.shape) < 0.4)
    found = overlap_scores(prediction.astype(np.uint8), truth, np.ones((3, 4), bool))
    for e, i in product(range(3), range(4)):
        pair = truth[e, i].ravel(), prediction[e, i].ravel()
        assert found["dice"][e, i] == pytest.approx(f1_score(*pair))
        assert found["iou"][e, i] == pytest.approx(jaccard_score(*pair))
        assert found["sensitivity"][e, i] == pytest.approx(recall_score(*pair))
        assert found["precision"][e, i] == pytest.approx(precision_score(*pair))


@pytest.mark.parametrize(("told", "true", "share"), [(0, 0, 1.0), (0, 1, 0.0), (1, 0, 0.0)])
def test_what_an_empty_mask_scores(told: int, true: int, share: float) -> None:
    p, t = np.zeros((2, 3, 4))
    p[1, 1], t[1, 1] = told, true
    found = overlap_scores(one(p), one(t), ALL)
    assert {name: values.item() for name, values in found.items()} == dict.fromkeys(
        ("dice", "iou", "sensitivity", "precision"), share
    )
    assert surface_scores(p, t) == dict.fromkeys(("hd95", "assd"), 5.0 * (1 - share))
    lesions = lesion_scores(p, t, (2.0, 2.0))
    assert lesions.pop("lesion_hd95") == 10.0 * (1 - share)
    assert set(lesions.values()) == {share}


def test_padding_may_hold_anything() -> None:
    rng = np.random.default_rng(0)
    p, t = (rng.random((2, 2, 3, 5, 5)) < 0.5).astype(np.float32)
    mask = np.array([[True, False, True], [False, True, True]])
    spoilt_p, spoilt_t = p.copy(), t.copy()
    spoilt_p[~mask], spoilt_t[~mask] = np.nan, 7
    for name, values in overlap_scores(spoilt_p, spoilt_t, mask).items():
        np.testing.assert_array_equal(np.isnan(values), ~mask)
        clean = overlap_scores(p, t, np.ones_like(mask))[name]
        np.testing.assert_array_equal(values[mask], clean[mask])
    found = each_image(surface_scores, mask, spoilt_p, spoilt_t)["hd95"]
    np.testing.assert_array_equal(np.isnan(found), ~mask)
    assert found[1, 2] == surface_scores(p[1, 2], t[1, 2])["hd95"]


def test_a_spacing_for_each_image() -> None:
    p, t = np.zeros((2, 1, 2, 3, 3), bool)
    p[..., 0, 0] = t[..., 0, 2] = True
    spacing = np.array([[[1.0, 1.0], [1.0, 0.5]]])
    found = each_image(surface_scores, np.ones((1, 2), bool), p, t, spacing)
    np.testing.assert_array_equal(found["hd95"], [[2.0, 1.0]])


def test_each_class_of_label_maps() -> None:
    truth = np.array([[0, 1, 1], [2, 2, 2]])
    found = class_overlap_scores(one(np.array([[0, 1, 2], [2, 2, 0]])), one(truth), ALL, [2, 1, 3])
    np.testing.assert_allclose(found["dice"], [[[4 / 6, 2 / 3, 1.0]]])
    np.testing.assert_allclose(found["sensitivity"], [[[2 / 3, 1 / 2, 1.0]]])
    np.testing.assert_allclose(found["precision"], [[[2 / 3, 1.0, 1.0]]])


@given(PAIRS)
def test_overlap_keeps_its_identities(pair: np.ndarray) -> None:
    p, t = pair
    found = {name: v.item() for name, v in overlap_scores(one(p), one(t), ALL).items()}
    turned = {name: v.item() for name, v in overlap_scores(one(t), one(p), ALL).items()}
    assert found["dice"] == turned["dice"] == pytest.approx(2 * found["iou"] / (1 + found["iou"]))
    assert (found["sensitivity"], found["precision"]) == (
        turned["precision"],
        turned["sensitivity"],
    )
    assert (found["dice"] == 1) == (p == t).all()


# Surfaces.


def brute_surface(mask: np.ndarray) -> np.ndarray:
    """Places [k, axes] of a mask's pixels with a neighbour by a face that is not of the mask."""

    def outside(place: tuple[int, ...]) -> bool:
        within = all(0 <= i < n for i, n in zip(place, mask.shape, strict=True))
        return not (within and mask[place])

    steps = [sign * row for row in np.eye(mask.ndim, dtype=int) for sign in (1, -1)]
    places = np.argwhere(mask)
    on_it = [any(outside(tuple(place + step)) for step in steps) for place in places]
    return places[np.asarray(on_it, bool)]


def brute_surface_scores(p: np.ndarray, t: np.ndarray, spacing: np.ndarray) -> tuple[float, float]:
    far = cdist(brute_surface(p) * spacing, brute_surface(t) * spacing)
    there, back = far.min(1), far.min(0)
    mean = (there.sum() + back.sum()) / (len(there) + len(back))
    return max(np.percentile(there, 95), np.percentile(back, 95)), mean


@settings(deadline=None)
@given(PAIRS, st.data())
def test_surface_distances_equal_those_of_all_pairs(pair: np.ndarray, data: st.DataObject) -> None:
    p, t = pair
    spacing = [data.draw(st.sampled_from([0.5, 1.0, 3.0])) for _ in range(p.ndim)]
    found = surface_scores(p, t, spacing)
    if p.any() and t.any():
        expected = brute_surface_scores(p, t, np.asarray(spacing))
        assert (found["hd95"], found["assd"]) == pytest.approx(expected)
    assert surface_scores(t, p, spacing) == pytest.approx(found)
    diagonal = np.sqrt(sum((n * s) ** 2 for n, s in zip(p.shape, spacing, strict=True)))
    assert found["hd95"] <= diagonal * (1 + 1e-12)
    if p.any() == t.any():  # a wider image moves no surface
        assert surface_scores(np.pad(p, 2), np.pad(t, 2), spacing) == pytest.approx(found)


def test_hd95_is_the_larger_directed_percentile() -> None:
    """A line of 21 pixels against its first: 0, 1, ..., 20 one way, and 0 the other."""
    p, t = np.zeros((2, 3, 30), bool)
    p[1, :21] = t[1, 0] = True
    for pair in ((p, t), (t, p)):
        found = surface_scores(*pair, (5.0, 2.0))
        assert found == {"hd95": pytest.approx(2 * 19), "assd": pytest.approx(2 * 210 / 22)}


def test_the_inside_of_a_mask_is_no_surface() -> None:
    """A 5 x 5 square in the image's corner has 16 pixels of surface, and its middle is 2 away."""
    t, p = np.zeros((2, 8, 8), bool)
    t[:5, :5] = p[2, 2] = True
    found = surface_scores(p, t)
    corners, knights, ends = 4 * np.sqrt(8), 8 * np.sqrt(5), 4 * 2
    assert found["assd"] == pytest.approx((corners + knights + ends + 2) / 17)
    assert found["hd95"] == pytest.approx(np.sqrt(8))


def test_the_worst_distance_may_be_named() -> None:
    p, t = np.zeros((2, 4, 4), bool)
    p[0, 0] = True
    assert surface_scores(p, t, worst=374.0) == {"hd95": 374.0, "assd": 374.0}
    assert lesion_scores(p, t, worst=374.0)["lesion_hd95"] == 374.0


# Lesions.


def row(text: str) -> np.ndarray:
    """An image of one row: a pixel for each character, of the mask where it is not a dot."""
    return np.array([[character != "." for character in text]])


def test_lesions_by_hand() -> None:
    """One lesion half found, one missed, one found whole, and one false positive."""
    truth = row("XX.....X.....XXX.....")
    found = lesion_scores(row(".X...........XXX...XX"), truth, (1.0, 2.0))
    diagonal = np.hypot(1, 21 * 2)
    assert found["lesion_dice"] == pytest.approx((2 / 3 + 0 + 1 + 0) / 4)
    assert found["lesion_recall"] == pytest.approx(2 / 3)
    assert found["lesion_precision"] == pytest.approx(2 / 3)
    # The half-found lesion is 2 mm from one of its two pixels to what was found: 95% of that.
    assert found["lesion_hd95"] == pytest.approx((0.95 * 2 + 0 + 2 * diagonal) / 4)


@pytest.mark.parametrize(("dilation", "lesions"), [(0, 3), (1, 2), (2, 1), (3, 1)])
def test_dilation_merges_what_is_near(dilation: int, lesions: int) -> None:
    """Gaps of two pixels are closed by one dilation, gaps of four by two."""
    truth = row("X..X....X")
    found = lesion_scores(row("X........"), truth, dilation=dilation)
    assert found["lesion_recall"] == pytest.approx(1 / lesions)
    assert found["lesion_dice"] == pytest.approx({3: 1 / 3, 2: 2 / 3 / 2, 1: 2 / 4}[lesions])


def test_what_touches_the_dilation_alone_is_found_with_dice_0() -> None:
    found = lesion_scores(row(".X......"), row("X......."))
    assert (found["lesion_dice"], found["lesion_recall"], found["lesion_precision"]) == (0, 1, 1)
    assert found["lesion_hd95"] == 1.0
    assert lesion_scores(row("..X....."), row("X......."))["lesion_recall"] == 0


def test_a_component_belongs_to_every_lesion_it_touches() -> None:
    """Five pixels over two lesions of one: 2 * 1 / (1 + 5) for each."""
    found = lesion_scores(row("XXXXX"), row("X...X"))
    assert found["lesion_dice"] == pytest.approx(1 / 3)
    assert (found["lesion_recall"], found["lesion_precision"]) == (1, 1)


def test_small_lesions_are_left_out() -> None:
    """Lesions of 2 and 1 pixels of 3 mm²: the small one, though found, and what found it are not
    counted; nor is a small one that is missed."""
    truth, prediction = row("XX....X....X"), row("X.....X.....")
    found = lesion_scores(prediction, truth, (1.0, 3.0), larger_than=3.0)
    assert found["lesion_dice"] == pytest.approx(2 / 3)
    assert (found["lesion_recall"], found["lesion_precision"]) == (1, 1)
    nothing = lesion_scores(row("X"), row("X"), larger_than=1)
    assert list(nothing.values()) == [1, 0, 1, 1]
    false = lesion_scores(row("X...X"), row("X...."), larger_than=1)
    assert (false["lesion_dice"], false["lesion_recall"], false["lesion_precision"]) == (0, 0, 0)


def test_corners_connect_and_3d_dilation_has_18_neighbours() -> None:
    assert lesion_scores(np.eye(3), np.eye(3), dilation=0)["lesion_dice"] == 1
    false = np.diag([0, 0, 0, 1, 1])
    truth = np.diag([1, 0, 0, 0, 0])
    assert lesion_scores(truth + false, truth)["lesion_precision"] == 1 / 2
    near = np.zeros((2, 5, 5, 5), bool)
    near[0, 1, 1, 1] = near[1, 2, 2, 2] = True
    assert lesion_scores(near[0], near[1])["lesion_recall"] == 0  # by a corner alone
    assert lesion_scores(near[0], np.roll(near[1], -1, 0))["lesion_recall"] == 1  # by an edge


def brute_components(places: np.ndarray) -> list[np.ndarray]:
    """Which places [k, axes] hang together, by pixels that share a corner: [k] bool for each."""
    joined = cdist(places, places, "chebyshev") <= 1
    for _ in range(len(places).bit_length()):
        joined = joined @ joined
    return list(np.unique(joined, axis=0)) if len(places) else []


def brute_lesion_scores(
    p: np.ndarray, t: np.ndarray, dilation: int, larger_than: int
) -> tuple[float, float, float, float]:
    """The module's account of BraTS 2023, from distances of all pairs; 1 mm a pixel."""

    def reached(places: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Which places some other one reaches: a step is along two axes at most."""
        straight = cdist(places, others, "chebyshev") <= dilation
        return (straight & (cdist(places, others, "cityblock") <= 2 * dilation)).any(1)

    def drawn(places: np.ndarray) -> np.ndarray:
        mask = np.zeros(p.shape, bool)
        mask[tuple(places.T)] = True
        return mask

    truth, told = np.argwhere(t), np.argwhere(p)
    parts = [told[part] for part in brute_components(told)]
    room = np.argwhere(np.ones(np.add(p.shape, 2 * dilation))) - dilation  # beyond the borders too
    reach = room[reached(room, truth)]
    touched, dice, far, hits = np.zeros(len(parts), bool), [], [], 0
    for component in brute_components(reach):
        lesion = truth[(cdist(truth, reach[component]) == 0).any(1)]
        own = np.asarray([reached(part, lesion).any() for part in parts], bool)
        touched |= own
        if len(lesion) <= larger_than:
            continue
        hits += own.any()
        if not own.any():
            dice, far = [*dice, 0.0], [*far, 99.0]
            continue
        taken, true = drawn(np.concatenate([parts[i] for i in np.flatnonzero(own)])), drawn(lesion)
        dice.append(2 * (taken & true).sum() / (taken.sum() + true.sum()))
        far.append(brute_surface_scores(taken, true, np.ones(p.ndim))[0])
    false = (~touched).sum()
    total = len(dice) + false
    if not total:
        return 1.0, 0.0, 1.0, 1.0
    recall = hits / len(dice) if dice else 0.0
    precision = hits / (hits + false) if hits + false else 0.0
    return sum(dice) / total, (sum(far) + 99.0 * false) / total, recall, precision


@settings(deadline=None)
@given(SPARSE, st.integers(0, 2), st.integers(0, 2))
def test_lesions_equal_the_account_of_them(
    pair: np.ndarray, dilation: int, larger_than: int
) -> None:
    p, t = pair
    options = {"dilation": dilation, "larger_than": larger_than, "worst": 99.0}
    found = lesion_scores(p, t, **options)
    assert tuple(found.values()) == pytest.approx(brute_lesion_scores(p, t, dilation, larger_than))
    assert lesion_scores(np.pad(p, 3), np.pad(t, 3), **options) == pytest.approx(found)


# What is refused.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: overlap_scores(m, m, ALL), r"must both be \[E, n, \*spatial\]"),
        (lambda m: overlap_scores(one(m), one(m), np.ones((1, 2), bool)), r"mask must be \(1, 1\)"),
        (lambda m: overlap_scores(one(m * 0.5), one(m), ALL), "prediction must be bool, or 0 and"),
        (lambda m: overlap_scores(one(m), one(m * 2), ALL), "truth must be bool, or 0 and 1"),
        (lambda m: class_overlap_scores(one(m), one(m), ALL, []), "classes must name one"),
        (lambda m: class_overlap_scores(one(m * 1.0), one(m), ALL, [1]), "labels must be whole"),
        (lambda m: surface_scores(m * np.nan, m), "prediction must be bool, or 0 and 1"),
        (lambda m: surface_scores(m, m[:1]), r"got \(2, 3\) and \(1, 3\)"),
        (lambda m: surface_scores(m[0], m[0]), "must be of one 2-D or 3-D image"),
        (lambda m: surface_scores(m, m, (1.0,)), "spacing must be 2 numbers > 0"),
        (lambda m: surface_scores(m, m, (1.0, 0.0)), "spacing must be 2 numbers > 0"),
        (lambda m: surface_scores(m, m, worst=-1.0), "worst must be >= 0, got -1.0"),
        (lambda m: lesion_scores(m, m, dilation=-1), "dilation must be >= 0, got -1"),
        (lambda m: each_image(surface_scores, ALL, m, m), r"arrays must be \[E, n, ...\]"),
        (lambda m: each_image(surface_scores, ~ALL, one(m), one(m)), "there is no image"),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.ones((2, 3), int))
