"""Pools larger than a device: of every dispatch, the images that its episodes show.

Which images these are follows from the run's key and the step alone, so that the step number is
all there is to resume from. A small compiled program draws the episodes of a dispatch ahead, from
the keys that the training step will use, by the pool's index alone; their images are read from
files on threads while the dispatch before runs, and put on the devices as a pool that holds the
episodes and no other image (`Pool.drawn`). The training step looks its episodes up by their keys
and draws none, so a run is bit-equal to that of a pool that is on the device.

Each device gets the images of its own episodes, and each process reads what its own devices need.
At any time a device holds what the dispatch that runs needs and what the next one does.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medmeta_jax import parallel
from medmeta_jax.data.episodes import EpisodeSpec, Indices, sample, sample_indices
from medmeta_jax.data.pool import Drawn, Pool
from medmeta_jax.data.splits import Split
from medmeta_jax.data.stored import StoredImages
from medmeta_jax.evaluation import FixedEpisodes, each, episode_keys, sample_key
from medmeta_jax.feed import Span
from medmeta_jax.meta_gradient import step_keys
from medmeta_jax.types import Array, Episode

KEPT = 4  # lists of fixed episodes whose images stay on the device


def draw(keys: Array, pool: Pool, spec: EpisodeSpec) -> Drawn:
    """The episodes of some keys [E] by a pool's index, their images still by their place in it."""

    def one(key: Array) -> Drawn:
        own = sample_key(key)
        return Drawn(jax.random.key_data(own), sample_indices(own, pool, spec))

    drawn: Drawn = each(one, keys)
    return drawn


def images_of(indices: Indices) -> np.ndarray:
    """The images that episodes on the host show, each once and in order."""
    every = np.unique(np.concatenate([indices.support.ravel(), indices.query.ravel()]))
    return every[every >= 0]


def as_rows(indices: Indices, images: np.ndarray) -> Indices:
    """Episodes whose images are told by their place among `images`, which `images_of` gave."""

    def row(image: Any) -> Any:
        return np.where(image < 0, -1, np.searchsorted(images, image)).astype(np.int32)

    return indices._replace(support=row(indices.support), query=row(indices.query))


def slots(pool: Pool, spec: EpisodeSpec) -> int:
    """The most images that an episode shows."""
    drawn = jax.eval_shape(lambda key: sample_indices(key, pool, spec), jax.random.key(0))
    return int(drawn.support.size + drawn.query.size)


class Reading(NamedTuple):
    """What a dispatch needs, on the host: by field of the pool and device its rows [U, *spatial,
    ...], by device the episodes [E, ...]."""

    keys: Array
    rows: dict[str, dict[jax.Device, np.ndarray]]
    indices: dict[jax.Device, Any]


class Stream:
    """A `feed.Feed` of a pool whose images lie in files.

    Args:
      pool: with its index on the mesh, and no image.
      stored: the fields of the pool whose rows are its images' (`Split.stored`).
      meta_batch, dispatch, mesh: as of the training step.
    """

    def __init__(
        self,
        pool: Pool,
        stored: Mapping[str, StoredImages],
        spec: EpisodeSpec,
        *,
        meta_batch: int,
        dispatch: int,
        mesh: Mesh,
    ) -> None:
        self.pool, self.stored, self.mesh = pool, stored, mesh
        self.share, self.dispatch = meta_batch // mesh.size, dispatch
        self.count = min(len(stored["x"]), dispatch * self.share * slots(pool, spec))
        every, by_task = parallel.EVERYWHERE, parallel.BY_TASK
        held = dict.fromkeys(Pool._fields, every) | dict.fromkeys((*stored, "drawn"), by_task)
        self.held: Any = Pool(**held)  # type: ignore[arg-type]

        def of_device(keys: Array, pool: Pool) -> Drawn:
            return draw(keys.reshape(-1), pool, spec)

        by_step = PartitionSpec(None, parallel.AXIS)
        spread = parallel.spread(of_device, mesh, (by_step, every), by_task)

        def of_span(key: Array, first: Array, pool: Pool) -> Drawn:
            steps = first + jnp.arange(dispatch, dtype=jnp.int32)
            run = jax.random.wrap_key_data(key)
            return spread(jax.vmap(lambda step: step_keys(run, step, meta_batch))(steps), pool)

        self.draw = jax.jit(of_span, compiler_options=parallel.compiler_options(mesh))

    @property
    def like(self) -> Pool:
        """What a dispatch gets, as shapes that lie on the mesh as it will."""
        key, first = np.zeros(2, np.uint32), np.asarray(0, np.int32)
        drawn = jax.eval_shape(self.draw, key, first, self.pool)
        count = self.mesh.size * self.count
        spread = NamedSharding(self.mesh, parallel.BY_TASK)

        def shape(part: Any) -> Any:
            return jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=spread)

        rows: Any = {
            name: jax.ShapeDtypeStruct((count, *shape), np.uint8, sharding=spread)
            for name, shape in self.shapes.items()
        }
        return self.pool._replace(**rows, drawn=jax.tree.map(shape, drawn))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a row, by field."""
        return {name: getattr(self.pool, name).shape[1:] for name in self.stored}

    @property
    def ahead(self) -> int:
        """Bytes of the images of a dispatch, on a device."""
        return self.count * sum(math.prod(shape) for shape in self.shapes.values())

    def pools(self, key: Array, spans: Iterator[Span]) -> Generator[Pool]:
        """The pool of each span, read while the span before runs; see `feed.Feed`.

        Raises DataError naming the file that cannot be read. Threads end with the iteration.
        """
        run = np.asarray(jax.random.key_data(key))  # the key itself is donated with the state
        stop = threading.Event()
        waiting: deque[Future[Reading]] = deque()
        with ThreadPoolExecutor(1, "medmeta-stream") as reader:

            def read_next() -> None:
                for first, last in spans:
                    # Drawn now, so that it does not queue on the device behind the dispatch that
                    # the caller is about to start.
                    drawn = self.draw(run, np.asarray(first, np.int32), self.pool)
                    waiting.append(reader.submit(self.read, drawn, last - first, stop))
                    return

            try:
                read_next()
                while waiting:
                    reading = waiting.popleft().result()
                    read_next()
                    yield self.put(reading)
            finally:
                stop.set()

    def read(self, drawn: Drawn, steps: int, stop: threading.Event) -> Reading:
        """The images of the first `steps` steps' episodes, for each device of this process."""
        parts = Indices(*map(parallel.by_device, drawn.indices))  # type: ignore[arg-type]
        done = steps * self.share
        found = Reading(drawn.keys, {name: {} for name in self.stored}, {})
        shown = {}
        for device in parts.support:
            own: Any = Indices(*(part[device].copy() for part in parts))
            own.support[done:] = own.query[done:] = -1
            shown[device] = images_of(own)
            found.indices[device] = as_rows(own, shown[device])
            for name, shape in self.shapes.items():
                found.rows[name][device] = np.zeros((self.count, *shape), np.uint8)
        every = np.unique(np.concatenate(list(shown.values())))
        for name, images in self.stored.items():
            for where, block in images.blocks(every):
                if stop.is_set():
                    return found
                for device, own in shown.items():
                    rows = found.rows[name][device]
                    row = np.searchsorted(own, every[where])
                    there = own[np.minimum(row, len(own) - 1)] == every[where]
                    rows[row[there]] = block[there].reshape(-1, *rows.shape[1:])
        return found

    def put(self, reading: Reading) -> Pool:
        """What was read, on the devices of the mesh."""

        def on_mesh(*parts: np.ndarray) -> Array:
            return parallel.put_by_device(dict(zip(reading.indices, parts, strict=True)), self.mesh)

        rows: Any = {name: on_mesh(*parts.values()) for name, parts in reading.rows.items()}
        indices = jax.tree.map(on_mesh, *reading.indices.values())
        return self.pool._replace(**rows, drawn=Drawn(reading.keys, indices))


class Judging:
    """A side that is judged on, whose images lie in files: the pools of lists of its episodes."""

    def __init__(self, pool: Pool, stored: Mapping[str, StoredImages], mesh: Mesh) -> None:
        self.pool, self.stored, self.mesh = pool, stored, mesh
        self.made: dict[tuple[EpisodeSpec, bytes], Pool] = {}

    def pool_of(self, keys: Array, spec: EpisodeSpec) -> Pool:
        """A pool that holds the images of a fixed list's episodes [E], on every device.

        Raises DataError naming the file that cannot be read.
        """
        name = spec, np.asarray(jax.random.key_data(keys)).tobytes()
        if name not in self.made:
            while len(self.made) >= KEPT:
                self.made.pop(next(iter(self.made)))
            self.made[name] = self.make(keys, spec)
        return self.made[name]

    def make(self, keys: Array, spec: EpisodeSpec) -> Pool:
        """`pool_of`, read anew."""
        every = parallel.everywhere(self.mesh)
        program = jax.jit(draw, static_argnames="spec", out_shardings=every)
        drawn = jax.tree.map(np.asarray, program(keys, self.pool, spec))
        shown = images_of(drawn.indices)
        # Rounded up, so that programs compiled for one list serve others of its length.
        count = min(len(self.stored["x"]), 1 << (len(shown) - 1).bit_length())
        rows = {}
        for name, images in self.stored.items():
            rows[name] = np.zeros((count, *getattr(self.pool, name).shape[1:]), np.uint8)
            for where, block in images.blocks(shown):
                rows[name][where] = block.reshape(-1, *rows[name].shape[1:])
        ready = Drawn(drawn.keys, as_rows(drawn.indices, shown))
        on_mesh, ready = parallel.replicate((rows, ready), self.mesh)
        return self.pool._replace(**on_mesh, drawn=ready)


@functools.lru_cache(maxsize=32)
def sampler_of(spec: EpisodeSpec) -> Callable[[Array, Pool], Episode]:
    """`sample` by a spec; the same object for the same spec, for compiled programs."""
    return functools.partial(sample, spec=spec)


class Lists(NamedTuple):
    """What fixed lists of episodes are made from: the pool of each side, or where its images are
    instead, by side."""

    pools: Mapping[str, Pool]
    stored: Mapping[str, Judging]
    mesh: Mesh

    def pool(self, side: str, spec: EpisodeSpec, keys: Array) -> Pool:
        """A side's pool, with the images at least that the keys' episodes show (DataError)."""
        return self.stored[side].pool_of(keys, spec) if side in self.stored else self.pools[side]

    def fixed(self, side: str, spec: EpisodeSpec, seed: int, count: int) -> FixedEpisodes:
        """A fixed list of a side's episodes, with the images that they show (DataError)."""
        keys = parallel.replicate(episode_keys(seed, count), self.mesh)
        return FixedEpisodes(sampler_of(spec), self.pool(side, spec, keys), keys, self.mesh)


def stored_sides(split: Split, mesh: Mesh) -> dict[str, Judging]:
    """The sides of a split whose images lie in files; its pools are on the mesh."""
    return {side: Judging(split.pools[side], stored, mesh) for side, stored in split.stored.items()}
