"""Give what is marked another contrast, so that it becomes another kind of thing.

A task augmentation (Ni et al., 2021, arXiv 2010.07092) at the level of a lesion: of each kind that
an episode marks, all images are changed alike, support and query, so that a network that is
meta-trained on six types of lesions meets many more, bright ones where there were dark ones, on
anatomy that stays as it is.

    x ← x + (g - 1) m (x - s),   g_c = ±U(0.3, 1.4) for each channel c

s is what surrounds the thing: the mean of what is not marked nearby, weighed by a Gaussian. m is
the mark, a pixel wider and with a soft border, since a lesion fades beyond the line that is drawn.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, blurred, require_magnitude
from medmeta_jax.types import Array

LEAST, MOST = 0.3, 1.4  # of the contrast that was there
NEARBY = 1 / 20  # spread of the surroundings' Gaussian, of the image's longer side
BORDER = 0.7  # pixels, spread of the mark's soft border
FAR = 1e-3  # weight of all that is not marked in a plane, where nothing nearby is


def widened(marked: Array) -> Array:
    """Marks [..., H, W] bool, and the eight pixels around each."""
    window = (*(1,) * (marked.ndim - 2), 3, 3)
    return jax.lax.reduce_window(
        marked, False, jax.lax.bitwise_or, window, (1,) * marked.ndim, "SAME"
    )


def surroundings(image: Array, free: Array) -> Array:
    """What surrounds each pixel of an image [..., H, W, C]: a mean of those that are `free`
    [..., H, W, 1]."""
    spread = max(image.shape[-3:-1]) * NEARBY
    reach = min(round(3 * spread), *image.shape[-3:-1])
    middle = (image * free).sum((-3, -2), keepdims=True)
    middle /= jnp.maximum(free.sum((-3, -2), keepdims=True), 1)
    total = blurred(image * free, spread, reach) + FAR * middle
    return total / (blurred(free, spread, reach) + FAR)


def recontrast(*, magnitude: float = 0.5) -> Op:
    """With this probability, multiply a kind's contrast by a factor for each channel; an image
    whose map has several kinds is changed as its last one."""
    require_magnitude(magnitude, 1)

    def change(key: Array, image: Array, label_map: Array) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, label_map.max()), 3)
        channels = (image.shape[-1],)
        size = jax.random.uniform(keys[0], channels, image.dtype, LEAST, MOST)
        factor = jnp.where(jax.random.bernoulli(keys[1], 0.5, channels), size, -size)
        factor = jnp.where(jax.random.bernoulli(keys[2], magnitude), factor, 1)
        wide = widened(label_map > 0)[..., None].astype(image.dtype)
        border = blurred(wide, BORDER, 2)
        return image + (factor - 1) * border * (image - surroundings(image, 1 - wide))

    return Op(marked=change, alike=True)
