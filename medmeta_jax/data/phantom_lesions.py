"""The lesions of the phantom: sixteen simulated types, each a value of numbers, and their shapes.

Names say what is seen on a FLAIR-like image. They are no diagnoses: shapes, textures and places
were chosen so that the types differ to the eye, with contrasts that pathology also shows.

A lesion is one focus or several. Within a focus everything follows from `reach`, a pixel's distance
from the middle over the border's in that direction: 1 on the border, which is an ellipse times a
random smooth function of the angle. Its cover falls from 1 to 0 across the border, over `softness`
of the radius, and it grows in grey and white matter alone: not in fluid, nor through the skull.
What it adds to an image is its cover times its texture. The texture is never 0 where there is
cover, but for the line on which the two signs of a ring meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.data.phantom_anatomy import (
    FIELD_MM,
    FINER,
    Patient,
    pixel_middles,
    smooth_fields,
)
from medmeta_jax.ops.draws import normal

Array = jax.Array
Numbers = Any  # one or a few, or arrays of them for several types

MODALITIES = ("t1", "t2", "flair", "ct", "pet")
PLACES = ("white", "grey", "periventricular", "cortical", "anywhere")
MOST_FOCI = 8
HARMONICS = tuple(range(2, 9))  # of the border's random shape
FOCI_FROM = 0.35  # nearest to the middle that a focus lies, of the farthest
GRAIN_MM = 6.0  # between the knots of speckles
INNER_EDGE = 0.12  # width, in reach, of the step from a focus's core to its rim
TISSUE_FROM, TISSUE_TO = 0.3, 0.6  # share of grey and white where it begins to grow, and is whole
NEAR_MM = 5.0  # how near a periventricular lesion lies to the wall; a cortical one, a third inside
INSIDE_MM = 2.0  # how sharply others are kept a radius from the surface
SOMEWHERE = 1e-6  # of the weight of the best place, for slices that have none of the wanted


class LesionType(NamedTuple):
    """A type: numbers, or arrays [types, ...] of them for several; see `stacked`.

    size_mm: smallest and largest radius of the whole, of a circle of its area.
    elongation: least and most, long axis over short.
    softness: width of the border over the radius of a focus.
    irregularity: spread of the border's logarithm: 0 an ellipse, 0.4 a star.
    core, rim: texture within and outside `core_share` of the reach.
    core_share: see there; 0 is without a core.
    speckle: 0 even, towards 1 grains from 0 to twice the texture.
    level: how much weaker the anterior half is: 0 not, 1 absent.
    foci: how many, up to 8.
    focus_share: radius of a focus over that of the whole; 1 for one focus.
    contrast: [5], added to the image where the texture is 1, by `MODALITIES`, at scale 1.
    place: [5], how often it lies where, by `PLACES`; adds up to 1.
    """

    size_mm: Numbers
    contrast: Numbers
    place: Numbers
    elongation: Numbers = (1.0, 1.3)
    softness: Numbers = 0.2
    irregularity: Numbers = 0.06
    core: Numbers = 1.0
    rim: Numbers = 1.0
    core_share: Numbers = 0.0
    speckle: Numbers = 0.0
    level: Numbers = 0.0
    foci: Numbers = 1.0
    focus_share: Numbers = 1.0


WHITE, GREY, PERIVENTRICULAR, CORTICAL, ANYWHERE = (
    tuple(float(place == one) for one in PLACES) for place in PLACES
)

TYPES: dict[str, LesionType] = {
    "bright_disc": LesionType((9, 13), (-0.2, 0.3, 0.3, -0.1, -0.2), WHITE),
    "dark_disc": LesionType((9, 13), (-0.25, 0.35, -0.3, -0.15, -0.3), GREY),
    "bright_ring": LesionType(
        (12, 16), (0.3, 0.25, 0.3, 0.2, 0.3), WHITE, core=-0.5, core_share=0.6
    ),
    "bright_foci": LesionType(
        (20, 26), (-0.2, 0.3, 0.3, -0.1, 0.1), PERIVENTRICULAR,
        foci=7, focus_share=0.24, softness=0.4,
    ),
    "bright_star": LesionType(
        (13, 17), (-0.2, 0.25, 0.3, 0.15, 0.3), WHITE, irregularity=0.4, softness=0.15
    ),
    "dark_streak": LesionType(
        (10, 13), (-0.3, 0.2, -0.3, -0.2, -0.2), WHITE, elongation=(4.0, 5.5), softness=0.3
    ),
    "bright_haze": LesionType(
        (18, 24), (-0.15, 0.25, 0.25, -0.1, -0.1), WHITE, softness=1.2, irregularity=0.15
    ),
    "dark_speckled": LesionType(
        (15, 19), (0.25, -0.3, -0.3, 0.3, -0.2), ANYWHERE, speckle=0.95, irregularity=0.15
    ),
    "dark_ring": LesionType(
        (12, 16), (-0.25, -0.25, -0.3, 0.25, -0.2), GREY, core=-0.6, core_share=0.6
    ),
    "bright_streak": LesionType(
        (10, 13), (-0.2, 0.3, 0.3, -0.15, 0.1), PERIVENTRICULAR, elongation=(4.0, 5.5), softness=0.3
    ),
    "bright_level": LesionType(
        (13, 17), (0.2, 0.3, 0.3, 0.3, 0.1), ANYWHERE, level=0.85, softness=0.15
    ),
    "dark_foci": LesionType(
        (22, 28), (-0.1, -0.3, -0.3, 0.3, -0.1), CORTICAL, foci=5, focus_share=0.3, softness=0.3
    ),
    "bright_core": LesionType(
        (17, 22), (0.2, 0.25, 0.25, 0.15, 0.3), WHITE, rim=0.3, core_share=0.45, softness=0.5
    ),
    "bright_speckled": LesionType(
        (15, 19), (-0.2, 0.3, 0.3, -0.1, 0.3), ANYWHERE, speckle=0.95, irregularity=0.15
    ),
    "dark_cortical": LesionType(
        (16, 21), (-0.2, 0.2, -0.25, -0.15, -0.3), CORTICAL, softness=0.25, irregularity=0.12
    ),
    "bright_rings": LesionType(
        (24, 30), (0.3, 0.25, 0.3, 0.15, 0.2), ANYWHERE,
        core=-0.5, core_share=0.55, foci=3, focus_share=0.38,
    ),
}  # fmt: skip


class Lesion(NamedTuple):
    """A lesion on its patient's grid.

    cover: [F, F] float32, share of each pixel that it fills.
    texture: [F, F] float32, how much of its contrast it has there.
    reach: [F, F] float32, of the nearest focus.
    centre: [2] float32, mm from the image's middle, y and x.
    radius: float32, mm.
    """

    cover: Array
    texture: Array
    reach: Array
    centre: Array
    radius: Array


class Shape(NamedTuple):
    """The outline of a lesion.

    focus: the radius of a focus, mm; longer: its long axis over that; turn: radians.
    middles: [8, 2] of the foci, mm from the lesion's, y and x.
    waves: [8, harmonics, 2], of each focus's border.
    """

    focus: Array
    longer: Array
    turn: Array
    middles: Array
    waves: Array


def stacked(names: Sequence[str]) -> LesionType:
    """Several types as one value of arrays [types, ...] float32, for indexing and `jax.vmap`.

    >>> stacked(("bright_disc", "bright_star")).contrast.shape
    (2, 5)
    """
    kinds = [TYPES[name] for name in names]
    return LesionType(*(jnp.asarray(np.asarray(f, np.float32)) for f in zip(*kinds, strict=True)))


def lesion(patient: Patient, key: Array, kind: LesionType) -> Lesion:
    """Draw a lesion of a type in a patient."""
    kind = LesionType(*(jnp.asarray(field, jnp.float32) for field in kind))
    place_key, scalar_key, border_key, grain_key = jax.random.split(key, 4)
    draws = jax.random.uniform(scalar_key, (5 + 2 * MOST_FOCI,))
    radius = between(draws[0], kind.size_mm)
    centre = place_of(place_key, patient, kind, radius) + within_pixel(draws[1:3], patient)
    fine = patient.depth.shape[0]
    offset = pixel_middles(fine) - centre
    middles = foci_of(draws[5:], kind) * (radius * (1 - kind.focus_share))
    waves = normal(border_key, (MOST_FOCI, len(HARMONICS), 2))
    longer = jnp.sqrt(between(draws[3], kind.elongation))
    shape = Shape(radius * kind.focus_share, longer, 2 * np.pi * draws[4], middles, waves)
    reach = reach_of(offset, shape, kind)
    tissue = patient.shares[..., 1] + patient.shares[..., 2]
    tissue = jnp.clip((tissue - TISSUE_FROM) / (TISSUE_TO - TISSUE_FROM), 0, 1)
    cover = jnp.clip(0.5 + (1 - reach) / kind.softness, 0, 1) * tissue
    grains = jnp.tanh(2 * smooth_fields(grain_key, 1, int(FIELD_MM / GRAIN_MM), fine)[..., 0])
    return Lesion(cover, texture_of(reach, offset, grains, kind), reach, centre, radius)


def between(share: Array, ends: Array) -> Array:
    """A number between two ends, by its share of the way."""
    return ends[0] + share * (ends[1] - ends[0])


def texture_of(reach: Array, offset: Array, grains: Array, kind: LesionType) -> Array:
    """The texture [F, F] of a lesion, by each pixel's reach, place and grain."""
    outer = jax.nn.sigmoid((reach - kind.core_share) * (4 / INNER_EDGE))
    outer = jnp.where(kind.core_share > 0, outer, 1.0)
    texture = kind.core + (kind.rim - kind.core) * outer
    anterior = jnp.where(offset[..., 0] < 0, 1 - kind.level, 1.0)
    return texture * (1 + kind.speckle * grains) * anterior


def place_of(key: Array, patient: Patient, kind: LesionType, radius: Array) -> Array:
    """The pixel of a lesion's middle, where the type prefers to be: [2] mm from the image's middle,
    y and x."""
    coarse = Patient(*map(pooled, patient))
    weights = preferences(coarse, radius) @ kind.place
    cell = jax.random.categorical(key, jnp.log(weights.ravel() + 1e-30))
    return pixel_middles(weights.shape[0]).reshape(-1, 2)[cell]


def within_pixel(shares: Array, patient: Patient) -> Array:
    """A place in one of the image's pixels, [2] mm from its middle."""
    return (shares - 0.5) * (FIELD_MM * FINER / patient.depth.shape[0])


def preferences(patient: Patient, radius: Array) -> Array:
    """How likely a lesion of a radius has its middle in each pixel of a patient, by `PLACES`:
    [H, W, 5], each place's adding up to 1."""
    grey, white = patient.shares[..., 1], patient.shares[..., 2]
    inside = jax.nn.sigmoid((patient.depth - radius) / INSIDE_MM)
    wall = jnp.exp(-(((patient.ventricle - radius) / NEAR_MM) ** 2))
    surface = jnp.exp(-(((patient.depth - radius / 3) / NEAR_MM) ** 2))
    brain = grey + white
    maps = [white**2 * inside, grey**2 * inside, white * wall * inside, grey * surface,
            brain * inside]  # fmt: skip
    found = jnp.stack(maps, -1)
    best = found.max((0, 1))
    found = found + SOMEWHERE * (best + SOMEWHERE) * brain[..., None]
    return found / found.sum((0, 1))


def reach_of(offset: Array, shape: Shape, kind: LesionType) -> Array:
    """The reach [F, F] of each pixel, by its offset [F, F, 2] in mm from the lesion's middle."""
    cos, sin = jnp.cos(shape.turn), jnp.sin(shape.turn)

    def nearer(number: Array, best: Array) -> Array:
        y, x = jnp.moveaxis(offset - shape.middles[number], -1, 0)
        along = (cos * x + sin * y) / shape.longer
        across = (cos * y - sin * x) * shape.longer
        far = jnp.sqrt(along**2 + across**2) + 1e-6
        border = waves_at(along / far, across / far, shape.waves[number])
        return jnp.minimum(best, far / (shape.focus * jnp.exp(kind.irregularity * border)))

    none = jnp.full(offset.shape[:2], jnp.inf, jnp.float32)
    return jax.lax.fori_loop(0, kind.foci.astype(jnp.int32), nearer, none)


def waves_at(cos: Array, sin: Array, waves: Array) -> Array:
    """A random function of the angle of spread 1, by `HARMONICS`, at angles of these cosines and
    sines. Sums of powers cost less than cosines of multiples."""
    real, other = jnp.zeros_like(cos), jnp.zeros_like(cos)
    for order in range(HARMONICS[-1], 0, -1):
        if order in HARMONICS:
            a, b = waves[HARMONICS.index(order)]
            real, other = real + a, other - b
        real, other = real * cos - other * sin, real * sin + other * cos
    return real / np.sqrt(len(HARMONICS))


def foci_of(draws: Array, kind: LesionType) -> Array:
    """The middles of a lesion's foci, in shares of the farthest that one may lie: [8, 2].

    They stand around the middle, each in a part of its own, at `draws` [16] of 0 to 1.
    """
    turns, near = draws.reshape(2, MOST_FOCI)
    place = jnp.arange(MOST_FOCI, dtype=jnp.float32)
    angle = 2 * np.pi * (place + 0.6 * turns) / kind.foci
    far = FOCI_FROM + (1 - FOCI_FROM) * near
    return far[:, None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)


def pooled(fine: Array) -> Array:
    """From the patient's grid [F, F, ...] to the image's, the means of its pixels' parts."""
    size = fine.shape[0] // FINER
    return fine.reshape(size, FINER, size, FINER, *fine.shape[2:]).mean((1, 3))
