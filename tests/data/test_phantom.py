"""The phantom as a source of data: classes, patients, masks, modalities, options."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from medmeta_jax import parsing
from medmeta_jax.data import phantom, sources
from medmeta_jax.data.episodes import EpisodeSpec
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.phantom_lesions import TYPES
from medmeta_jax.data.reading import load_samples
from medmeta_jax.data.records import Record
from medmeta_jax.data.samples import DataError, Samples
from medmeta_jax.data.splits import SIDES, make_split
from medmeta_jax.data.structures import structures
from medmeta_jax.options import DataPrepare

SMALL = {"size": 32}  # one executable for all that differs in no more than numbers


def records(**options: object) -> list[Record]:
    listed = sources.catalogue("phantom", **{**SMALL, **options})
    return [record for unit in listed.units for record in unit.read()]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return load_samples(phantom.catalogue(**SMALL), image_size=32, masks=True)


def test_what_it_holds(samples: Samples) -> None:
    assert samples.images.shape == (192, 32, 32, 1)
    assert samples.class_names == tuple(TYPES)
    np.testing.assert_array_equal(np.bincount(samples.labels), 12)
    assert len(set(samples.groups)) == len(set(samples.names)) == 192
    assert set(samples.domains) == {"flair"}
    assert len({image.tobytes() for image in samples.images}) == 192
    assert samples.images.std() > 25
    assert "simulated lesions on real average anatomy" in samples.about


def test_a_mask_is_of_its_type(samples: Samples) -> None:
    for mask, label in zip(samples.masks, samples.labels, strict=True):
        assert set(np.unique(mask)) == {0, label + 1}
    shares = (samples.masks > 0).mean((1, 2))
    assert 0.003 < shares.min() < shares.max() < 0.25


def test_every_side_has_every_structure_of_other_patients(samples: Samples) -> None:
    found = structures(samples)
    split = make_split(found)
    spec = EpisodeSpec(ways=1, shots=1, queries=2, disjoint="group")
    names = {"any", *(str(number + 1) for number in range(len(TYPES)))}
    for side in SIDES:
        assert set(split.classes[side]) == names
        check_pool(split.pools[side], spec, split.classes[side], side)
    assert split.shared_groups == 0


def test_types_are_held_out_by_class(samples: Samples) -> None:
    split = make_split(samples._replace(masks=None))
    held = [set(split.classes[side]) for side in SIDES]
    assert [len(own) for own in held] == [6, 5, 5]
    assert set.union(*held) == set(TYPES)


def test_a_patient_is_the_same_however_many_there_are(samples: Samples) -> None:
    few = records(patients=50)
    assert len(few) == 50
    for n in (0, 47, 48, 49):
        np.testing.assert_array_equal(few[n].image, samples.images[n])
        np.testing.assert_array_equal(few[n].mask, samples.masks[n])
        assert few[n].name == samples.names[n]


def test_what_options_change(samples: Samples) -> None:
    """Contrast alone with d', the noise alone with another scan, all with the seed."""
    fainter = records(patients=48, d_prime=10.0)
    other = records(patients=48, seed=1)
    far = distance_transform_edt(samples.masks[:48] == 0, sampling=(1e3, 1, 1)) > 8
    change = np.stack([a.image for a in fainter]).astype(int) - samples.images[:48]
    assert not change[far].any()
    strong = np.abs(change[..., 0])[samples.masks[:48] > 0].mean()
    assert strong > 20
    for a, b, before in zip(fainter, other, samples.images[:48], strict=True):
        assert (b.image != before).mean() > 0.5
        assert a.label == b.label
    noisier = records(patients=48, noise=3.0)
    spreads = [np.stack([r.image for r in some])[:, :3, :3].std() for some in (fainter, noisier)]
    assert spreads[1] == pytest.approx(3 * spreads[0], rel=0.1)
    own = records(patients=48, d_prime=0.0)
    assert len({int(np.abs(a.image.astype(int) - b.image).max()) for a, b in zip(own, fainter)}) > 5  # noqa: B905


def test_modalities_scans_and_patients_without_a_lesion() -> None:
    options = {"modality": "t1, ct+pet+t2", "scans": 2, "no_lesion": True, "types": 3, "size": 16}
    found = records(patients=8, **options)
    assert [record.name for record in found[:4]] == [
        "patient-000000/t1/0", "patient-000000/t1/1",
        "patient-000000/ct+pet+t2/0", "patient-000000/ct+pet+t2/1",
    ]  # fmt: skip
    assert [record.image.shape for record in found[1:3]] == [(16, 16, 1), (16, 16, 3)]
    assert {record.domain for record in found} == {"t1", "ct+pet+t2"}
    assert phantom.catalogue(**options).class_names == (*list(TYPES)[:3], "no_lesion")
    for n in range(8):
        one = found[4 * n : 4 * n + 4]
        assert len({record.group for record in one}) == len({record.label for record in one}) == 1
        assert len({record.mask.tobytes() for record in one}) == 1
        assert one[0].mask.any() == (one[0].label != "no_lesion")
        noise = one[0].image.astype(int) - one[1].image
        assert noise.any()
        assert np.abs(noise).max() < 70
    assert {record.label for record in found} == {*list(TYPES)[:3], "no_lesion"}
    for one, stronger in zip(found, records(patients=8, d_prime=80.0, **options), strict=True):
        assert (one.image == stronger.image).all() == (one.label == "no_lesion")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": 0}, "be from 1 to"),
        ({"size": 7}, "be from 8 to 512, got 7"),
        ({"types": 17}, "be from 1 to 16, got 17"),
        ({"d_prime": -1.0}, "be from 0 to"),
        ({"noise": float("nan")}, "be from 0.001"),
        ({"scans": 0}, "be from 1 to 100"),
        ({"seed": -1}, "be from 0 to"),
        ({"modality": "mri"}, "be one of t1, t2, flair, ct, pet"),
        ({"modality": "t1+t2"}, "three of them joined"),
        ({"modality": "t1+t1+t2"}, "three of them joined"),
        ({"modality": "t1,t1"}, "name each image once"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=rf"^the option {next(iter(options))} must .*{message}"):
        sources.catalogue("phantom", **options)


def test_options_are_flags_of_data_prepare() -> None:
    arguments = ["phantom", "--out", "x", "--read.patients", "7", "--read.d-prime", "5"]
    read = parsing.parse_reading(
        DataPrepare,
        "data prepare",
        [*arguments, "--read.modality", "ct", "--read.no-lesion"],
        "phantom",
    )[1]
    assert (read["patients"], read["d_prime"], read["modality"]) == (7, 5.0, "ct")
    assert read["no_lesion"] is True
    assert read.keys() == {
        "patients", "size", "modality", "types", "d_prime", "noise", "scans", "no_lesion", "seed",
    }  # fmt: skip


def test_modalities_of_a_patient_are_one_image() -> None:
    """The same slice in each, and the images that each would be by itself."""
    listed = phantom.catalogue(**SMALL, patients=12, modality="t1,flair")
    both = load_samples(listed, image_size=32, modalities=("t1", "flair"))
    assert both.images.shape == (12, 32, 32, 2)
    assert both.present is not None
    assert both.present.all()
    apart = load_samples(listed, image_size=32)
    assert apart.domains is not None
    for channel, name in enumerate(("t1", "flair")):
        own = apart.images[apart.domains == name][..., 0]
        np.testing.assert_array_equal(both.images[..., channel], own)
