"""FROC, CPM, average precision and intervals: drawn by hand, and threshold by threshold."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from medmeta_jax.metrics.detection import Matched, match
from medmeta_jax.metrics.froc import (
    RATES,
    Curve,
    at_threshold,
    average_precision,
    cpm,
    froc,
    over_scans,
    pool_scans,
    sensitivity_at,
)

Scan = tuple[np.ndarray, np.ndarray]  # scores [k], and the overlap [k, L] of candidates


def scan(candidates: str, lesions: str) -> Scan:
    """From "0.9A 0.8-": a score and the lesion that it hits, or - where it hits none."""
    parts = candidates.split()
    hits = [[float(part[-1] == lesion) for lesion in lesions] for part in parts]
    scores = np.asarray([float(part[:-1]) for part in parts])
    return scores, np.asarray(hits).reshape(len(parts), len(lesions))


# Four scans with four lesions: two of them in one scan, where A is hit twice; one scan has no
# lesion, and one no candidate.
DRAWN = [
    scan("0.9A 0.8- 0.7A 0.6B", "AB"),
    scan("0.8C 0.5- 0.5-", "C"),
    scan("0.85-", ""),
    scan("", "D"),
]


def matched(scans: list[Scan], **rule: str) -> list[Matched]:
    return [match(scores, overlap, **rule) for scores, overlap in scans]


def test_the_drawn_curve() -> None:
    curve = froc(pool_scans(matched(DRAWN)))
    np.testing.assert_array_equal(curve.thresholds, [np.inf, 0.9, 0.85, 0.8, 0.6, 0.5])
    np.testing.assert_array_equal(curve.sensitivity, [0, 1 / 4, 1 / 4, 2 / 4, 3 / 4, 3 / 4])
    np.testing.assert_array_equal(curve.false_positives, [0, 0, 1 / 4, 2 / 4, 2 / 4, 4 / 4])
    # On the way up at 3/8; the highest where the curve rises at 1/2; held beyond the end.
    rates = [0, 0.125, 0.25, 0.375, 0.5, 1, 2]
    np.testing.assert_allclose(
        sensitivity_at(curve, rates), [0.25, 0.25, 0.25, 0.375, 0.75, 0.75, 0.75]
    )
    assert cpm(curve) == pytest.approx((0.25 + 0.25 + 5 * 0.75) / 7)


def test_scores_at_a_threshold_of_the_drawn_scans() -> None:
    findings = pool_scans(matched(DRAWN))
    assert at_threshold(findings, 0.8) == {"precision": 0.5, "recall": 0.5, "false_positives": 0.5}
    assert at_threshold(findings, 0.81)["recall"] == 0.25
    last = at_threshold(findings, 0.0)
    assert (last["precision"], last["recall"]) == (3 / 7, 3 / 4)
    none = at_threshold(findings, 1.0)
    assert np.isnan(none["precision"])
    assert (none["recall"], none["false_positives"]) == (0, 0)


def test_average_precision_of_the_drawn_scans() -> None:
    """Precision 1, 1/2, 2/4, 3/5, 3/7 at recall 1/4, 1/4, 1/2, 3/4, 3/4; if a second hit is false,
    3/6 and 3/8 at the end."""
    assert average_precision(pool_scans(matched(DRAWN))) == pytest.approx((1 + 0.6 + 0.6) / 4)
    by_voc = pool_scans(matched(DRAWN, again="false"))
    assert average_precision(by_voc) == pytest.approx((1 + 0.5 + 0.5) / 4)


def test_the_line_from_the_origin() -> None:
    """The first candidates, of one score, bring 2 false positives: half of them, half of it."""
    curve = froc(pool_scans(matched([scan("0.9A 0.9- 0.9-", "A")])))
    np.testing.assert_array_equal(curve.sensitivity, [0, 1])
    np.testing.assert_allclose(sensitivity_at(curve, [0, 0.5, 1, 2, 4]), [0, 0.25, 0.5, 1, 1])
    assert cpm(curve) == pytest.approx((1 / 16 + 1 / 8 + 1 / 4 + 1 / 2 + 3) / 7)


def test_cpm_is_of_the_seven_rates() -> None:
    """On a straight curve to 1 at 16 false positives: the mean of the rates, by 16."""
    curve = Curve(np.array([np.inf, 0.5]), np.array([0.0, 1.0]), np.array([0.0, 16.0]))
    assert cpm(curve) == pytest.approx((1 / 8 + 1 / 4 + 1 / 2 + 1 + 2 + 4 + 8) / 7 / 16)


def test_without_lesions_or_candidates() -> None:
    without = pool_scans(matched([scan("0.9-", ""), scan("0.9-", "")]))
    assert np.isnan(froc(without).sensitivity).all()
    np.testing.assert_array_equal(froc(without).false_positives, [0, 1])
    assert np.isnan([cpm(froc(without)), average_precision(without)]).all()
    assert np.isnan(at_threshold(without, 0.5)["recall"])
    assert at_threshold(without, 0.5)["precision"] == 0
    silent = pool_scans(matched([scan("", "AB")]))
    assert (cpm(froc(silent)), average_precision(silent)) == (0, 0)


SCANS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["0.2", "0.4", "0.6", "0.8"]), max_size=6).flatmap(
            lambda scores: st.tuples(
                *[st.sampled_from([s + hit for hit in "AAB--"]) for s in scores]
            ).map(" ".join)
        ),
        st.sampled_from(["AB", "A", ""]),
    ).map(lambda pair: scan(*pair)),
    min_size=1,
    max_size=6,
)


def brute_point(scans: list[Scan], threshold: float) -> tuple[int, int]:
    """Lesions found and false positives among candidates of that score or more, by counting."""
    true = false = 0
    for scores, overlap in scans:
        taken = overlap[scores >= threshold] > 0
        true += sum(column.any() for column in taken.T)
        false += sum(not row.any() for row in taken)
    return true, false


@given(SCANS)
def test_the_curve_equals_counting_at_each_threshold(scans: list[Scan]) -> None:
    curve = froc(pool_scans(matched(scans)))
    lesions = sum(overlap.shape[1] for _, overlap in scans)
    scores = {float(s) for values, overlap in scans for s in values}
    points = {t: brute_point(scans, t) for t in scores}
    given_at = dict(zip(curve.thresholds, curve.false_positives, strict=True))
    for place, threshold in enumerate(curve.thresholds[1:], 1):
        true, false = points[threshold]
        assert curve.false_positives[place] == false / len(scans)
        if lesions:
            assert curve.sensitivity[place] == true / lesions
    for threshold in scores - set(given_at):  # all its candidates hit again: no new point
        true, false = points[threshold]
        higher = [t for t in given_at if t > threshold]
        assert false == len(scans) * given_at[min(higher)]
    if lesions:
        assert (np.diff(curve.sensitivity) >= 0).all()
        inside = [r for r in RATES if r not in curve.false_positives]
        np.testing.assert_allclose(
            sensitivity_at(curve, inside),
            np.interp(inside, curve.false_positives, curve.sensitivity),
        )


@given(SCANS)
def test_average_precision_equals_its_definition(scans: list[Scan]) -> None:
    """The mean over lesions, in the order found, of the best precision at that recall or more."""
    lesions = sum(overlap.shape[1] for _, overlap in scans)
    found = pool_scans(matched(scans, again="false"))
    if not lesions:
        assert np.isnan(average_precision(found))
        return
    points = []
    for threshold in {float(s) for scores, _ in scans for s in scores}:
        true = brute_point(scans, threshold)[0]
        points.append((true, true / sum((scores >= threshold).sum() for scores, _ in scans)))
    best = [max((p for true, p in points if true >= n), default=0) for n in range(1, lesions + 1)]
    assert average_precision(found) == pytest.approx(sum(best) / lesions)


def test_voc_average_precision_is_the_area_under_raised_precision() -> None:
    """Hits at ranks 1, 3 and 4 of 5, of four objects: precision 1, then 3/4 for both."""
    findings = pool_scans(matched([scan("0.9A 0.8- 0.7B 0.6C 0.5-", "ABCD")], again="false"))
    assert average_precision(findings) == pytest.approx((1 + 3 / 4 + 3 / 4) / 4)


@given(SCANS, st.integers(1, 9), st.integers(0, 2**31))
def test_drawing_scans_is_pooling_them_so_often(scans: list[Scan], n: int, seed: int) -> None:
    each = matched(scans)
    drawn = np.random.default_rng(seed).integers(len(each), size=n)
    times = np.bincount(drawn, minlength=len(each))
    weighted = pool_scans(each)._replace(times=times)
    plain = pool_scans([each[i] for i in drawn])
    np.testing.assert_allclose(cpm(froc(weighted)), cpm(froc(plain)))
    np.testing.assert_allclose(average_precision(weighted), average_precision(plain))
    np.testing.assert_equal(at_threshold(weighted, 0.4), at_threshold(plain, 0.4))


def recall(findings) -> float:
    return at_threshold(findings, 0.5)["recall"]


def test_the_interval_is_the_binomials() -> None:
    """80 of 100 scans' lesions found: 0.8 -+ 1.96 * sqrt(0.8 * 0.2 / 100)."""
    scans = matched([scan("0.9A" if i % 5 else "0.9-", "A") for i in range(100)])
    low, high = over_scans(recall, pool_scans(scans), resamples=4000)
    assert (low, high) == (pytest.approx(0.8 - 0.0784, abs=0.015), pytest.approx(0.878, abs=0.015))
    assert over_scans(recall, pool_scans(scans), resamples=4000) == (low, high)
    assert over_scans(recall, pool_scans(scans), resamples=50, seed=1) != over_scans(
        recall, pool_scans(scans), resamples=50, seed=2
    )


def test_scans_of_one_patient_are_drawn_together() -> None:
    """Of two patients one is always found and the other never: recall is 0, 1 or their share."""
    scans = pool_scans(matched([scan("0.9A", "A")] * 3 + [scan("0.9-", "A")]))
    patients = np.array(["b", "b", "b", "a"])
    seen = set()

    def watched(findings) -> float:
        seen.add(tuple(findings.times))
        return recall(findings)

    assert over_scans(watched, scans, groups=patients, resamples=200) == (0, 1)
    assert seen == {(1, 1, 1, 1), (2, 2, 2, 0), (0, 0, 0, 2)}


def test_resamples_that_tell_nothing_are_left_out() -> None:
    one_lesion = pool_scans(matched([scan("0.9A", "A"), scan("", "")]))
    assert over_scans(recall, one_lesion, resamples=100) == (1, 1)
    none = pool_scans(matched([scan("0.9-", "")]))
    assert np.isnan(over_scans(recall, none, resamples=10)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda found: pool_scans([]), "there must be one scan or more"),
        (lambda found: sensitivity_at(froc(found), [-1.0]), "rates must be >= 0"),
        (lambda found: over_scans(recall, found, resamples=0), "resamples must be >= 1, got 0"),
        (lambda found: over_scans(recall, found, groups=np.zeros(3)), "one for each of 4 scans"),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(pool_scans(matched(DRAWN)))
