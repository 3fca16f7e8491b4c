"""Scans of the phantom's patients, and what an ideal observer can see on them.

Five modalities, each "like" its own. Values are shares of the grey scale, 0 black and 1 white:

- T1-, T2- and FLAIR-like: spin-echo signals of tissues with BrainWeb's relaxation times at 1.5 T
  (Kwan, Evans and Pike, 1999) and the sequences in `SEQUENCES`, T1 and FLAIR after an inversion;
  scalp is half fat, half muscle;
- CT-like: Hounsfield units (fluid 10, grey 40, white 25, soft tissue 20; bone, 700 and more, is
  taken as 120 so that its partial volumes do not outshine the cortex) in a window from 0 to 80;
- PET-like: uptake as in Hoffman's brain phantom (1991): grey 5, white 1, fluid 0; scalp 0.5.

A scan is tissue by its shares, blurred, times a gain of the patient, and of MR-like ones a smooth
bias field; then noise: Rician of MR-like scans, Gaussian of the CT-like, and of the PET-like one
Gaussian with a variance as the signal's, as counts have. Noise is white: that of real PET and CT is
not. Its spread is that of the patient without the lesion.

**The ideal observer** knows the patient, the gain, the lesion and the noise, and is asked whether
the lesion is there: a matched filter, with d'² the sum over pixels of (change / spread)². Its area
under the ROC curve is Φ(d' / √2). This is exact for Gaussian noise. Rician noise is close to
Gaussian where the signal is three spreads or more, with the lesion and without: so it is in all
brain tissue at noise 1, but not in FLAIR's fluid, where lesions do not grow, nor where a dark
lesion leaves no signal. No detector can do better, and as a learner has to find the lesion in a
patient that it does not know, it does worse: d' orders difficulty, and does not promise an
accuracy. A contrast that the grey scale does not hold is cut off: on MR at no signal, and at both
ends where an image becomes a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.data.phantom_anatomy import FIELD_MM, TISSUES, patient, smooth_fields
from medmeta_jax.data.phantom_lesions import MODALITIES, LesionType, lesion, pooled
from medmeta_jax.ops.draws import normal

Array = jax.Array

# T1, T2 in ms, and proton density.
RELAXATION = {
    "csf": (2569.0, 329.0, 1.0),
    "grey": (833.0, 83.0, 0.86),
    "white": (500.0, 70.0, 0.77),
    "fat": (350.0, 70.0, 1.0),
    "muscle": (900.0, 47.0, 1.0),
}
# TR, TE, TI in ms (no inversion: 0), and the grey that its brightest tissue of the brain gets.
SEQUENCES = {
    "t1": (2300.0, 4.0, 900.0, 0.65),
    "t2": (4000.0, 90.0, 0.0, 0.8),
    "flair": (9000.0, 110.0, 1704.0, 0.5),
}
HOUNSFIELD = {"csf": 10.0, "grey": 40.0, "white": 25.0, "skull": 120.0, "scalp": 20.0}
CT_WINDOW = 80.0
UPTAKE = {"csf": 0.0, "grey": 5.0, "white": 1.0, "skull": 0.0, "scalp": 0.5}
PET_WHITE = 6.5  # uptake that is drawn white
COUNTS_OF_AIR = 0.01  # greys of scatter that a PET-like scan counts everywhere
SKULL_SHARE = 0.06  # of bone's signal on MR, against the brightest tissue of the brain

NOISE = (0.03, 0.03, 0.03, 0.04, 0.05)  # spread at noise 1; of PET, where the grey is 1
BLUR_MM = (2.0, 2.0, 2.0, 1.5, 6.0)  # full width at half maximum
MR = (True, True, True, False, False)
TISSUE_SPREAD = 0.03  # of a tissue's grey from patient to patient
GAIN_SPREAD = 0.05  # of a scan's
BIAS_SPREAD, BIAS_KNOTS = 0.1, 3  # of the logarithm of the bias field, and its knots a side


class Scene(NamedTuple):
    """A patient before any noise, without and with a lesion: all that the ideal observer knows.

    mean: [H, W, M] float32, without the lesion.
    change: [H, W, M] float32, what the lesion adds at contrast 1.
    spread: [H, W, M] float32, of the noise.
    mask: [H, W] bool, where the lesion fills half of a pixel or more.
    modality: [M] int32, places in `MODALITIES`.
    """

    mean: Array
    change: Array
    spread: Array
    mask: Array
    modality: Array


def greys() -> np.ndarray:
    """The grey of each tissue in each modality: [tissues, modalities] float32.

    >>> greys().shape
    (5, 5)
    """
    found = np.zeros((len(TISSUES), len(MODALITIES)), np.float32)
    for column, name in enumerate(MODALITIES):
        if name in SEQUENCES:
            tr, te, ti, brightest = SEQUENCES[name]
            own = {tissue: spin_echo(tissue, tr, te, ti) for tissue in RELAXATION}
            scale = brightest / max(own[tissue] for tissue in ("csf", "grey", "white"))
            values = {tissue: scale * signal for tissue, signal in own.items()}
            values["scalp"] = (values.pop("fat") + values.pop("muscle")) / 2
            values["skull"] = brightest * SKULL_SHARE
        elif name == "ct":
            values = {tissue: units / CT_WINDOW for tissue, units in HOUNSFIELD.items()}
        else:
            values = {tissue: uptake / PET_WHITE for tissue, uptake in UPTAKE.items()}
        found[:, column] = [values[tissue] for tissue in TISSUES]
    return found


def spin_echo(tissue: str, tr: float, te: float, ti: float) -> float:
    """The magnitude of a tissue's signal; with `ti` 0 the inversion changes its sign alone."""
    t1, t2, density = RELAXATION[tissue]
    recovered = 1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)
    return float(density * abs(recovered) * np.exp(-te / t2))


def scene(
    anatomy: Array,
    patient_key: Array,
    lesion_key: Array,
    kind: LesionType,
    *,
    modalities: Sequence[str],
    size: int,
    noise: float | Array = 1.0,
) -> Scene:
    """Draw a patient and a lesion in it, as some modalities would show them without noise.

    The patient follows from its key alone, and each modality's image does not depend on which
    others are asked for.

    Args:
      anatomy: the maps, of `phantom_anatomy.read_anatomy`.
      kind: a type, as in `phantom_lesions.TYPES`, or one of `stacked` ones.
      modalities: some of `MODALITIES`, in the order of the channels.
      size: pixels a side.
      noise: times the spread of each modality, `NOISE`.
    """
    code = np.asarray([MODALITIES.index(name) for name in modalities])
    shape_key, look_key = jax.random.split(patient_key)
    person = patient(anatomy, shape_key, size=size)
    found = lesion(person, lesion_key, kind)
    values, gain = look_of(look_key, code)
    bias_key = jax.random.fold_in(look_key, len(MODALITIES))
    bias = jnp.exp(BIAS_SPREAD * smooth_fields(bias_key, 1, BIAS_KNOTS, size))
    gain = jnp.where(np.asarray(MR)[code], bias, 1.0) * gain
    contrast = jnp.asarray(kind.contrast, jnp.float32)[code]
    mean = gain * blurred(pooled(person.shares) @ values, code)
    change = gain * blurred(pooled(found.cover * found.texture)[..., None] * contrast, code)
    level = jnp.where(code == MODALITIES.index("pet"), jnp.sqrt(mean + COUNTS_OF_AIR), 1.0)
    spread = noise * jnp.asarray(NOISE, jnp.float32)[code] * level
    return Scene(mean, change, spread, pooled(found.cover) >= 0.5, jnp.asarray(code, jnp.int32))


def of_modalities(seen: Scene, columns: Sequence[int]) -> Scene:
    """A scene's channels at some places alone."""
    at = np.asarray(columns)
    mean, change, spread = (part[..., at] for part in (seen.mean, seen.change, seen.spread))
    return Scene(mean, change, spread, seen.mask, seen.modality[at])


def look_of(key: Array, code: np.ndarray) -> tuple[Array, Array]:
    """A patient's own greys [tissues, M] in some modalities, and the gain [M] of each scan."""
    each = jax.vmap(lambda one: jax.random.fold_in(key, one))(jnp.asarray(code, jnp.uint32))
    draws = jax.vmap(lambda k: jax.random.truncated_normal(k, -2.0, 2.0, (len(TISSUES) + 1,)))(each)
    values = jnp.asarray(greys()[:, code]) * (1 + TISSUE_SPREAD * draws[:, 1:].T)
    return values, 1 + GAIN_SPREAD * draws[:, 0]


def blurred(images: Array, code: np.ndarray) -> Array:
    """Images [H, H, M] as sharp as each modality is."""
    size = images.shape[0]
    away = np.subtract.outer(np.arange(size), np.arange(size)) * (FIELD_MM / size)
    widths = np.asarray(BLUR_MM)[code] / np.sqrt(8 * np.log(2))
    kernels = np.exp(-0.5 * (away / widths[:, None, None]) ** 2)
    kernels = (kernels / kernels.sum(-1, keepdims=True)).astype(np.float32)
    return jnp.einsum("myh,hwm,mxw->yxm", kernels, images, kernels)


def scan(seen: Scene, key: Array, contrast: float | Array = 1.0) -> Array:
    """An image [H, W, M] float32 of a scene, with noise; about 0 to 1, and not cut off there."""
    signal = seen.mean + contrast * seen.change
    keys = jax.vmap(lambda one: jax.random.fold_in(key, one))(seen.modality)
    noise = jax.vmap(lambda k: normal(k, (2, *signal.shape[:2])))(keys)
    real, other = jnp.moveaxis(noise, 0, -1) * seen.spread
    magnitude = jnp.hypot(jnp.maximum(signal, 0) + real, other)
    return jnp.where(jnp.asarray(MR)[seen.modality], magnitude, signal + real)


def detectability(seen: Scene, contrast: float | Array = 1.0) -> Array:
    """The ideal observer's d' for the lesion, over all modalities of the scene together; float32.

    It is in proportion to the contrast.
    """
    return jnp.abs(contrast) * jnp.sqrt(jnp.sum((seen.change / seen.spread) ** 2))


def contrast_for(seen: Scene, d_prime: float | Array) -> Array:
    """The contrast at which the ideal observer has this d'; 0 where the lesion changes nothing."""
    at_one = detectability(seen)
    return jnp.where(at_one > 0, d_prime / jnp.where(at_one > 0, at_one, 1.0), 0.0)


def render(
    anatomy: Array,
    patient_key: Array,
    scan_key: Array,
    lesion_key: Array,
    kind: LesionType,
    *,
    modalities: Sequence[str] = ("flair",),
    size: int = 64,
    noise: float | Array = 1.0,
    contrast: float | Array = 1.0,
    d_prime: float | Array | None = None,
) -> tuple[Array, Array]:
    """An image [H, W, M] float32 of a patient with a lesion, and its mask [H, W] bool.

    Pure, of one shape for all types, for `jax.jit` and `jax.vmap` over keys and types. The same
    patient key with another scan key is the same person scanned again; with another lesion key it
    has another lesion; with `contrast` 0 it has none, and the mask is empty.

    Args:
      contrast: times the type's own.
      d_prime: in place of `contrast`, what the ideal observer has on this image.
    """
    seen = scene(
        anatomy, patient_key, lesion_key, kind, modalities=modalities, size=size, noise=noise
    )
    scale = jnp.asarray(contrast if d_prime is None else contrast_for(seen, d_prime), jnp.float32)
    return scan(seen, scan_key, scale), seen.mask & (scale != 0)
