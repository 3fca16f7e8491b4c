"""The benchmarks with a planted effect: their bounds and their arithmetic, by other means."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import drug_response, personal_effect
from medmeta_jax.data import sources


def test_one_model_is_right_as_often_as_signs_agree() -> None:
    rng = np.random.default_rng(0)
    z, o = rng.normal(size=(2, 400_000))
    for spread in (0.3, 1.0, 2.0):
        agree = ((z > 0) == (z + spread * o > 0)).mean()
        assert personal_effect.one_model(spread) == pytest.approx(agree, abs=3e-3)


def test_the_ideal_reader_stands_between_and_gains_from_shots() -> None:
    by_shots = [personal_effect.ideal_reader(1.0, k, patients=400) for k in (1, 5, 40)]
    assert personal_effect.one_model(1.0) < by_shots[0] < by_shots[1] < by_shots[2] <= 1
    assert by_shots[2] > 0.97
    assert personal_effect.ideal_reader(0.0, 1) == 1


def test_of_one_scan_of_either_label_the_ideal_reader_takes_about_the_middle() -> None:
    """With a flat prior and one pair the posterior is between the two, and so is the threshold."""
    wide = personal_effect.ideal_reader(50.0, 1, patients=1500)
    rng = np.random.default_rng(1)
    pair = np.abs(rng.normal(size=(2, 200_000)))
    asked = rng.normal(size=200_000)
    middle = (((pair[0] - pair[1]) / 2 < asked) == (asked > 0)).mean()
    assert wide == pytest.approx(middle, abs=0.03)


def test_rendered_scans_differ_by_what_was_planted(tmp_path: Path) -> None:
    """The lesion of a patient is in one place, and brighter where the label says so."""
    made = personal_effect.render(3, 0.0, 24, 0)
    np.savez(tmp_path / "p.npz", **made)
    samples = sources.load(str(tmp_path / "p.npz"), image_size=24)
    assert samples.class_names == ("below", "above")
    for patient in range(3):
        own = made["groups"] == f"patient-{patient:04d}"
        images, labels = made["images"][own].astype(float), made["labels"][own]
        gap = images[labels == 1].mean(0) - images[labels == 0].mean(0)
        assert gap.max() > 30
        assert (np.abs(gap) > 0.5 * gap.max()).mean() < 0.1


def test_planted_effects_are_found_by_who_knows_the_terms() -> None:
    rng = np.random.default_rng(0)
    area, gene = rng.normal(size=(2, 4000))
    effects, response = drug_response.responses(area, gene, 5, rng)
    x = drug_response.terms(area, gene)
    np.testing.assert_allclose(response.std(0), 1, atol=0.08)
    for drug in range(5):
        found = drug_response.interaction(x, response[:, drug])
        assert found == pytest.approx(effects[drug, 2], abs=0.03)
        told = drug_response.ridge(x[:2000], response[:2000, drug], x[2000:])
        left = ((told - response[2000:, drug]) ** 2).mean()
        assert math.sqrt(left) == pytest.approx(drug_response.NOISE, abs=0.02)
