"""Leave modalities out at random, so that a network learns to do with those that are there.

HeMIS (arXiv 1607.05194) draws for each image which are present, uniformly. Here they are drawn once
for a whole episode, since a hospital that has no FLAIR has none of any patient: an episode whose
images lack one each by chance is not what a learner is judged on, and hardly ever one of T1 alone.
And in a share of the episodes all stay, since where all are there is where most is to be learned.
Of images of several modalities, whose channels these are; of others it would take the colours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, require_magnitude
from medmeta_jax.types import Array


def drop_modalities(*, magnitude: float = 0.25) -> Op:
    """With this probability, make each channel of an image NaN, which says absent, with even odds;
    where none of those present is left, one of them stays, drawn uniformly."""
    require_magnitude(magnitude, 1)

    def change(key: Array, image: Array) -> Array:
        whether_key, drop_key, keep_key = jax.random.split(key, 3)
        channels = image.shape[-1]
        present = ~jnp.isnan(image).any(range(image.ndim - 1))
        kept = jax.random.bernoulli(drop_key, 0.5, (channels,))
        order = jnp.where(present, jax.random.uniform(keep_key, (channels,)), -1.0)
        one = jnp.arange(channels) == jnp.argmax(order)
        kept = jnp.where((kept & present).any(), kept, one)
        kept |= ~jax.random.bernoulli(whether_key, magnitude)
        return jnp.where(kept, image, jnp.nan)

    return Op(intensity=change, alike=True)
