"""Where a run's dispatches get their episodes from: a pool as it is, or what each needs of one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from medmeta_jax import parallel
from medmeta_jax.types import Array

Span = tuple[int, int]  # the steps of a dispatch: done before it, done after it


@runtime_checkable
class Feed(Protocol):
    """A pool of which each dispatch gets what it needs, made ready while others run."""

    @property
    def like(self) -> Any:
        """What a dispatch gets, or shapes of it, for compiling."""

    @property
    def held(self) -> Any:
        """How that lies on the mesh; see `train.make_step`."""

    @property
    def ahead(self) -> int:
        """Bytes of a device that the next dispatch's takes while one runs."""

    def pools(self, key: Array, spans: Iterator[Span]) -> Generator[Any]:
        """What each span needs, where `key` is the run's; closing it ends what makes it ready."""


class Resident(NamedTuple):
    """A pool that every dispatch gets as it is."""

    like: Any
    held: Any = parallel.EVERYWHERE
    ahead: int = 0

    def pools(self, key: Array, spans: Iterator[Span]) -> Generator[Any]:
        """The pool, for every span."""
        while True:
            yield self.like


def spans(done: int, steps: int, marks: Sequence[int]) -> Iterator[Span]:
    """The dispatches from `done` to `steps`, which end at multiples of each of `marks`.

    >>> list(spans(4, 12, [5, 8]))
    [(4, 5), (5, 8), (8, 10), (10, 12)]
    """
    while done < steps:
        target = min(steps, *(done - done % mark + mark for mark in marks))
        yield done, target
        done = target
