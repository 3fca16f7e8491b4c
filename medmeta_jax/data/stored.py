"""Images that stay in their files, behind the parts of NumPy's interface that splitting needs.

`Samples.images` is an array in memory, or one of these. Selecting gives another view of the same
files; nothing is read until `blocks` or `read` ask for it. Reading goes through grain: blocks of
images on a few threads, a few blocks ahead. Functions here that take images take either kind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from medmeta_jax.data.copies import digest_of
from medmeta_jax.data.samples import to_channels

LEVELS = np.arange(256)
# Images read at once: so many that most of the time is not spent in Python, and not more bytes.
BLOCK, BLOCK_BYTES = 128, 4 << 20


def threads() -> int:
    """How many threads read and decode."""
    return min(8, os.cpu_count() or 1)


class Reader(Protocol):
    """What gives images by their places in some files."""

    def read(self, places: np.ndarray) -> Sequence[np.ndarray]:
        """Images [*spatial, 1 or 3] uint8. Raises DataError naming the file that cannot be read."""


class InMemory(NamedTuple):
    """Images [N, *spatial, C] uint8 in memory, beside others that are not."""

    images: np.ndarray

    def read(self, places: np.ndarray) -> Sequence[np.ndarray]:
        """The images at some places."""
        return list(self.images[places])


class Looks(NamedTuple):
    """What splitting and scaling ask of images, kept of each when it was read.

    digest: [N, 16] uint8, equal where pixels are; plain: [N] bool, an image of one value, which
    has none. sums, squares: [N, C] int64, of its values and their squares.
    """

    digest: np.ndarray
    plain: np.ndarray
    sums: np.ndarray
    squares: np.ndarray


def look(images: Iterable[np.ndarray]) -> Looks:
    """Looks at images [*spatial, C] uint8 of one number of channels."""
    digests, sums, squares = [], [], []
    for image in images:
        digests.append(digest_of(image))
        counts = level_counts(image)
        sums.append(counts @ LEVELS)
        squares.append(counts @ LEVELS**2)
    return Looks(
        np.frombuffer(b"".join(d or bytes(16) for d in digests), np.uint8).reshape(-1, 16),
        np.asarray([digest is None for digest in digests]),
        np.stack(sums),
        np.stack(squares),
    )


def level_counts(images: np.ndarray) -> np.ndarray:
    """How often each channel of images [..., C] uint8 has each value: [C, 256] int64."""
    channels = np.moveaxis(images, -1, 0)
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])


def joined_looks(parts: Sequence[Looks]) -> Looks:
    """Looks at the images of one part after another."""
    return Looks(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class StoredImages:
    """An array [N, *spatial, C] uint8 whose images lie in files.

    part: [N] int, which of `readers` has an image; place: [N] int, its place there. Grey becomes
    colour, or colour grey, as C has it; then `levels` [K, 256] uint8 are what each value becomes,
    by the row that `level_of` [N] names.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        readers: tuple[Reader, ...],
        part: np.ndarray,
        place: np.ndarray,
        shape: tuple[int, ...],
        *,
        levels: np.ndarray | None = None,
        level_of: np.ndarray | None = None,
        looks: Looks | None = None,
    ) -> None:
        self.readers, self.part, self.place = readers, part, place
        self.shape = (len(place), *shape)
        self.levels, self.level_of = levels, level_of
        self._looks = looks

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """How many axes there are, that of the images among them."""
        return len(self.shape)

    def __getitem__(self, which: Any) -> StoredImages:
        """The images that a mask, a slice or an array of places names; not read."""
        looks = self._looks and Looks(*(column[which] for column in self._looks))
        return self._with(
            part=self.part[which],
            place=self.place[which],
            level_of=None if self.level_of is None else self.level_of[which],
            looks=looks,
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read().astype(dtype or self.dtype)

    def _with(self, **changes: Any) -> StoredImages:
        now = {name: getattr(self, name) for name in ("readers", "part", "place", "levels")}
        now |= {"level_of": self.level_of, "shape": self.shape[1:], "looks": None}
        return StoredImages(**{**now, **changes})

    def with_channels(self, channels: int) -> StoredImages:
        """The same images in so many channels; see `samples.to_channels`."""
        return self._with(shape=(*self.shape[1:-1], channels))

    def mapped(self, levels: np.ndarray, level_of: np.ndarray) -> StoredImages:
        """The same images with their values changed, once; see the class."""
        assert self.levels is None
        return self._with(levels=levels, level_of=level_of)

    def block(self, which: np.ndarray) -> np.ndarray:
        """Read some images at once, on this thread: [n, *spatial, C]. Raises DataError."""
        found = np.empty((len(which), *self.shape[1:]), self.dtype)
        for number in np.unique(self.part[which]).tolist():
            here = np.flatnonzero(self.part[which] == number)
            images = self.readers[number].read(self.place[which[here]])
            for at, image in zip(here.tolist(), images, strict=True):
                found[at] = to_channels(image, self.shape[-1])
        if self.levels is not None and self.level_of is not None:
            rows = np.expand_dims(self.level_of[which], tuple(range(1, found.ndim)))
            return np.asarray(self.levels[rows, found])
        return found

    def blocks(self, which: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Read some images (by default all) a block at a time: where among them, and the block.

        Blocks are read and decoded on threads, a few ahead, and come in order. The threads end
        with the iteration. Raises DataError naming the file that cannot be read.
        """
        import grain

        chosen = np.arange(len(self)) if which is None else which
        workers = threads()
        options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
        blocks = grain.MapDataset.source(Blocks(self, chosen)).to_iter_dataset(options)
        place = 0
        with contextlib.closing(iter(blocks)) as reads:
            for block in reads:
                yield slice(place, place + len(block)), block
                place += len(block)

    def read(self, which: np.ndarray | None = None) -> np.ndarray:
        """Some images (by default all) in memory: [n, *spatial, C]. Raises DataError."""
        count = len(self) if which is None else len(which)
        found = np.empty((count, *self.shape[1:]), self.dtype)
        for where, block in self.blocks(which):
            found[where] = block
        return found

    @property
    def looks(self) -> Looks:
        """Looks at all, for which they are read once."""
        if self._looks is None:
            self._looks = joined_looks([look(block) for _, block in self.blocks()])
        return self._looks


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Some images in blocks, as grain's random access source."""

    images: StoredImages
    which: np.ndarray

    @property
    def size(self) -> int:
        """Images of a block."""
        return max(1, min(BLOCK, BLOCK_BYTES // int(np.prod(self.images.shape[1:]))))

    def __len__(self) -> int:
        return -(-len(self.which) // self.size)

    def __getitem__(self, number: Any) -> Any:
        return self.images.block(self.which[number * self.size : (number + 1) * self.size])


def concatenated(parts: Sequence[np.ndarray | StoredImages]) -> np.ndarray | StoredImages:
    """Images of one shape, one part after another; in memory where all parts are."""
    stored = [as_stored(part) for part in parts if not isinstance(part, np.ndarray)]
    if not stored:
        return np.concatenate(parts)
    every = [as_stored(part) for part in parts]
    first = np.cumsum([0, *(len(one.readers) for one in every[:-1])])
    looks = [one._looks for one in every]
    return StoredImages(
        tuple(reader for one in every for reader in one.readers),
        np.concatenate([one.part + more for one, more in zip(every, first, strict=True)]),
        np.concatenate([one.place for one in every]),
        every[0].shape[1:],
        looks=joined_looks([found for found in looks if found]) if all(looks) else None,
    )


def as_stored(images: np.ndarray | StoredImages) -> StoredImages:
    """Either kind as the one that is read when asked for."""
    if isinstance(images, StoredImages):
        return images
    count = len(images)
    shape: Any = images.shape[1:]
    return StoredImages((InMemory(images),), np.zeros(count, int), np.arange(count), shape)


def chunks(images: np.ndarray | StoredImages) -> Iterator[np.ndarray]:
    """All images of either kind, some at a time."""
    if isinstance(images, StoredImages):
        yield from (block for _, block in images.blocks())
    else:
        yield from (images[i : i + BLOCK] for i in range(0, len(images), BLOCK))
