"""The phantom's patients, lesions and scans, and its ideal observer, measured over keys."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from medmeta_jax.data import phantom_anatomy as anatomies
from medmeta_jax.data.phantom_anatomy import FIELD_MM, FINER, TISSUES, Patient, patient
from medmeta_jax.data.phantom_lesions import (
    MODALITIES,
    PLACES,
    TYPES,
    Lesion,
    LesionType,
    lesion,
    pooled,
    stacked,
)
from medmeta_jax.data.phantom_scan import (
    BLUR_MM,
    Scene,
    contrast_for,
    detectability,
    of_modalities,
    render,
    scan,
    scene,
)
from medmeta_jax.data.samples import DataError

SIZE, EACH = 32, 10
NAMES = tuple(TYPES)


class Drawn(NamedTuple):
    """Some lesions of each type, in a patient each: type by type."""

    patient: Patient
    lesion: Lesion
    scene: Scene

    def of(self, name: str) -> Drawn:
        at = NAMES.index(name) * EACH
        return jax.tree.map(lambda leaf: leaf[at : at + EACH], self)


@pytest.fixture(scope="module")
def anatomy() -> jax.Array:
    return jnp.asarray(anatomies.read_anatomy())


@pytest.fixture(scope="module")
def drawn(anatomy: jax.Array) -> Drawn:
    """The patient and lesion of each scene are drawn by the same keys as the scene does."""
    kinds = stacked(NAMES)

    def one(number: jax.Array, key: jax.Array) -> Drawn:
        kind = jax.tree.map(lambda field: field[number], kinds)
        seen = scene(anatomy, key, key, kind, modalities=MODALITIES, size=SIZE)
        person = patient(anatomy, jax.random.split(key)[0], size=SIZE)
        return Drawn(person, lesion(person, key, kind), seen)

    numbers = jnp.repeat(jnp.arange(len(NAMES)), EACH)
    keys = jax.random.split(jax.random.key(0), len(numbers))
    each = jax.jit(lambda xs: jax.lax.map(lambda x: one(*x), xs))((numbers, keys))
    return jax.tree.map(np.asarray, each)


def test_patients_have_shares_and_differ(drawn: Drawn) -> None:
    shares = drawn.patient.shares
    assert shares.shape == (160, FINER * SIZE, FINER * SIZE, len(TISSUES))
    assert shares.min() >= 0
    assert shares.sum(-1).max() < 1 + 1e-5
    assert (shares[..., :3].sum((1, 2, 3)) > 0.2 * shares[0, ..., 0].size).all()
    edge = np.concatenate([shares[:, [0, -1]].max((1, 2, 3)), shares[:, :, [0, -1]].max((1, 2, 3))])
    assert (edge > 0.5).mean() < 0.05  # few heads are cut off
    flat = shares.reshape(len(shares), -1)
    assert np.abs(flat[1:] - flat[:-1]).mean(1).min() > 0.005


def test_the_head_is_upright() -> None:
    """Frontal poles at the top, and about as wide left as right; white matter inside grey."""
    maps = anatomies.read_anatomy()
    fluid, grey, white, skull, scalp, depth, ventricle = np.moveaxis(maps, -1, 0)
    middle = len(maps) // 2
    brain = depth[middle] > 0
    assert not maps[:, [0, -1], :, :5].any()  # air around the head
    assert not maps[:, :, [0, -1], :5].any()
    rows, columns = (np.flatnonzero(brain.any(axis)) for axis in (1, 0))
    y = anatomies.CENTRE_MM[1] - anatomies.centred(len(brain))[rows]
    assert y.max() == pytest.approx(70, abs=6)  # of the template: anterior is up
    assert y.min() == pytest.approx(-105, abs=6)
    assert columns.mean() == pytest.approx(len(brain) / 2 - 0.5, abs=1.5)
    for inner, outer in ((white, grey), (grey, skull)):
        assert (depth * inner).sum() / inner.sum() > 5 + (depth * outer).sum() / outer.sum()
    assert fluid[ventricle == 0].min() > anatomies.VENTRICLE_SHARE
    assert (ventricle[depth == 0] > 15).all()
    assert not scalp[depth > 0].any()
    assert maps[..., :5].sum(-1).max() < 1 + 1e-5


def test_smooth_fields_are_of_spread_one_everywhere() -> None:
    fields = np.asarray(anatomies.smooth_fields(jax.random.key(0), 4000, 5, 16))
    np.testing.assert_allclose(fields.std(-1), 1.0, atol=0.06)
    steps = np.abs(np.diff(fields, axis=0)).mean()
    assert 0.05 < steps < 0.5  # smooth, and not flat


def test_tissues_are_ordered_as_known(drawn: Drawn) -> None:
    weight = np.asarray(jax.vmap(pooled)(drawn.patient.shares)) ** 4
    means = np.einsum("nyxt,nyxm->mt", weight, drawn.scene.mean) / weight.sum((0, 1, 2))[:, None].T
    t1, t2, flair, ct, pet = (dict(zip(TISSUES, row, strict=True)) for row in means)
    assert t1["white"] > 1.15 * t1["grey"] > 1.5 * t1["csf"]
    assert t2["csf"] > 1.2 * t2["grey"] > 1.3 * t2["white"]
    assert flair["grey"] > flair["white"] > 1.5 * flair["csf"]
    assert 1.6 > ct["grey"] / ct["white"] > 1.05 > 0 < ct["csf"] < ct["white"]
    assert ct["skull"] > 1.3 * max(ct[tissue] for tissue in ("csf", "grey", "white", "scalp"))
    assert pet["grey"] > 1.5 * pet["white"]


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_is_where_the_lesion_changes_the_image(drawn: Drawn, name: str) -> None:
    """Up to the declared border, before and after the blur, in every modality."""
    own, kind = drawn.of(name), TYPES[name]
    cover, texture, reach = own.lesion.cover, own.lesion.texture, own.lesion.reach
    half = kind.softness / 2
    assert not cover[reach > 1 + half + 1e-5].any()
    whole = own.patient.shares[..., 1:3].sum(-1) > 0.6
    np.testing.assert_allclose(cover[whole & (reach < 1 - half - 1e-5)], 1)
    np.testing.assert_array_equal(cover[whole] > 0.5, reach[whole] < 1)
    assert (texture[cover > 0] != 0).all()
    for n in range(EACH):
        covered = np.asarray(pooled(cover[n]))
        np.testing.assert_array_equal(own.scene.mask[n], covered >= 0.5)
        assert own.scene.mask[n].sum() >= 4
        away = distance_transform_edt(covered == 0) * (FIELD_MM / SIZE)
        for m, width in enumerate(BLUR_MM):
            change = np.abs(own.scene.change[n, ..., m])
            assert change[own.scene.mask[n]].min() > 0
            assert change[away > 2 * width + FIELD_MM / SIZE].max() < 2e-3 * change.max()


@pytest.mark.parametrize("name", NAMES)
def test_a_type_has_its_size_and_shape(drawn: Drawn, name: str) -> None:
    own, kind = drawn.of(name), TYPES[name]
    low, high = kind.size_mm
    assert ((own.lesion.radius >= low) & (own.lesion.radius <= high)).all()
    assert np.ptp(own.lesion.radius) > 0.3 * (high - low)
    cell = (FIELD_MM / SIZE / FINER) ** 2
    places = np.asarray(anatomies.pixel_middles(FINER * SIZE))
    longer, area = [], []
    for reach, radius, centre in zip(
        own.lesion.reach, own.lesion.radius, own.lesion.centre, strict=True
    ):
        there = places[reach < 1] - centre
        area.append(len(there) * cell / (math.pi * radius**2))
        if kind.foci > 1:
            assert np.hypot(*there.T).max() < 1.25 * radius + 3
        spread = np.linalg.eigvalsh(np.cov(there.T))
        longer.append(math.sqrt(spread[1] / spread[0]))
    mean_area, mean_long = np.mean(area), np.mean(longer)
    least, most = kind.elongation
    if kind.foci > 1:
        assert 0.5 < mean_area / (kind.foci * kind.focus_share**2) < 1.15  # they may overlap
    else:
        assert mean_area == pytest.approx(math.exp(2 * kind.irregularity**2), rel=0.2)
        assert 0.8 * least < mean_long < 1.2 * most + 3 * kind.irregularity


def test_types_lie_where_they_prefer(drawn: Drawn) -> None:
    found: dict[str, list[np.ndarray]] = {place: [] for place in PLACES}
    for name, kind in TYPES.items():
        own = drawn.of(name)
        at = ((own.lesion.centre + FIELD_MM / 2) / (FIELD_MM / SIZE / FINER)).astype(int)
        each = np.arange(EACH)
        shares = own.patient.shares[each, at[:, 0], at[:, 1]]
        depth = own.patient.depth[each, at[:, 0], at[:, 1]]
        wall = own.patient.ventricle[each, at[:, 0], at[:, 1]] - own.lesion.radius
        room = depth - own.lesion.radius
        values = np.column_stack([shares[:, :3], depth, np.abs(wall), room])
        found[PLACES[int(np.argmax(kind.place))]].append(values)
    fluid, grey, white, depth, wall, room = range(6)
    by_place = {place: np.concatenate(values) for place, values in found.items()}
    median = {place: np.median(values, 0) for place, values in by_place.items()}
    assert median["white"][white] > 0.8
    assert median["grey"][grey] > 0.6
    assert 3 < median["cortical"][depth] < 10 < median["anywhere"][depth]
    assert np.quantile(by_place["cortical"][:, room], 0.9) < -4
    assert median["periventricular"][wall] < 6 < median["anywhere"][wall]
    assert median["periventricular"][white] > 0.6
    for place in ("white", "grey", "periventricular", "anywhere"):
        assert np.quantile(by_place[place][:, room], 0.1) > -6
        assert (by_place[place][:, fluid] < 0.9).all()


def test_contrasts_have_the_declared_signs(drawn: Drawn) -> None:
    for name, kind in TYPES.items():
        total = drawn.of(name).scene.change.sum((1, 2))
        np.testing.assert_array_equal(np.sign(total), np.sign(kind.contrast)[None].repeat(EACH, 0))


def test_textures_are_as_named(drawn: Drawn) -> None:
    """Rings have a core of the other sign, levels a weaker anterior half, speckles a spread."""
    for name in ("bright_ring", "dark_ring", "bright_rings"):
        own = drawn.of(name).lesion
        assert own.texture[own.reach < 0.3].max() < 0 < own.texture[own.reach > 0.8].min()
    own = drawn.of("bright_core").lesion
    assert own.texture[own.reach < 0.2].min() > 2 * own.texture[own.reach > 0.8].max()
    rows = np.asarray(anatomies.pixel_middles(FINER * SIZE))[..., 0]
    own = drawn.of("bright_level").lesion
    anterior = rows < own.centre[:, 0, None, None]
    assert own.texture[anterior].max() < 0.2 * own.texture[~anterior].min()
    for name, kind in TYPES.items():
        own = drawn.of(name).lesion
        spread = np.log(np.abs(own.texture[own.cover > 0])).std()
        assert (spread > 0.3) == (kind.speckle > 0 or kind.level > 0 or kind.rim != kind.core), name
    assert drawn.of("bright_speckled").lesion.texture.min() > 0


def test_types_can_be_told_apart_in_any_one_modality() -> None:
    """No two are the same but for their size and for how strong they are, which d' takes away."""
    for modality in range(len(MODALITIES)):
        seen = {
            (kind._replace(size_mm=(), contrast=()), kind.contrast[modality] > 0)
            for kind in TYPES.values()
        }
        assert len(seen) == len(TYPES) >= 16
    assert all(sum(kind.place) == 1 for kind in TYPES.values())


def test_detectability_is_a_matched_filters(drawn: Drawn) -> None:
    """AUC = Φ(d' / √2) of 1500 scans with the lesion and 1500 without, in each modality alone and
    in all together."""
    count, wanted = 1500, 1.5
    seen = jax.tree.map(lambda leaf: jnp.asarray(leaf[3]), drawn.of("bright_disc").scene)
    alone = [of_modalities(seen, [m]) for m in range(len(MODALITIES))]
    contrasts = jnp.stack([contrast_for(one, wanted) for one in alone])
    together = contrast_for(seen, wanted)
    y, x = (int(place.mean()) for place in np.nonzero(seen.mask))
    near = np.s_[max(0, y - 8) : y + 8, max(0, x - 8) : x + 8]  # whatever a filter can see
    outside = jnp.sqrt(jnp.sum(((seen.change / seen.spread) ** 2).at[near].set(0)))
    assert float(outside) < 1e-3 * float(detectability(seen))
    seen = Scene(*(part[near] for part in seen[:3]), seen.mask[near], seen.modality)
    weights = seen.change / seen.spread**2

    @jax.jit
    def statistics(key: jax.Array) -> jax.Array:
        """[without, each alone, all together] of a scan each, by modality: [3, M]."""
        scales = (jnp.zeros(()), contrasts, together)
        keys = jax.random.split(key, 3)
        images = [scan(seen, own, scale) for own, scale in zip(keys, scales, strict=True)]
        return jnp.stack([(weights * image).sum((0, 1)) for image in images])

    keys = jax.random.split(jax.random.key(1), count)
    without, each, every = np.moveaxis(np.asarray(jax.lax.map(statistics, keys)), 1, 0)
    expected = 0.5 * (1 + math.erf(wanted / 2))
    error = 4 * math.sqrt(expected * (1 - expected) / count)
    for m in range(len(MODALITIES)):
        auc = (each[:, None, m] > without[None, :, m]).mean()
        assert auc == pytest.approx(expected, abs=error), MODALITIES[m]
    auc = (every.sum(1)[:, None] > without.sum(1)[None]).mean()
    assert auc == pytest.approx(expected, abs=error)


def test_contrast_and_d_prime_are_in_proportion(drawn: Drawn) -> None:
    seen = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), drawn.scene)
    contrast = contrast_for(seen, 7.0)
    assert float(detectability(seen, contrast)) == pytest.approx(7.0, rel=1e-5)
    assert float(detectability(seen, -2 * contrast)) == pytest.approx(14.0, rel=1e-5)
    parts = [float(detectability(of_modalities(seen, [m]))) ** 2 for m in range(5)]
    assert float(detectability(seen)) ** 2 == pytest.approx(sum(parts), rel=1e-4)
    nothing = seen._replace(change=jnp.zeros_like(seen.change))
    assert float(contrast_for(nothing, 7.0)) == 0


def test_noise_is_of_its_kind(drawn: Drawn) -> None:
    """Spread as declared where there is signal; Rayleigh in air; of PET, with the signal."""
    seen = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), drawn.scene)
    keys = jax.random.split(jax.random.key(2), 400)
    images = np.asarray(jax.lax.map(jax.jit(lambda key: scan(seen, key, 0.0)), keys))
    tissue = np.asarray(pooled(jnp.asarray(drawn.patient.shares[0])))[..., 1:3].sum(-1) > 0.95
    ratio = images.std(0)[tissue] / np.asarray(seen.spread)[tissue]
    np.testing.assert_allclose(ratio.mean(0), 1, atol=0.03)
    np.testing.assert_allclose(images.mean(0)[tissue], seen.mean[tissue], atol=0.02)
    air = images[:, 0, 0] / np.asarray(seen.spread)[0, 0]
    np.testing.assert_allclose(air[:, :3].mean(0), math.sqrt(math.pi / 2), atol=0.15)
    np.testing.assert_allclose(air[:, 3:].mean(0), 0, atol=0.3)
    # Pixels side by side, and modalities, have each their own.
    together = np.corrcoef(images[:, 16, 15:17].reshape(400, -1).T) - np.eye(10)
    assert np.abs(together).max() < 0.25
    pet, counts = seen.spread[..., 4], jnp.sqrt(seen.mean[..., 4] + 0.01)
    np.testing.assert_allclose(pet, 0.05 * counts, rtol=1e-4)


def test_each_key_changes_its_own_part(anatomy: jax.Array) -> None:
    person, first, second, third = jax.random.split(jax.random.key(5), 4)
    kind = TYPES["bright_star"]

    @jax.jit
    def made(scan_key: jax.Array, lesion_key: jax.Array, contrast: jax.Array) -> tuple:
        return render(
            anatomy, person, scan_key, lesion_key, kind,
            modalities=("pet", "t1"), size=24, contrast=contrast,
        )  # fmt: skip

    image, mask = made(first, second, jnp.ones(()))
    again, same = made(first, second, jnp.ones(()))
    np.testing.assert_array_equal(image, again)
    assert image.shape == (24, 24, 2)
    assert image.dtype == jnp.float32
    assert mask.shape == (24, 24)
    assert mask.dtype == bool
    later, same = made(third, second, jnp.ones(()))
    np.testing.assert_array_equal(mask, same)
    noise = np.asarray(later - image)
    assert (noise != 0).mean() > 0.99
    assert np.abs(noise).max() < 0.4
    plain, empty = made(first, second, jnp.zeros(()))
    assert not empty.any()
    elsewhere, _ = made(first, third, jnp.zeros(()))
    np.testing.assert_array_equal(plain, elsewhere)  # without a lesion its key does nothing
    _, moved = made(first, third, jnp.ones(()))
    assert (moved != mask).any()
    outside = distance_transform_edt(~np.asarray(mask)) > 4
    np.testing.assert_allclose(plain[outside], image[outside], atol=1e-3)


def test_plain_jit_and_vmap_agree(anatomy: jax.Array, drawn: Drawn) -> None:
    """Also: what a modality shows does not depend on which others are asked for."""
    numbers = (0, 2 * EACH + 1)  # of the fixture: two types, which scans all modalities in turn
    keys = jax.random.split(jax.random.key(0), len(NAMES) * EACH)[jnp.asarray(numbers)]
    kinds = stacked([NAMES[number // EACH] for number in numbers])
    taken = jax.random.key(6)

    def made(key: jax.Array, kind: LesionType) -> tuple[jax.Array, jax.Array]:
        return render(
            anatomy, key, taken, key, kind, modalities=("ct",), size=SIZE, d_prime=9.0
        )  # fmt: skip

    images, masks = jax.jit(jax.vmap(made))(keys, kinds)
    for image, mask, number in zip(images, masks, numbers, strict=True):
        seen = jax.tree.map(lambda leaf, n=number: jnp.asarray(leaf[n]), drawn.scene)
        alone = of_modalities(seen, [MODALITIES.index("ct")])
        plain = scan(alone, taken, contrast_for(alone, 9.0))
        np.testing.assert_allclose(image, plain, atol=1e-4)
        np.testing.assert_array_equal(mask, seen.mask)


def test_a_missing_map_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anatomies, "MAP_FILE", "datasets/data/gone_{}.nii.gz")
    with pytest.raises(DataError, match=r"gone_gm\.nii\.gz: missing; reinstall nilearn"):
        anatomies.read_map("gm")
