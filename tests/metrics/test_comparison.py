"""Paired tests and Holm's correction against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from medmeta_jax.metrics.comparison import holm, paired_p


def test_paired_p_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(size=40) + 0.3
    assert paired_p(a, b) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    assert paired_p(a, a) == 1.0
    assert paired_p(a + 1, a) < 1e-10
    with pytest.raises(ValueError, match="2 or more"):
        paired_p(a[:1], b[:1])


def test_holm_by_hand() -> None:
    """Sorted 0.001, 0.01, 0.02, 0.2 times 4, 3, 2, 1, never falling, never over 1."""
    assert holm([0.02, 0.001, 0.2, 0.01]) == pytest.approx([0.04, 0.004, 0.2, 0.03])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_rate_of_false_finds() -> None:
    """Of families of ten true nulls, one in twenty has any p under 0.05."""
    rng = np.random.default_rng(0)
    hits = [min(holm(rng.uniform(size=10).tolist())) < 0.05 for _ in range(2000)]
    assert 0.03 < np.mean(hits) < 0.07
