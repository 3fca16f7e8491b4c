"""Structures to be marked in images, from masks of any number of values: each value is one, and all
of them together are another. A task is one structure, in a few images that show it.
"""

from __future__ import annotations

import numpy as np

from medmeta_jax.data.samples import DataError, Samples
from medmeta_jax.data.stored import StoredImages, chunks

LEAST = 4  # pixels of a structure, for an image to show it
ANY = "any"


def structures(samples: Samples) -> Samples:
    """The samples with the structures of their masks as classes, in place of their own.

    Names are the values in the masks, and `ANY`. An image whose mask is empty shows none. Raises
    DataError where no image shows any.
    """
    masks = samples.masks
    assert masks is not None
    shown = values_shown(masks)
    values = np.flatnonzero(shown.any(0))  # of which 0 is any of the others
    if not len(values):
        raise DataError(
            f"{samples.about}: no image shows {LEAST} pixels or more of a structure; give a larger "
            "image_size, or look at the masks"
        )
    if len(values) == 2:
        values = values[:1]  # the only one is any of them
    return samples._replace(
        labels=shown[:, values],
        class_names=tuple(str(value) if value else ANY for value in values),
        marks=values.astype(np.uint8),
        split=None,
    )


def values_shown(masks: np.ndarray | StoredImages) -> np.ndarray:
    """Which values a mask shows in `LEAST` pixels or more; by 0, of any others: [N, 256] bool."""
    found = []
    for some in chunks(masks):
        counts = np.stack([np.bincount(mask.ravel(), minlength=256) for mask in some])
        counts[:, 0] = counts[:, 1:].sum(1)
        found.append(counts >= LEAST)
    return np.concatenate(found)
