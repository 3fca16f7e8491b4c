"""Structures to be marked in images, from masks of any number of values: each value is one, and all
of them together are another. A task is one structure, in a few images that show it.
"""

from __future__ import annotations

import numpy as np

from medmeta_jax.data.samples import DataError, Samples

LEAST = 4  # pixels of a structure, for an image to show it
ANY = "any"


def structures(samples: Samples) -> Samples:
    """The samples with the structures of their masks as classes, in place of their own.

    Names are the values in the masks, and `ANY`. An image whose mask is empty shows none. Raises
    DataError where no image shows any.
    """
    masks = samples.masks
    assert masks is not None
    values = np.flatnonzero(np.bincount(masks.ravel(), minlength=256)[1:]) + 1
    several = [(str(value), masks == value) for value in values] if len(values) > 1 else []
    found = [(ANY, masks > 0), *several]
    axes = tuple(range(1, masks.ndim))
    shown = np.stack([np.count_nonzero(where, axes) >= LEAST for _, where in found], 1)
    kept = shown.any(0)
    if not kept.any():
        raise DataError(
            f"{samples.about}: no image shows {LEAST} pixels or more of a structure; give a larger "
            "image_size, or look at the masks"
        )
    marks = np.asarray([0, *values[: len(several)]], np.uint8)
    names = tuple(found[place][0] for place in np.flatnonzero(kept))
    return samples._replace(labels=shown[:, kept], class_names=names, marks=marks[kept], split=None)
