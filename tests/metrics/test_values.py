"""Scores of values: by hand, and what a lost prediction costs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from medmeta_jax.metrics.values import LOST, pooled_value_scores, value_scores

RNG = np.random.default_rng(0)
Y = RNG.normal(size=(3, 7))
LOGITS = (Y + RNG.normal(size=Y.shape) / 2)[..., None]
MASK = np.arange(7) < np.asarray([[7], [4], [2]])


def test_each_episode_by_itself_and_padding_apart() -> None:
    spoiled = np.where(MASK, Y, np.nan)
    found = value_scores(np.where(MASK[..., None], LOGITS, 1e9), np.nan_to_num(spoiled), MASK)
    for e in range(3):
        off = (LOGITS[e, :, 0] - Y[e])[MASK[e]]
        assert found["r2"][e] == pytest.approx(1 - (off**2).mean())
        assert found["error"][e] == pytest.approx(np.abs(off).mean())
        r = pearsonr(LOGITS[e, MASK[e], 0], Y[e, MASK[e]])[0]
        assert found["correlation"][e] == pytest.approx(r)


def test_pooled_by_hand() -> None:
    found = pooled_value_scores(LOGITS, Y, MASK)
    off = (LOGITS[..., 0] - Y)[MASK]
    assert found["rmse"] == pytest.approx(np.sqrt((off**2).mean()))
    assert found["gain"] == pytest.approx(1 - (off**2).sum() / (Y[MASK] ** 2).sum())
    assert pooled_value_scores(np.zeros_like(LOGITS), Y, MASK)["gain"] == 0


def test_what_is_not_finite_is_far_off_and_no_correlation_without_spread() -> None:
    logits = np.full((1, 2, 1), np.nan)
    found = value_scores(logits, np.asarray([[0.0, 1.0]]), np.ones((1, 2), bool))
    assert found["error"][0] == LOST
    assert found["r2"][0] == 1 - LOST**2
    flat = value_scores(np.zeros((1, 2, 1)), np.asarray([[0.0, 1.0]]), np.ones((1, 2), bool))
    assert flat["correlation"][0] == 0


def test_an_episode_without_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="no query images"):
        value_scores(LOGITS, Y, MASK & (np.arange(3) < 2)[:, None])
