"""Exact copies: images of the same pixels, which must not be told apart by chance.

A copy of a support image among the queries, or of a trained image among the judged ones, is
answered from memory. Images of one value only (a blank slice) show nothing and are no copies.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from medmeta_jax.data.stored import StoredImages


def digest_of(image: np.ndarray) -> bytes | None:
    """What copies of an image have in common; None for an image of one value."""
    if (image == image.flat[0]).all():
        return None
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def digests(
    images: np.ndarray | StoredImages, places: np.ndarray | None = None
) -> list[bytes | None]:
    """`digest_of` the images at some places, by default of all."""
    if isinstance(images, np.ndarray):
        chosen = range(len(images)) if places is None else places.tolist()
        return [digest_of(images[place]) for place in chosen]
    looks = (images if places is None else images[places]).looks
    return [
        None if plain else digest.tobytes()
        for digest, plain in zip(looks.digest, looks.plain.tolist(), strict=True)
    ]


def same_images(images: np.ndarray | StoredImages) -> np.ndarray:
    """The place of the first image with the same pixels: [N] int32.

    >>> same_images(np.asarray([[0, 1], [2, 3], [0, 1], [5, 5], [5, 5]])).tolist()
    [0, 1, 0, 3, 4]
    """
    first: dict[bytes, int] = {}
    places = []
    for place, digest in enumerate(digests(images)):
        places.append(place if digest is None else first.setdefault(digest, place))
    return np.asarray(places, np.int32)


def joined(groups: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Groups [N] int with those that share an image made one: the lowest number among them.

    >>> joined(np.asarray([0, 1, 2, 2]), np.asarray([0, 1, 0, 3])).tolist()
    [0, 1, 0, 0]
    """
    count = int(groups.max(initial=0)) + 1
    links = (np.ones(len(groups)), (groups, groups[same]))
    graph = coo_array(links, shape=(count, count))
    part = connected_components(graph, directed=False)[1]
    lowest = np.full(count, count)
    np.minimum.at(lowest, part, np.arange(count))
    return np.asarray(lowest[part][groups], groups.dtype)
