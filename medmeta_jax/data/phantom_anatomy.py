"""The patients of the phantom: slices of real average anatomy, each of a shape of its own.

The maps come from `nilearn`, which carries the ICBM 2009a average of 152 healthy people: how much
of each voxel is grey and white matter, and a T1 average whose positive part is the brain. What is
left of the brain is cerebrospinal fluid. The T1 average has no skull, so skull and scalp are shells
of a fixed thickness about the brain: geometry, not measurement.

A patient is an axial slice at a height of its own, turned, stretched and smoothly bent; folds and
fluid are moved by smooth fields where the average is unsure of the tissue, and only there, and the
maps are sharpened, since one person's tissues have edges and an average's have not.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.data.anatomy import package_file
from medmeta_jax.ops.draws import normal

Array = jax.Array

CARRIER = "nilearn"
MAP_FILE = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
TISSUES = ("csf", "grey", "white", "skull", "scalp")
MAPS = (*TISSUES, "depth", "ventricle")
VOXEL_MM = 2.0
FIELD_MM = 220.0  # width and height of an image
CENTRE_MM = (0.0, -17.0)  # of an image, x and y of the template
HEIGHTS_MM = (-6, 44)  # lowest and highest slice: cerebral hemispheres, most with ventricles
FLUID_MM, SKULL_MM, SCALP_MM = 2.0, 7.0, 11.0  # outer ends of the shells about the brain
CLOSING_MM = 10.0  # gaps of the brain narrower than twice this are bridged by the shells
FAR_MM = 80.0  # distances beyond are not told apart
# A ventricle is fluid this deep, this near the mid-plane: not a sulcus.
VENTRICLE_SHARE, VENTRICLE_DEPTH_MM, VENTRICLE_X_MM = 0.4, 15.0, 32.0

FINER = 2  # a patient is drawn so many times finer than the image, for partial volumes
TURN, STRETCH, SHEAR, SHIFT_MM = 0.07, 0.035, 0.03, 1.5  # spreads: radians, shares, shares, mm
BEND_MM, BEND_KNOTS = 2.5, 5  # of the smooth deformation: spread, and knots a side
FOLD_SPREAD, FOLD_KNOTS = 1.2, 24  # of the fields that move folds, as log odds
FLUID_MORE, FLUID_SPREAD = 0.6, 0.5  # a patient's fluid against the average's, as log odds
SHARPER = 1.6
KNOT_WIDTH = 0.7  # of a smooth field's Gaussian, in distances between knots


class Patient(NamedTuple):
    """A patient's slice, on a grid `FINER` times as fine as the image: F = FINER * size.

    shares: [F, F, tissues] float32, of each pixel; what they lack to 1 is air.
    depth: [F, F] float32, mm from the brain's surface inwards, 0 outside.
    ventricle: [F, F] float32, mm to the nearest ventricle.

    Rows run from anterior to posterior, columns from the subject's left to right.
    """

    shares: Array
    depth: Array
    ventricle: Array


@functools.cache
def read_anatomy() -> np.ndarray:
    """The maps [Z, Y, X, 7] float32 by `MAPS`, in voxels of 2 mm, y from anterior to posterior.

    Raises DataError naming the file that is missing, and the package that carries it.
    """
    grey, white, t1 = (read_map(name) for name in ("gm", "wm", "t1"))
    brain = t1 > 0
    grey, white, brain = (halved(one) for one in (grey / 255, white / 255, brain))
    filled = closed(brain >= 0.5)
    inside, outside = distance(filled), distance(~filled)
    fluid = np.clip(shell(outside, FLUID_MM) - grey - white, 0, 1)
    skull = shell(outside, SKULL_MM) - shell(outside, FLUID_MM)
    scalp = shell(outside, SCALP_MM) - shell(outside, SKULL_MM)
    across = np.abs(centred(brain.shape[2]))
    deep = (fluid > VENTRICLE_SHARE) & (inside > VENTRICLE_DEPTH_MM) & (across < VENTRICLE_X_MM)
    shares = np.stack([fluid, grey, white, skull, scalp], axis=-1)
    shares /= np.maximum(shares.sum(-1, keepdims=True), 1)  # the stored ones are rounded
    maps = np.concatenate([shares, np.stack([inside, distance(~deep)], axis=-1)], axis=-1)
    return np.ascontiguousarray(maps[heights_kept(len(maps))], np.float32)


def read_map(name: str) -> np.ndarray:
    """A template map [Z, Y, X] float32 of 1 mm, cut and padded to what an image shows in y and x;
    z from the template's lowest slice, y from anterior to posterior."""
    import nibabel

    image: Any = nibabel.as_closest_canonical(
        nibabel.load(package_file(CARRIER, MAP_FILE.format(name)))
    )
    voxels = np.asarray(image.dataobj, np.float32).transpose(2, 1, 0)
    edge = int(FIELD_MM)
    found = np.zeros((len(voxels), edge, edge), np.float32)
    first_y, first_x = (
        round(CENTRE_MM[axis] - FIELD_MM / 2 - image.affine[axis, 3]) for axis in (1, 0)
    )
    rows, columns = (
        slice(max(0, first), min(size, first + edge))
        for first, size in ((first_y, voxels.shape[1]), (first_x, voxels.shape[2]))
    )
    found[:, rows.start - first_y : rows.stop - first_y, columns.start - first_x :
          columns.stop - first_x] = voxels[:, rows, columns]  # fmt: skip
    return found[:, ::-1]


def halved(voxels: np.ndarray) -> np.ndarray:
    """[Z, Y, X] of 1 mm -> float32 of 2 mm, the means of eight."""
    z, y, x = (size // 2 for size in voxels.shape)
    eight = voxels[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2)
    return np.asarray(eight.mean((1, 3, 5)), np.float32)


def heights_kept(slices: int) -> slice:
    """Which of the slices of 2 mm an image may show."""
    lowest = -72  # mm, of the template's first slice
    first, last = ((height - lowest) / VOXEL_MM for height in HEIGHTS_MM)
    return slice(int(first), min(slices, int(np.ceil(last)) + 1))


def centred(size: int) -> np.ndarray:
    """The middles of so many voxels in mm, 0 in the middle of all."""
    return (np.arange(size) + 0.5 - size / 2) * VOXEL_MM


def distance(where: np.ndarray) -> np.ndarray:
    """mm from each voxel of `where` to the nearest one outside it, 0 outside; at most `FAR_MM`."""
    from scipy.ndimage import distance_transform_edt

    return np.minimum(np.asarray(distance_transform_edt(where), np.float32) * VOXEL_MM, FAR_MM)


def closed(where: np.ndarray) -> np.ndarray:
    """With its narrow gaps filled."""
    grown = distance(~where) <= CLOSING_MM
    return np.asarray(where | (distance(grown) > CLOSING_MM))


def shell(outside: np.ndarray, to: float) -> np.ndarray:
    """Share of each voxel that lies within `to` mm of the brain, by its distance from there."""
    return np.clip((to - outside) / VOXEL_MM + 0.5, 0, 1)


def patient(anatomy: Array, key: Array, *, size: int) -> Patient:
    """Draw a patient.

    Args:
      anatomy: [Z, Y, X, 7] float32, of `read_anatomy`.
      size: pixels a side of the images to be made of it.
    """
    height_key, shape_key, bend_key, fold_key = jax.random.split(key, 4)
    fine = FINER * size
    height = jax.random.uniform(height_key, maxval=len(anatomy) - 1.0)
    shape = jax.random.truncated_normal(shape_key, -2.0, 2.0, (7,))
    places = coordinates(shape[:6], smooth_fields(bend_key, 2, BEND_KNOTS, fine))
    maps = sampled(plane_at(anatomy, height), places)
    shares, depth, ventricle = maps[..., : len(TISSUES)], maps[..., -2], maps[..., -1]
    folds = smooth_fields(fold_key, 3, FOLD_KNOTS, fine)
    brain = individual(shares[..., :3], FLUID_MORE + FLUID_SPREAD * shape[6], folds)
    return Patient(jnp.concatenate([brain, shares[..., 3:]], -1), depth, ventricle)


def plane_at(anatomy: Array, height: Array) -> Array:
    """The maps [Y, X, 7] at a height between two slices."""
    below = jnp.clip(jnp.floor(height), 0, len(anatomy) - 2)
    two = jax.lax.dynamic_slice_in_dim(anatomy, below.astype(jnp.int32), 2)
    share = height - below
    return two[0] * (1 - share) + two[1] * share


def coordinates(shape: Array, bend: Array) -> Array:
    """Where each pixel of a patient lies in the average: [F, F, 2] mm from the middle, y and x.

    Args:
      shape: [6] of spread 1: turn, height, width, shear, shift down and right.
      bend: [F, F, 2] of spread 1, the smooth deformation.
    """
    turn, high, wide, shear = TURN * shape[0], STRETCH * shape[1], STRETCH * shape[2], shape[3]
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    rotation = jnp.stack([cos, -sin, sin, cos]).reshape(2, 2)
    stretch = jnp.stack([1 + high, jnp.zeros(()), SHEAR * shear, 1 + wide]).reshape(2, 2)
    straight = pixel_middles(bend.shape[0]) @ (rotation @ stretch).T
    return straight + SHIFT_MM * shape[4:] + BEND_MM * bend


def pixel_middles(size: int) -> Array:
    """The middles of an image's pixels, [size, size, 2] mm from the middle of all, y and x."""
    along = (jnp.arange(size, dtype=jnp.float32) + 0.5 - size / 2) * (FIELD_MM / size)
    return jnp.stack(jnp.meshgrid(along, along, indexing="ij"), -1)


def smooth_fields(key: Array, count: int, knots: int, size: int) -> Array:
    """Smooth random fields [size, size, count], of spread 1 in every pixel: white noise on so many
    knots a side, blurred by a Gaussian about as wide as they are apart."""
    place = (np.arange(size) + 0.5) * (knots / size) - 0.5
    weights = np.exp(-0.5 * (np.subtract.outer(place, np.arange(-1, knots + 1)) / KNOT_WIDTH) ** 2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    weights = weights.astype(np.float32)
    white = normal(key, (count, knots + 2, knots + 2))
    return jnp.einsum("yi,cij,xj->yxc", weights, white, weights)


def sampled(maps: Array, places: Array) -> Array:
    """Maps [Y, X, C] between their voxels, at places [..., 2] in mm; beyond the edge the last."""
    edge = maps.shape[0]
    at = jnp.clip(places / VOXEL_MM + (edge / 2 - 0.5), 0, edge - 1.0)
    low = jnp.clip(jnp.floor(at), 0, edge - 2)
    share = at - low
    y, x = low[..., 0].astype(jnp.int32), low[..., 1].astype(jnp.int32)
    down, right = share[..., :1], share[..., 1:]
    upper = maps[y, x] * (1 - right) + maps[y, x + 1] * right
    lower = maps[y + 1, x] * (1 - right) + maps[y + 1, x + 1] * right
    return upper * (1 - down) + lower * down


def individual(brain: Array, fluid: Array, folds: Array) -> Array:
    """Shares of fluid, grey and white [F, F, 3] of one person, from those of the average.

    Their sum stays: what is brain, and what is not, is the average's.

    Args:
      fluid: how much more fluid the person has, as log odds.
      folds: [F, F, 3] of spread 1, what moves the borders between the three.
    """
    odds = SHARPER * jnp.log(brain + 1e-3) + FOLD_SPREAD * folds
    odds = odds + fluid * jnp.asarray((1.0, 0.0, 0.0))
    return brain.sum(-1, keepdims=True) * jax.nn.softmax(odds, axis=-1)
