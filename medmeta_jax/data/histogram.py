"""Histogram standardisation: the intensities of every domain brought onto one scale.

Nyúl and Udupa, "On standardizing the MR image intensity scale", Magnetic Resonance in Medicine
42 (1999) 1072; the landmarks are the percentiles of Shah et al. (2011): each domain's intensities
have landmarks at fixed percentiles, the standard's are the mean of the meta-train domains', and a
domain's intensities are mapped from its own to the standard's, linearly between two landmarks.

Deviations: landmarks are of all images of a domain (a scanner, a modality) together, since the
intensities of images of 8 bits mean the same within it; 0, which is padding and background, stays 0
and is counted nowhere. Colours are counted and mapped alike in every channel.

Of a domain of meta-training, no image of the other sides has a part in its landmarks. A domain that
is only validated or judged on has none there: its landmarks are of its own images, without their
labels. That is transductive over the data set, and tables say so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medmeta_jax.data.samples import Samples
from medmeta_jax.data.stored import StoredImages, chunks

PERCENTILES = np.asarray([1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99], float)
LEVELS = np.arange(256)


def landmarks(images: np.ndarray | StoredImages) -> np.ndarray:
    """The levels at `PERCENTILES` of images' intensities above 0: [11] float64.

    images: [N, ...] uint8. Of images that are 0 throughout, levels that map to themselves.

    >>> landmarks(np.arange(101, dtype=np.uint8))[[0, 5, 10]].tolist()
    [1.0, 50.0, 99.0]
    """
    counts = np.zeros(256, np.int64)
    for some in chunks(images):
        counts += np.bincount(some.ravel(), minlength=256)
    counts[0] = 0
    if not counts.any():
        return 2.55 * PERCENTILES
    below = np.cumsum(counts)
    places = np.searchsorted(below, PERCENTILES / 100 * below[-1])
    return places.astype(float)


def table(own: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """What each level becomes: [256] uint8. own, standard: landmarks [11].

    >>> doubled = table(landmarks(np.arange(101, dtype=np.uint8)), 2 * PERCENTILES)
    >>> doubled[[0, 10, 50, 99, 255]].tolist()
    [0, 20, 100, 198, 255]
    """
    levels, first = np.unique(np.concatenate([[0.0], own, [255.0]]), return_index=True)
    # Where landmarks fall together, the lowest stands, but 0 and 255 stay themselves.
    goals = np.concatenate([[0.0], standard, [255.0]])[first]
    goals[-1] = 255.0
    return np.interp(LEVELS, levels, goals).round().astype(np.uint8)


def standardise(
    sources: Mapping[str, Samples], used: Mapping[str, np.ndarray], own: tuple[str, ...]
) -> dict[str, Samples]:
    """The samples of each side with the intensities of every domain on one scale.

    Args:
      sources: by side, "train" among them.
      used: which images of each side its classes hold: [N] bool.
      own: the sides whose images are of the data sets that are meta-trained on.
    """
    train = domains_of(sources["train"])
    of_train = {
        name: landmarks(sources["train"].images[used["train"] & (train == name)])
        for name in np.unique(train[used["train"]]).tolist()
    }
    standard = np.mean(list(of_train.values()), axis=0)
    found = {}
    for side, samples in sources.items():
        names, of_name = np.unique(domains_of(samples), return_inverse=True)
        tables = []
        for number, name in enumerate(names.tolist()):
            known = of_train.get(name) if side in own else None
            levels = landmarks(samples.images[of_name == number]) if known is None else known
            tables.append(table(levels, standard))
        found[side] = samples._replace(images=mapped(samples.images, np.stack(tables), of_name))
    return found


def mapped(
    images: np.ndarray | StoredImages, tables: np.ndarray, of_table: np.ndarray
) -> np.ndarray | StoredImages:
    """Images [N, ...] with their values as the row of `tables` [K, 256] that `of_table` [N] names
    has them."""
    if isinstance(images, StoredImages):
        return images.mapped(tables, of_table)
    changed = images.copy()
    for number, levels in enumerate(tables):
        here = of_table == number
        changed[here] = levels[images[here]]
    return changed


def domains_of(samples: Samples) -> np.ndarray:
    """The domain of each image, one for all where none is named: [N] str."""
    return np.full(len(samples.images), "") if samples.domains is None else samples.domains
