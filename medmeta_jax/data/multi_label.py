"""Episodes of images that may show several labels at once, or none.

An episode's ways are labels. **k shots of a label are k images that show it.** An image that is
drawn for one label counts for every other way it shows, and stands in the support once, so a
label may have more than k positive images; and beside them stand k images that show none of the
episode's ways. Queries alike. The labels of all of them are known: y is [n, ways], 1 or 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.data.episodes import (
    EpisodeSpec,
    Indices,
    bounds,
    choose,
    draw_classes,
    is_used,
    split_groups,
)
from medmeta_jax.data.pool import Pool
from medmeta_jax.types import Array


def sample_indices(key: Array, pool: Pool, spec: EpisodeSpec) -> Indices:
    """Draw one episode: labels, then images of each and of none, for support and for query.

    Support and query share no image, or no group, as `episodes.sample_indices` has it. All
    slots: [(ways + 1) * shots] and [(ways + 1) * queries], -1 where there are too few images,
    and where an image is there already.
    """
    assert pool.shown is not None
    assert pool.home is not None
    class_key, group_key, shot_key, *keys = jax.random.split(key, 7)
    ways, shots = bounds(spec.ways)[1], bounds(spec.shots)
    n_shots = jax.random.randint(shot_key, (), shots[0], shots[1] + 1)
    classes = draw_classes(class_key, pool, spec, jnp.asarray(ways))
    rows, every = pool.rows[classes], jnp.arange(pool.group.shape[0], dtype=jnp.int32)
    shown = pool.shown[:, classes]  # [N, ways]
    without = ~shown.any(1)
    if spec.within == "domain":  # what an image of another data set shows is not known
        without &= pool.home == pool.domain[classes[0]]
    none = jnp.where(without, every, -1)[None]  # [1, N]
    there, none_there = rows >= 0, none >= 0
    for_support = for_query = there, none_there

    assert spec.disjoint != "time"
    if spec.disjoint == "group":
        own, rest, taken = split_groups(group_key, pool.group, rows, n_shots)
        of_support = taken[pool.group][None]
        for_support, for_query = (own, none_there & of_support), (rest, none_there & ~of_support)
    support = both(keys[0], keys[1], rows, none, for_support, shots[1], n_shots)
    if spec.disjoint == "image":
        used = is_used(pool, support)
        for_query = there & ~used[rows], none_there & ~used[none]
    query = both(keys[2], keys[3], rows, none, for_query, spec.queries, spec.queries)
    return Indices(support, shown[support].astype(int), query, shown[query].astype(int), classes)


def both(
    key: Array,
    none_key: Array,
    rows: Array,
    none: Array,
    allowed: tuple[Array, Array],
    slots: int,
    wanted: Array | int,
) -> Array:
    """Images of each label and images of none, each image once: [(ways + 1) * slots].

    Of an image that is drawn for several labels the place in the earliest draw stays, so that
    the first k draws hold k images of each label for every k.
    """
    of_labels, _ = choose(key, rows, allowed[0], slots, wanted)
    of_none, _ = choose(none_key, none, allowed[1], slots, wanted)
    index = jnp.concatenate([of_labels, of_none])
    place = jnp.arange(index.shape[0])
    draw = place % slots * index.shape[0] + place
    earlier = ((index[:, None] == index) & (draw[:, None] > draw)).any(1)
    return jnp.where(earlier, -1, index)
