"""Several modalities of a patient as one image: what belongs together, what is absent, what is not
known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from medmeta_jax import (
    config as configs,
    details,
    experiment as experiments,
    learners,
    running,
    tasks,
)
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.backbones.multimodal import multimodal
from medmeta_jax.data import brats, nifti, sources
from medmeta_jax.data.episodes import EpisodeSpec, sample, sample_indices
from medmeta_jax.data.modalities import require_one_label, stacked
from medmeta_jax.data.pool import fit_scaling, make_pool, pool_hash
from medmeta_jax.data.prepare import prepare
from medmeta_jax.data.reading import load_samples
from medmeta_jax.data.records import Record
from medmeta_jax.data.samples import DataError, Samples, join, select
from medmeta_jax.data.splits import make_split
from medmeta_jax.evaluation import evaluate
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Episode, Examples

TWO = ("t1", "flair")


def record(group: str | None, modality: str, place: str, level: int, **more: Any) -> Record:
    """An image of one level throughout."""
    image = np.full((4, 4, 1), level, np.uint8)
    given = {"name": f"{group} {modality} {place}", "label": "x", **more}
    return Record(image, group=group, modality=modality, place=place, **given)


def test_images_of_a_patient_and_place_are_one() -> None:
    """In the order of the names, whatever the order of the files; others are left out."""
    records = [
        record("p", "flair", "1", 9), record("p", "t1", "1", 1), record("p", "t1", "2", 2),
        record("q", "flair", "1", 8, label="y"), record("q", "ct", "1", 200, label="z"),
        record("r", "ct", "1", 3),
    ]  # fmt: skip
    found = stacked(records, TWO, "set")
    assert [one.name for one in found.records] == ["p[1]", "p[2]", "q[1]"]
    levels = np.stack([one.image[0, 0] for one in found.records])
    np.testing.assert_array_equal(levels, [[1, 9], [2, 0], [0, 8]])
    np.testing.assert_array_equal(found.present, [[True, True], [True, False], [False, True]])
    assert [one.label for one in found.records] == ["x", "x", "y"]
    assert {one.modality for one in found.records} == {None}


def test_the_mask_is_the_first_modalitys_and_colour_becomes_grey() -> None:
    masks = [np.full((4, 4), value, np.uint8) for value in (1, 2)]
    colour = np.tile(np.asarray([255, 0, 0], np.uint8), (4, 4, 1))
    records = [
        record("p", "flair", "", 3, mask=masks[1]),
        record("p", "t1", "", 0, mask=masks[0])._replace(image=colour),
    ]
    (one,) = stacked(records, TWO, "set").records
    assert one.name == "p"
    np.testing.assert_array_equal(one.mask, masks[0])
    np.testing.assert_array_equal(one.image[0, 0], [76, 3])


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([record(None, "t1", "1", 0)], "names no group"),
        ([record("p", "t1", "", 0), record("p", "t1", "", 1)], r"\(t1\); bring .* onto one grid"),
        ([record("p", "t1", "", 0)], "no image is of modality 'flair'; there are t1$"),
        ([record("p", "ct", "", 0)], "no image is of modality 't1'; there are ct$"),
        ([record("p", "t1", "", 0)._replace(modality=None)], "'t1'; there are none$"),
        (
            [
                record("p", "t1", "", 0),
                record("p", "flair", "", 0)._replace(image=np.zeros((4, 5, 1), np.uint8)),
            ],
            r"are of \(4, 4\) and \(4, 5\) pixels",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(records: list[Record], says: str) -> None:
    with pytest.raises(DataError, match=f"set: .*{says}"):
        stacked(records, TWO, "set")


def test_one_image_has_one_label() -> None:
    records = [record("p", "t1", "1", 0), record("p", "flair", "1", 0, label="y")]
    with pytest.raises(DataError, match=r"p t1 1 is labelled 'x' and p flair 1 'y'"):
        require_one_label(records, TWO, "set")
    require_one_label([*records[:1], record("p", "flair", "2", 0, label="y")], TWO, "set")
    require_one_label(records, ("t1",), "set")


def test_brats_with_a_contrast_absent(tmp_path: Path) -> None:
    """Prepared or not; each slice of a subject is an image of four channels."""
    raw = Path(brats.example(tmp_path / "raw"))
    lacking = sorted(raw.iterdir())[1]
    (lacking / f"{lacking.name}-t2w.nii.gz").unlink()
    options: dict[str, Any] = {"slices": 4, "missing": "leave"}
    listed = brats.catalogue(str(raw), **options)
    names = tuple(brats.CONTRASTS)
    apart = load_samples(listed, image_size=16)
    one = load_samples(listed, image_size=16, modalities=names)
    assert one.images.shape == (16, 16, 16, 4)
    assert one.present is not None
    assert one.groups is not None
    without = one.groups == lacking.name
    np.testing.assert_array_equal(one.present[without], [[True, True, False, True]] * 4)
    assert one.present[~without].all()
    assert not one.images[without][..., 2].any()
    assert apart.names is not None
    for channel, contrast in enumerate(names):
        own = [str(name).split("[")[1].startswith(f"{contrast} ") for name in apart.names]
        np.testing.assert_array_equal(
            one.images[one.present[:, channel]][..., channel], apart.images[own][..., 0]
        )
    prepare(str(raw), tmp_path / "made", options=options)
    again = sources.load(str(tmp_path / "made"), image_size=16, modalities=names)
    for part in ("images", "present", "labels", "groups", "names"):
        np.testing.assert_array_equal(getattr(again, part), getattr(one, part))


def test_nifti_needs_one_grid(tmp_path: Path) -> None:
    """Slices of one number are of one place where the files are on one grid, and not before."""
    rng = np.random.default_rng(0)
    for number, spacing in ((1, 1.0), (2, 1.0)):
        for modality, step in (("T1w", spacing), ("FLAIR", 2.0)):
            values = rng.integers(1, 900, (8, 8, 8)).astype(np.int16)
            folder = tmp_path / f"sub-{number:02}" / "anat"
            folder.mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(values, np.diag([step, step, step, 1.0]))
            nib.save(image, folder / f"sub-{number:02}_{modality}.nii.gz")
    how: dict[str, Any] = {"image_size": 8, "modalities": ("t1w", "flair"), "masks": False}
    for records, places in (
        (nifti.catalogue(str(tmp_path), slices=3), {""}),
        (nifti.catalogue(str(tmp_path), slices=3, onto_modality="T1w"), None),
    ):
        found = [one for unit in records.units for one in unit.read()]
        assert places is None or {one.place for one in found} == places
        assert len({one.place for one in found}) == (1 if places else 3)
    with pytest.raises(DataError, match=r"bring its modalities onto one grid"):
        load_samples(nifti.catalogue(str(tmp_path), slices=3, label="folder"), **how)
    one = nifti.catalogue(str(tmp_path), slices=3, label="folder", onto_modality="T1w")
    assert load_samples(one, **how).images.shape == (6, 8, 8, 2)


def made(seed: int = 0, images: int = 48) -> Samples:
    """Images of two modalities, of which some lack one."""
    rng = np.random.default_rng(seed)
    present = np.ones((images, 2), bool)
    present[::3, 0], present[1::3, 1] = False, False
    pixels = rng.integers(1, 256, (images, 4, 4, 2), np.uint8) * present[:, None, None]
    names = tuple("abcdef")
    return Samples(
        pixels.astype(np.uint8), np.arange(images, dtype=np.int32) % 6, names,
        about="two", present=present,
    )  # fmt: skip


def test_an_episode_has_nan_where_a_modality_is_absent() -> None:
    samples = made()
    assert samples.present is not None
    scaling = fit_scaling(samples.images, samples.present)
    for channel in range(2):
        own = samples.images[samples.present[:, channel]][..., channel] / 255
        assert scaling.shift[channel] == pytest.approx(own.mean(), rel=1e-5)
        assert scaling.scale[channel] == pytest.approx(1 / own.std(), rel=1e-5)
    pool = make_pool(samples, samples.class_names, scaling)
    spec = EpisodeSpec(ways=3, shots=2, queries=2)
    key = jax.random.key(1)
    episode, places = sample(key, pool, spec), sample_indices(key, pool, spec)
    assert pool.present is not None
    absent = ~np.asarray(pool.present)[np.asarray(places.query)]
    assert absent.any()
    nan = np.isnan(np.asarray(episode.query.x))
    np.testing.assert_array_equal(nan, np.broadcast_to(absent[:, None, None], nan.shape))
    there = np.asarray(pool.x)[np.asarray(places.query)] / 255
    expected = (there - scaling.shift) * scaling.scale
    np.testing.assert_allclose(np.asarray(episode.query.x)[~nan], expected[~nan], rtol=1e-4)


def test_padding_is_zeros_also_in_what_is_absent() -> None:
    """A slot of no image reads the pool's last one, which may lack a modality."""
    samples = made(images=7)._replace(present=np.asarray([[True, True]] * 6 + [[True, False]]))
    pool = make_pool(samples, samples.class_names, fit_scaling(samples.images, samples.present))
    episode = sample(jax.random.key(0), pool, EpisodeSpec(ways=6, shots=1, queries=2))
    padded = ~np.asarray(episode.query.mask)
    assert padded.any()
    assert not np.asarray(episode.query.x)[padded].any()


def test_what_is_there_is_part_of_a_pools_identity_and_of_a_joined_set() -> None:
    samples = made()
    assert samples.present is not None
    other = samples._replace(present=np.ones_like(samples.present))
    hashes = [
        pool_hash(make_pool(one, one.class_names, fit_scaling(one.images, one.present)))
        for one in (samples, other, samples._replace(present=None))
    ]
    assert len(set(hashes)) == 3
    both = join({"a": samples, "b": made(1)})
    assert both.present is not None
    np.testing.assert_array_equal(both.present, np.concatenate([samples.present] * 2))
    keep = np.arange(96) % 2 == 0
    np.testing.assert_array_equal(select(both, keep).present, both.present[keep])
    split = make_split(samples)
    for pool in split.pools.values():
        dark = ~np.asarray(pool.x).any((1, 2))
        np.testing.assert_array_equal(pool.present, ~dark)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"modalities": ("t1", "t1")}, "modalities: must differ"),
        ({"modalities": TWO, "stream": "always"}, "stream: images of several"),
        ({"modalities": TWO, "standardise": True}, "standardise: is of images of one"),
        ({"augment": ("drop_modalities",)}, "augment: drop_modalities .* name modalities"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        configs.check(dataclasses.replace(TrainConfig(), **changes))


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Twelve subjects, prepared, of which the last one lacks a contrast."""
    root = tmp_path_factory.mktemp("modalities")
    first = Path(brats.example(root / "one")) / "BraTS-GLI-00000-000"
    for number in range(12):
        name = f"BraTS-GLI-{number:05d}-000"
        for path in first.iterdir():
            volume = nib.load(path)
            values = np.asarray(volume.dataobj)
            if not path.name.endswith("seg.nii.gz"):
                values = (values + 37 * number) % 900 + 1
            target = root / "raw" / name / path.name.replace(first.name, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, volume.affine), target)
    whole = TrainConfig(
        data=str(root / "raw"), image_size=16, modalities=tuple(brats.CONTRASTS),
        task="segmentation",
    )  # fmt: skip
    assert tasks.load_split(whole).pools["train"].x.shape[1:] == (16, 16, 4)
    assert not tasks.streamed(whole, 0)
    (root / "raw" / name / f"{name}-t2w.nii.gz").unlink()
    prepare(str(root / "raw"), root / "made", options={"missing": "leave"})
    return dataclasses.replace(whole, data=str(root / "made"))


def test_a_backbone_without_stems_needs_all_modalities(subjects: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"backbone: conv4 does not .*; take multimodal"):
        tasks.load_split(subjects)
    there = tasks.load_split(dataclasses.replace(subjects, backbone="multimodal"))
    lacking = [np.asarray(pool.present) for pool in there.pools.values()]
    assert (~np.concatenate(lacking)).sum(0).tolist() == [0, 0, 12, 0]  # those that show a tumour


def test_what_is_dropped_is_dropped_of_a_whole_episode(subjects: TrainConfig) -> None:
    """Whichever side is augmented otherwise; seen by a learner that gives back what it is given."""
    config = dataclasses.replace(
        subjects, augment=("noise", "drop_modalities"), augment_on="support", backbone="multimodal"
    )
    split = tasks.load_split(config)
    seen = protonet(multimodal(width=2, depth=1), outputs=2)._replace(
        loss=lambda params, episode, key, step: (episode, None)
    )
    ones = jnp.ones((3, 6, 6, 4))
    side = Examples(ones, jnp.zeros(3, jnp.int32), jnp.ones(3, bool))
    trained = learners.with_augmentation(config, split, seen)
    key, step = jax.random.key(1), jnp.zeros((), jnp.int32)
    support, query = trained.loss({}, Episode(side, side, jnp.arange(2)), key, step)[0][:2]
    absent = np.isnan(np.concatenate([support.x, query.x])).any((1, 2))
    assert absent.any()
    np.testing.assert_array_equal(absent, np.broadcast_to(absent[:1], absent.shape))
    there = ~absent[0]
    assert (support.x != ones)[..., there].any()
    np.testing.assert_array_equal(query.x[..., there], ones[..., there])


@pytest.mark.slow
def test_from_end_to_end(subjects: TrainConfig) -> None:
    """Trained with modalities dropped, judged, and shown."""
    made = experiments.build(
        dataclasses.replace(
            subjects, backbone="multimodal", net={"trunk": "unet", "width": 4, "depth": 2},
            algorithm="panet", augment=("flip", "drop_modalities"), queries=2, val_episodes=4,
            test_episodes=4, meta_batch=2, meta_steps=2, dispatch=2, validate_every=2,
        )
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with an int count
        step = running.compile_step(made, made.training).step
        params = running.fit_quietly(made, step).best_params
    scores = evaluate(made.learner, params, made.test)
    assert np.isfinite(scores.predictions.logits).all()
    assert len(details.shown(made, scores.predictions)) == 8
