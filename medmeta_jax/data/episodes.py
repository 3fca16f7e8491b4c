"""Episodes by index arithmetic, inside the compiled step.

`sample_indices` draws which images play which part; `gather` fetches them. The same key
gives the same episode, on any device. Slots that an episode does not fill are padding
(index -1, mask False), so one executable serves every way and shot of a run.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.data.pool import Pool
from medmeta_jax.data.samples import DataError
from medmeta_jax.types import Array, Episode, Examples

Range = int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class EpisodeSpec:
    """What an episode looks like.

    ways, shots: a number, or (lowest, highest) drawn anew each episode.
    queries: query images a class; `ways * queries` in all.
    disjoint: support and query share no "image", or no "group" (and so no image).
    balance: "balanced" queries, or "proportional" to the classes' sizes in the pool.
    """

    ways: Range = 5
    shots: Range = 1
    queries: int = 15
    disjoint: Literal["image", "group"] = "image"
    balance: Literal["balanced", "proportional"] = "balanced"

    def __post_init__(self) -> None:
        for name in ("ways", "shots"):
            low, high = bounds(getattr(self, name))
            least = 2 if name == "ways" else 1
            if not least <= low <= high:
                raise ValueError(f"{name} must be >= {least}, lowest first, got {low}, {high}")
        if self.queries < 1:
            raise ValueError(f"queries must be >= 1, got {self.queries}")


class Indices(NamedTuple):
    """An episode as places in a pool, -1 for padding.

    support: [ways * shots], query: [ways * queries]: image index.
    support_y, query_y: the way of each. classes: [ways]: class index in the pool.
    """

    support: Array
    support_y: Array
    query: Array
    query_y: Array
    classes: Array


def bounds(value: Range) -> tuple[int, int]:
    """(lowest, highest) of a fixed number or a range."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def sample_indices(key: Array, pool: Pool, spec: EpisodeSpec) -> Indices:
    """Draw one episode: classes, then support images, then query images.

    Classes are drawn without replacement and put in random order. Under
    `disjoint="group"` the episode's groups are put in one random order; each class takes
    its support from the first groups that hold `shots` of its images, and no group taken
    by any class is left to any query. Support images are then uniform over the groups
    taken, queries over the rest; a class with too few left has padding in their place.
    """
    class_key, group_key, way_key, shot_key, support_key, query_key = jax.random.split(key, 6)
    ways, shots = bounds(spec.ways), bounds(spec.shots)
    n_ways = jax.random.randint(way_key, (), ways[0], ways[1] + 1)
    n_shots = jax.random.randint(shot_key, (), shots[0], shots[1] + 1)

    order = jax.random.permutation(class_key, pool.rows.shape[0])[: ways[1]]
    classes = jnp.where(jnp.arange(ways[1]) < n_ways, order, -1)
    rows = jnp.where(classes[:, None] >= 0, pool.rows[order], -1)  # [ways, M]
    there = rows >= 0

    if spec.disjoint == "group":
        for_support, for_query = split_groups(group_key, pool.group, rows, n_shots)
    else:
        for_support = for_query = there
    support, support_y = choose(support_key, rows, for_support, shots[1], n_shots)
    if spec.disjoint == "image":
        taken = jnp.zeros(pool.x.shape[0] + 1, jnp.bool_).at[support].set(True).at[-1].set(False)
        for_query = there & ~taken[rows]
    if spec.balance == "balanced":
        query, query_y = choose(query_key, rows, for_query, spec.queries, spec.queries)
    else:
        flat, _ = choose(
            query_key,
            rows.reshape(1, -1),
            for_query.reshape(1, -1),
            ways[1] * spec.queries,
            n_ways * spec.queries,
        )
        way_of = jnp.zeros(pool.x.shape[0] + 1, jnp.int32)
        way_of = way_of.at[rows].set(jnp.broadcast_to(jnp.arange(ways[1])[:, None], rows.shape))
        query, query_y = flat, way_of[flat]
    return Indices(support, support_y, query, query_y, classes)


def split_groups(key: Array, group: Array, rows: Array, shots: Array) -> tuple[Array, Array]:
    """Which entries of `rows` [ways, M] may be support and which query, groups apart."""
    there = rows >= 0
    rank = jax.random.permutation(key, group.shape[0]).astype(jnp.int32)
    group_of = group[rows]
    rank_of = jnp.where(there, rank[group_of], jnp.iinfo(jnp.int32).max)
    ranks_in_order = jnp.sort(rank_of, axis=1)
    last = jnp.minimum(shots - 1, rows.shape[1] - 1)
    threshold = jnp.take_along_axis(ranks_in_order, jnp.full((rows.shape[0], 1), last), axis=1)
    own = there & (rank_of <= threshold)
    # Padding writes to one slot past the groups, which is never read.
    target = jnp.where(own, group_of, group.shape[0])
    taken = jnp.zeros(group.shape[0] + 1, jnp.bool_).at[target].set(True)
    return own, there & ~taken[group_of]


def choose(
    key: Array, rows: Array, allowed: Array, slots: int, wanted: Array | int
) -> tuple[Array, Array]:
    """Draw `wanted` of the allowed entries of each row without replacement.

    Returns ([ways * slots] image index, -1 where there is none; [ways * slots] way).
    """
    noise = jnp.where(allowed, jax.random.uniform(key, rows.shape), -1.0)
    if noise.shape[1] < slots:
        noise = jnp.pad(noise, ((0, 0), (0, slots - noise.shape[1])), constant_values=-1.0)
        rows = jnp.pad(rows, ((0, 0), (0, slots - rows.shape[1])), constant_values=-1)
    best, where = jax.lax.top_k(noise, slots)
    filled = (best >= 0) & (jnp.arange(slots) < wanted)
    chosen = jnp.where(filled, jnp.take_along_axis(rows, where, axis=1), -1)
    way = jnp.broadcast_to(jnp.arange(rows.shape[0], dtype=jnp.int32)[:, None], chosen.shape)
    return chosen.reshape(-1), way.reshape(-1)


def gather(pool: Pool, indices: Indices) -> Episode:
    """Fetch an episode's images, scaled to float32. Padding is zeros with mask False."""

    def side(index: Array, y: Array) -> Examples:
        mask = index >= 0
        x = (pool.x[index].astype(jnp.float32) / 255.0 - pool.shift) * pool.scale
        x = jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0)
        return Examples(x, jnp.where(mask, y, 0), mask)

    classes = jnp.where(indices.classes >= 0, pool.labels[indices.classes], -1)
    return Episode(
        side(indices.support, indices.support_y), side(indices.query, indices.query_y), classes
    )


def sample(key: Array, pool: Pool, spec: EpisodeSpec) -> Episode:
    """Draw one episode from the pool; see `sample_indices`."""
    return gather(pool, sample_indices(key, pool, spec))


def episodes_hash(pool: Pool, indices: Indices) -> str:
    """The identity of a list of episodes: their images' bytes, places and labels.

    `indices` has a leading axis of episodes. Two lists are equal exactly when every
    episode shows the same pixels in the same parts; 16 hexadecimal digits of SHA-256.
    """
    digest = hashlib.sha256(pool_hash(pool).encode())
    for part in indices:
        digest.update(np.ascontiguousarray(np.asarray(part, np.int32)).tobytes())
    return digest.hexdigest()[:16]


def pool_hash(pool: Pool) -> str:
    """The identity of a pool: its pixels and which class each is of."""
    digest = hashlib.sha256()
    for part in (pool.x, pool.rows, pool.labels, pool.group):
        array = np.asarray(part)
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def check_pool(pool: Pool, spec: EpisodeSpec, class_names: tuple[str, ...], side: str) -> None:
    """Refuse, before anything is compiled, a pool that cannot give such episodes.

    Raises DataError naming the side of the split, the class, and the number it lacks.
    """
    ways, shots = bounds(spec.ways)[1], bounds(spec.shots)[1]
    if len(class_names) < ways:
        raise DataError(
            f"{side}: {ways} ways need {ways} classes, there are {len(class_names)}; "
            f"lower ways or add classes"
        )
    rows, group = np.asarray(pool.rows), np.asarray(pool.group)
    for name, row in zip(class_names, rows, strict=True):
        members = row[row >= 0]
        if spec.disjoint == "image":
            if len(members) <= shots:
                raise DataError(
                    f"{side}: class {name!r} has {len(members)} images, {shots} shots and a "
                    f"query need at least {shots + 1}; lower shots or add images"
                )
            continue
        sizes = np.unique(group[members], return_counts=True)[1]
        if len(sizes) < 2:
            raise DataError(
                f"{side}: class {name!r} has 1 group, support and query need at least 2; "
                f"add groups or set disjoint to 'image'"
            )
        if sizes.sum() - sizes.max() < shots:
            raise DataError(
                f"{side}: class {name!r} has {sizes.sum() - sizes.max()} images outside its "
                f"largest group, {shots} shots need {shots}; lower shots or add groups"
            )
