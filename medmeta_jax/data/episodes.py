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

from medmeta_jax.data.pool import Pool, pool_hash
from medmeta_jax.types import Array, Episode, Examples, select

Range = int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class EpisodeSpec:
    """What an episode looks like.

    ways, shots: a number, or (lowest, highest) drawn anew each episode. One way is for values
        and masks: an episode is of one thing that was measured, one structure, or one kind of
        object.
    queries: query images a class; `ways * queries` in all.
    disjoint: support and query share no "image", or no "group" (and so no image); by "time" a
        class's support is its earliest images, and all queries are later than all of the support.
    balance: "balanced" queries, or "proportional" to the classes' sizes in the pool.
    within: an episode's classes are of "any" domain, or all of one "domain", drawn by
        `Pool.mixing`; of one with fewer classes than the ways drawn, it has all of them.
    shuffle: classes stand in random order, so that a way's number says nothing; else in the
        pool's order, for classes that have one (grades). Of lesions, the class of images without
        one (`Pool.empty`) is the last way of every episode.
    rotate: a class turned by 90, 180 or 270 degrees is another class (Santoro et al., arXiv
        1605.06065). Not for anatomy, which has an up and a down.

    >>> EpisodeSpec(ways=3, shots=(1, 5)).shots
    (1, 5)
    >>> EpisodeSpec(ways=0)
    Traceback (most recent call last):
    ValueError: ways must be >= 1, lowest first, got 0, 0
    """

    ways: Range = 5
    shots: Range = 1
    queries: int = 15
    disjoint: Literal["image", "group", "time"] = "image"
    balance: Literal["balanced", "proportional"] = "balanced"
    within: Literal["any", "domain"] = "any"
    shuffle: bool = True
    rotate: bool = False

    def __post_init__(self) -> None:
        for name in ("ways", "shots"):
            low, high = bounds(getattr(self, name))
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be >= 1, lowest first, got {low}, {high}")
        if self.queries < 1:
            raise ValueError(f"queries must be >= 1, got {self.queries}")
        if self.rotate and self.balance == "proportional":
            raise ValueError("balance must be 'balanced' with rotate, got 'proportional'")


class Indices(NamedTuple):
    """An episode as places in a pool, -1 for padding.

    support: [ways * shots], query: [ways * queries]: image index.
    support_y, query_y: the way of each; where images have several labels, 1 or 0 for each way;
        where they have values, float32 (`with_values`).
    classes: [ways]: class index in the pool, plus the pool's number of classes for each
        quarter turn.
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

    Classes are drawn without replacement (`draw_classes`). Under
    `disjoint="group"` the episode's groups are put in one random order; each class takes
    its support from the first groups that hold `shots` of its images, and no group taken
    by any class is left to any query. Support images are then uniform over the groups
    taken, queries over the rest; a class with too few left has padding in their place.

    >>> from medmeta_jax.data.pool import example_pool
    >>> spec = EpisodeSpec(ways=2, shots=1, queries=3)
    >>> found = sample_indices(jax.random.key(0), example_pool(), spec)
    >>> found.support.shape, found.query.shape, found.support_y.tolist()
    ((2,), (6,), [0, 1])
    """
    if pool.shown is not None:
        from medmeta_jax.data import multi_label  # which draws with the functions of this file

        return multi_label.sample_indices(key, pool, spec)
    class_key, group_key, way_key, shot_key, support_key, query_key = jax.random.split(key, 6)
    ways, shots = bounds(spec.ways), bounds(spec.shots)
    n_ways = jax.random.randint(way_key, (), ways[0], ways[1] + 1)
    n_shots = jax.random.randint(shot_key, (), shots[0], shots[1] + 1)

    classes = draw_classes(class_key, pool, spec, n_ways)
    n_ways = (classes >= 0).sum()
    rows = pool.rows[classes % pool.rows.shape[0]]
    rows = jnp.where(classes[:, None] >= 0, rows, -1)  # [ways, M]
    there = rows >= 0

    if spec.disjoint == "group":
        for_support, for_query = split_groups(group_key, pool.group, rows, n_shots)[:2]
    elif spec.disjoint == "time":
        for_support, for_query = split_times(pool, rows, n_shots)
    else:
        for_support = for_query = there
    support, support_y = choose(support_key, rows, for_support, shots[1], n_shots)
    if spec.disjoint != "group":  # whose groups hold all copies of an image
        for_query &= ~is_used(pool, support)[rows]
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
        way_of = jnp.zeros(pool.group.shape[0] + 1, jnp.int32)
        way_of = way_of.at[rows].set(jnp.broadcast_to(jnp.arange(ways[1])[:, None], rows.shape))
        query, query_y = flat, way_of[flat]
    drawn = Indices(support, support_y, query, query_y, classes)
    return drawn if pool.values is None else with_values(pool, drawn)


def with_values(pool: Pool, drawn: Indices) -> Indices:
    """An episode of one thing that was measured, with its values for labels: how far each is from
    the support's mean, in standard deviations of the pool's images."""
    assert pool.values is not None
    assert pool.spread is not None
    own, spread = pool.values[:, drawn.classes[0]], pool.spread[drawn.classes[0]]
    there = drawn.support >= 0
    total = jnp.where(there, own[drawn.support], 0).sum()
    mean = total / jnp.maximum(there.sum(), 1).astype(total.dtype)

    def standard(index: Array) -> Array:
        return jnp.where(index >= 0, (own[index] - mean) / spread, 0)

    return drawn._replace(support_y=standard(drawn.support), query_y=standard(drawn.query))


def draw_classes(key: Array, pool: Pool, spec: EpisodeSpec, n_ways: Array) -> Array:
    """The classes of an episode as `Indices.classes` has them: [most ways], -1 where absent."""
    turns, most = 4 if spec.rotate else 1, bounds(spec.ways)[1]
    count = turns * pool.rows.shape[0]
    if pool.empty is not None:
        most, n_ways = most - 1, n_ways - 1
        noise = jax.random.uniform(key, (count,)).at[pool.empty].set(-1.0)
        order = jax.lax.top_k(noise, most)[1]
    elif spec.within == "any":
        order = jax.random.permutation(key, count)[:most]
    else:
        domain_key, key = jax.random.split(key)
        domain = jax.random.categorical(domain_key, jnp.log(pool.mixing))
        own = jnp.tile(pool.domain == domain, turns)
        order = jax.lax.top_k(jnp.where(own, jax.random.uniform(key, (count,)), -1.0), most)[1]
        n_ways = jnp.minimum(n_ways, own.sum())
    present = jnp.arange(most) < n_ways
    if not spec.shuffle:
        order = jnp.sort(jnp.where(present, order, count))
    classes = jnp.where(present, order, -1).astype(jnp.int32)
    return classes if pool.empty is None else jnp.append(classes, pool.empty)


def split_groups(key: Array, group: Array, rows: Array, shots: Array) -> tuple[Array, Array, Array]:
    """Which entries of `rows` [ways, M] may be support and which query, groups apart; and
    which groups are the support's ([groups + 1] bool, the last one never)."""
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
    return own, there & ~taken[group_of], taken.at[-1].set(False)


def split_times(pool: Pool, rows: Array, shots: Array) -> tuple[Array, Array]:
    """Which entries of `rows` [ways, M] may be support, the earliest of each class, and which
    query, those later than all of these. Of images of one time the pool's first are the earlier."""
    assert pool.time is not None
    there = rows >= 0
    time = jnp.where(there, pool.time[rows], jnp.inf)
    rank = jnp.argsort(jnp.argsort(time, axis=1), axis=1)
    earliest = there & (rank < shots)
    last = jnp.where(earliest, time, -jnp.inf).max()
    return earliest, there & (time > last)


def is_used(pool: Pool, support: Array) -> Array:
    """Which images are in a support set, -1 for padding, or are copies of one: [N] bool."""
    first = jnp.where(support >= 0, pool.same[support], pool.same.shape[0])
    used = jnp.zeros(pool.same.shape[0], jnp.bool_).at[first].set(True, mode="drop")
    return used[pool.same]


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


def quarter_turns(x: Array, turns: Array) -> Array:
    """Images [n, S, S, C], each turned by so many [n] times 90 degrees. ValueError for volumes."""
    if x.ndim != 4:
        raise ValueError(f"rotate turns pictures, x must be [n, S, S, C], got {x.shape}")
    turned = jnp.stack([jnp.rot90(x, k, (1, 2)) for k in range(4)])
    return turned[turns % 4, jnp.arange(x.shape[0])]


def gather(pool: Pool, indices: Indices, *, rotate: bool = False) -> Episode:
    """Fetch an episode's images, scaled to float32. Padding is zeros with mask False."""
    count = pool.rows.shape[0]

    def side(index: Array, y: Array) -> Examples:
        mask = index >= 0
        x = pool.x[index]
        if pool.masks is not None:
            drawn = pool.masks[index]
            if pool.marks is None:  # of lesions, each marked by its way, the first as 1
                way = jnp.expand_dims(y + 1, tuple(range(1, drawn.ndim)))
                y = jnp.where(drawn > 0, way, 0).astype(jnp.int32)
            else:
                own = pool.marks[indices.classes[0]]
                y = jnp.where(own == 0, drawn > 0, drawn == own).astype(jnp.int32)
        if rotate:
            x = quarter_turns(x, (indices.classes // count)[y])
        x = (x.astype(jnp.float32) / 255.0 - pool.shift) * pool.scale
        if pool.present is not None:
            there = pool.present[index].reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1])
            x = jnp.where(there, x, jnp.nan)
        if pool.covariates is not None:
            known = jnp.expand_dims(pool.covariates[index], tuple(range(1, x.ndim - 1)))
            planes = jnp.broadcast_to(known, (*x.shape[:-1], known.shape[-1]))
            x = jnp.concatenate([x, planes], -1)
        return Examples(select(x, mask), select(y, mask), mask)

    truth = None
    if pool.boxes is not None and pool.kinds is not None and pool.marks is not None:
        index = indices.query
        own = (pool.kinds[index] == pool.marks[indices.classes[0]]) & (index >= 0)[:, None]
        truth = jnp.where(own[..., None, None], pool.boxes[index], jnp.nan)
    classes = jnp.where(indices.classes >= 0, pool.labels[indices.classes % count], -1)
    return Episode(
        side(indices.support, indices.support_y),
        side(indices.query, indices.query_y),
        classes,
        pool.domain[indices.classes[0] % count],
        truth,
    )


def sample(key: Array, pool: Pool, spec: EpisodeSpec) -> Episode:
    """Draw one episode from the pool; see `sample_indices`.

    Of a pool that holds the images of some episodes alone, the one that was drawn by the key; for
    another key all images are NaN.

    >>> from medmeta_jax.data.pool import example_pool
    >>> spec = EpisodeSpec(ways=2, shots=1, queries=3)
    >>> episode = sample(jax.random.key(0), example_pool(), spec)
    >>> episode.support.x.shape, episode.query.y.tolist()
    ((2, 8, 8, 1), [0, 0, 0, 1, 1, 1])
    """
    if pool.drawn is None:
        return gather(pool, sample_indices(key, pool, spec), rotate=spec.rotate)
    there = (pool.drawn.keys == jax.random.key_data(key)).all(-1)
    indices = jax.tree.map(lambda part: part[there.argmax()], pool.drawn.indices)
    episode = gather(pool, indices, rotate=spec.rotate)
    support, query = (
        side._replace(x=jnp.where(there.any(), side.x, jnp.nan))
        for side in (episode.support, episode.query)
    )
    return episode._replace(support=support, query=query)


def episodes_hash(pool: Pool, indices: Indices) -> str:
    """The identity of a list of episodes: their images' bytes, places and labels.

    `indices` has a leading axis of episodes. Two lists are equal exactly when every
    episode shows the same pixels in the same parts; 16 hexadecimal digits of SHA-256.

    >>> from medmeta_jax.data.pool import example_pool
    >>> pool, spec = example_pool(), EpisodeSpec(ways=2, queries=3)
    >>> draw = jax.vmap(lambda key: sample_indices(key, pool, spec))
    >>> one, same, other = (draw(jax.random.split(jax.random.key(i), 3)) for i in (0, 0, 1))
    >>> episodes_hash(pool, one) == episodes_hash(pool, same) != episodes_hash(pool, other)
    True
    """
    digest = hashlib.sha256(pool_hash(pool).encode())
    for part in map(np.asarray, indices):
        if part.dtype.kind != "f":  # values follow from the places, and are rounded
            digest.update(np.ascontiguousarray(part.astype(np.int32)).tobytes())
    return digest.hexdigest()[:16]
