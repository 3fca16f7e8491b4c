"""A data set ready to sample: arrays on the device, indexed by class."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from medmeta_jax.data.copies import joined, same_images
from medmeta_jax.data.samples import DataError, Samples, has_values, on_every_side, shows
from medmeta_jax.data.stored import LEVELS, StoredImages, chunks, level_counts
from medmeta_jax.types import Array


class Drawn(NamedTuple):
    """Episodes that were drawn ahead, for a pool that holds the images of these alone.

    keys: [E, 2] uint32, the data of the key that each is drawn by.
    indices: `episodes.Indices` of [E, ...], whose images are rows of the pool's x.
    """

    keys: Array
    indices: Any


class Pool(NamedTuple):
    """Images and the index that episodes are drawn by. Arrays only, so it can be jitted over.

    x: [N, *spatial, C] uint8; scaled to float when an episode is gathered.
    group: [N] int32; images of one group never stand on both sides of an episode that
        is `disjoint="group"`. Without groups, each image is its own. Copies of an image
        are of one group, and so are the groups that hold them.
    same: [N] int32: the first image with the same pixels; never on both sides of an episode.
    rows: [classes, M] int32: the images of each class, -1 beyond its count.
    counts: [classes] int32.
    labels: [classes] int32: each class's label in the data set's own numbering.
    domain: [classes] int32: where the class's images come from, an index into `mixing`; -1
        where they come from several domains.
    shown: [N, classes] bool, the labels of each image, where it may have several; else None.
    home: [N] int32, the domain of each image, where it may have several labels; else None.
    values: [N, classes] float32, what was measured of each image, NaN where it is not known, where
        classes are that; else None.
    spread: [classes] float32, the standard deviation of the values; else None.
    masks: [N, *spatial] uint8, where structures or lesions are to be marked; else None.
    marks: [classes] uint8, where classes are structures, the value of each in the masks, 0 for any
        but 0; else None.
    empty: int32, where classes are types of lesions, that of images without one; else None.
    present: [N, C] bool, which modalities an image has, where channels are that; else None. What it
        lacks is NaN in an episode.
    covariates: [N, K] float32, what is known of each image's patient, NaN where it is not; more
        channels of an image in an episode, each of one value throughout; or None.
    time: [N] float32, when an image was taken, where that is known; else None.
    boxes: [N, M, 2, axes] float32, where classes are kinds of objects, which masks mark: the
        corners of each in pixels, NaN beyond an image's own; else None.
    kinds: [N, M] uint8, the value of each object in the masks; else None.
    mixing: [domains] float32: how often an episode comes from each, where it comes from one.
    shift, scale: [C] float32: an episode's x is (uint8 / 255 - shift) * scale.

    A pool whose images stay in their files (`data/stored.py`) has x and masks of no rows, or of the
    images of some episodes alone, which `drawn` then holds; and in `identity` [8] uint8 its hash,
    which is that of the pool with all its images.

    >>> pool = example_pool()
    >>> pool.rows.shape, pool.counts.tolist()
    ((4, 6), [6, 6, 6, 6])
    """

    x: Array
    group: Array
    same: Array
    rows: Array
    counts: Array
    labels: Array
    domain: Array
    mixing: Array
    shift: Array
    scale: Array
    shown: Array | None = None
    home: Array | None = None
    values: Array | None = None
    spread: Array | None = None
    masks: Array | None = None
    marks: Array | None = None
    empty: Array | None = None
    present: Array | None = None
    covariates: Array | None = None
    time: Array | None = None
    boxes: Array | None = None
    kinds: Array | None = None
    drawn: Drawn | None = None
    identity: Array | None = None


def of_one_way(pool: Pool) -> str:
    """What a pool's images have where an episode is of one way alone: "values", "masks", "objects",
    or ""."""
    known = {"values": pool.values, "objects": pool.boxes, "masks": pool.marks}
    return next((name for name, own in known.items() if own is not None), "")


def one_image(pool: Pool) -> Pool:
    """The pool with one black image for all of its own: what tracing needs of it."""
    rows: Any = {
        name: jnp.zeros((1, *part.shape[1:]), part.dtype)
        for name, part in (("x", pool.x), ("masks", pool.masks))
        if part is not None
    }
    return pool._replace(**rows)


class Scaling(NamedTuple):
    """Intensity scaling, computed on the meta-train pool and applied to every pool."""

    shift: np.ndarray
    scale: np.ndarray


def fit_scaling(images: np.ndarray | StoredImages, present: np.ndarray | None = None) -> Scaling:
    """Mean 0, standard deviation 1 per channel over `images` [N, *spatial, C] uint8.

    From sums of whole numbers, which are exact whatever the order of the images. Where channels are
    modalities, over the images that have it (`present` [N, C]), of which others are zeros.

    >>> scaling = fit_scaling(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    >>> scaling.shift, scaling.scale
    (array([0.5], dtype=float32), array([2.], dtype=float32))
    """
    having = np.full(images.shape[-1], len(images)) if present is None else present.sum(0)
    pixels = math.prod(images.shape[1:-1])
    shift, scale = [], []
    for images_, total, squares in zip(
        having.tolist(), *(part.tolist() for part in sums(images)), strict=True
    ):
        count = max(images_, 1) * pixels
        mean = total / (255 * count)
        # Python's whole numbers have no limit, and their quotient is rounded once.
        deviation = max(((count * squares - total**2) / (255 * count) ** 2) ** 0.5, 1e-3)
        shift.append(mean)
        scale.append(1 / deviation)
    return Scaling(np.asarray(shift, np.float32), np.asarray(scale, np.float32))


def sums(images: np.ndarray | StoredImages) -> tuple[np.ndarray, np.ndarray]:
    """The sums of all values and of their squares, by channel: [C] int64 each."""
    if isinstance(images, StoredImages):
        return images.looks.sums.sum(0), images.looks.squares.sum(0)
    counts = sum(map(level_counts, chunks(images)), np.zeros((images.shape[-1], 256), np.int64))
    return counts @ LEVELS, counts @ LEVELS**2


def pool_hash(pool: Pool) -> str:
    """The identity of a pool: its pixels and which class each is of; 16 hexadecimal digits."""
    if pool.identity is not None:
        return np.asarray(pool.identity).tobytes().hex()
    masks = None if pool.masks is None else np.asarray(pool.masks)
    return hash_of(np.asarray(pool.x), masks, pool)


def hash_of(images: np.ndarray | StoredImages, masks: Any, pool: Pool) -> str:
    """`pool_hash`, of images and masks (or None) in memory, or read some at a time."""
    digest = hashlib.sha256()

    def add(shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
        digest.update(repr(shape).encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())

    add(images.shape, chunks(images))
    if pool.masks is not None:
        add((len(masks), *pool.masks.shape[1:]), chunks(masks))
    more = (
        pool.shown, pool.values, pool.marks, pool.empty, pool.boxes, pool.kinds, pool.present,
        pool.covariates,
    )  # fmt: skip
    for part in (pool.rows, pool.labels, pool.group, *more):
        if part is not None:
            add(part.shape, [np.asarray(part)])
    return digest.hexdigest()[:16]


def make_pool(
    samples: Samples,
    classes: tuple[str, ...],
    scaling: Scaling,
    mixing: tuple[float, ...] = (),
) -> Pool:
    """The pool of the named classes; without its images where these stay in files.

    Args:
      mixing: how often an episode comes from each domain, in the order in which they come
        in the data set; by default all alike.

    Raises DataError where a class is not in the data set or has no image in it, and where
    there is not a number above 0 for each domain.

    >>> images = np.zeros((4, 2, 2, 1), np.uint8)
    >>> samples = Samples(images, np.array([0, 0, 1, 1]), ("a", "b"))
    >>> pool = make_pool(samples, ("b",), fit_scaling(images))
    >>> pool.x.shape, pool.rows.tolist(), pool.labels.tolist()
    ((2, 2, 2, 1), [[0, 1]], [1])
    """
    rows, used = members_of(samples, classes)
    place = np.full(len(samples.images), -1, np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    width = max(map(len, rows))
    table = np.full((len(rows), width), -1, np.int32)
    for row, members in zip(table, rows, strict=True):
        row[: len(members)] = place[members]
    if samples.groups is None:
        group = np.arange(len(used), dtype=np.int32)
    else:
        group = np.unique(samples.groups[used], return_inverse=True)[1].astype(np.int32)
    images = samples.images[used]
    same = same_images(images)
    domains, domain = class_domains(samples, rows)
    if mixing and (len(mixing) != len(domains) or min(mixing) <= 0):
        raise DataError(
            f"{samples.about}: mixing must be a number above 0 for each of {len(domains)} domains, "
            f"got {mixing}"
        )
    stored = isinstance(images, StoredImages)
    pool = Pool(
        x=jnp.zeros((0, *images.shape[1:]), jnp.uint8) if stored else jnp.asarray(images),
        group=jnp.asarray(joined(group, same)),
        same=jnp.asarray(same),
        rows=jnp.asarray(table),
        counts=jnp.asarray([len(members) for members in rows], jnp.int32),
        labels=jnp.asarray([samples.class_names.index(name) for name in classes], jnp.int32),
        domain=jnp.asarray(domain),
        mixing=jnp.asarray(mixing or (1.0,) * len(domains), jnp.float32),
        shift=jnp.asarray(scaling.shift),
        scale=jnp.asarray(scaling.scale),
        present=None if samples.present is None else jnp.asarray(samples.present[used]),
        covariates=None if samples.covariates is None else jnp.asarray(samples.covariates[used]),
        time=None if samples.times is None else jnp.asarray(samples.times[used]),
        **several_labels(samples, classes, domains, used),  # type: ignore[arg-type]
    )
    if not stored:
        return pool
    masks = None if samples.masks is None else samples.masks[used]
    identity = bytes.fromhex(hash_of(images, masks, pool))
    return pool._replace(identity=jnp.asarray(np.frombuffer(identity, np.uint8)))


def members_of(samples: Samples, classes: tuple[str, ...]) -> tuple[list[np.ndarray], np.ndarray]:
    """The places of each class's images, and of all images of its pool, in the pool's order
    (DataError)."""
    rows: list[np.ndarray] = []
    for name in classes:
        members = np.flatnonzero(shows(samples, name))
        if not len(members):
            raise DataError(f"class {name!r} has no images on this side of the split")
        rows.append(members)
    if samples.labels.ndim == 1:
        return rows, np.concatenate(rows)
    # Where images may have several labels, those with none are needed too.
    every = np.arange(len(samples.images))
    return rows, np.unique(np.concatenate(rows)) if on_every_side(samples) else every


def several_labels(
    samples: Samples, classes: tuple[str, ...], domains: list[str], used: np.ndarray
) -> dict[str, Array]:
    """The fields of a pool whose images may have several labels, or values, or lesions; none for
    classes."""
    if samples.no_lesion is not None and samples.masks is not None:
        empty = jnp.asarray(classes.index(samples.no_lesion), jnp.int32)
        return {"masks": jnp.asarray(samples.masks[used]), "empty": empty}
    if samples.labels.ndim == 1:
        return {}
    columns = [samples.class_names.index(name) for name in classes]
    labels = samples.labels[used][:, columns]
    if samples.masks is not None and samples.marks is not None:
        masks = samples.masks[used]
        if isinstance(masks, StoredImages):
            masks = np.zeros((0, *masks.shape[1:-1]), np.uint8)
        found = {"masks": masks, "marks": samples.marks[columns]}
        if samples.boxes is not None and samples.kinds is not None:
            found |= {"boxes": samples.boxes[used], "kinds": samples.kinds[used]}
        return {name: jnp.asarray(column) for name, column in found.items()}
    if has_values(samples):
        spread = np.nanstd(labels.astype(np.float64), axis=0)
        flat = [name for name, one in zip(classes, spread, strict=True) if not one > 0]
        if flat:
            raise DataError(
                f"{samples.about}: all values of {flat[0]!r} on one side of the split are the "
                "same; leave it out"
            )
        return {"values": jnp.asarray(labels), "spread": jnp.asarray(spread, jnp.float32)}
    home = np.zeros(len(used), np.int32)
    if samples.domains is not None:
        number = {name: place for place, name in enumerate(domains)}
        home = np.asarray([number.get(name, -1) for name in samples.domains[used]], np.int32)
    return {"shown": jnp.asarray(labels), "home": jnp.asarray(home)}


def class_domains(samples: Samples, rows: list[np.ndarray]) -> tuple[list[str], np.ndarray]:
    """The domains of classes with these images, by first appearance, and each class's own, -1
    for several."""
    if samples.domains is None:
        return [""], np.zeros(len(rows), np.int32)
    found = samples.domains[np.concatenate(rows)].tolist()
    names = list(dict.fromkeys(found))
    own = [set(samples.domains[members].tolist()) for members in rows]
    domain = [names.index(min(one)) if len(one) == 1 else -1 for one in own]
    return names, np.asarray(domain, np.int32)


def example_pool(classes: int = 4, each: int = 6, size: int = 8) -> Pool:
    """A pool of noise, as brighter as its class is higher: for examples and first tries.

    >>> example_pool().x.shape
    (24, 8, 8, 1)
    """
    noise = np.random.default_rng(0).integers(0, 60, (classes * each, size, size, 1))
    labels = np.repeat(np.arange(classes), each).astype(np.int32)
    images = (noise + labels[:, None, None, None] * (190 // classes)).astype(np.uint8)
    names = tuple(f"class{label}" for label in range(classes))
    return make_pool(Samples(images, labels, names), names, fit_scaling(images))
