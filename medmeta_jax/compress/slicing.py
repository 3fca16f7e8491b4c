"""Channels taken out of a learner's parameters: as zeros, and for good.

`masked` zeroes what makes the channels and what reads them. Both, since then nothing moves them:
the derivative of what makes a channel has what reads it as a factor, and the other way round, so
that gradient descent in an inner loop leaves zeros where they are and what is learned in the masked
network is learned in the smaller one alike. `sliced` is that smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax.compress.channels import FEATURES, Channels, Member, positions
from medmeta_jax.types import Array, Params
from medmeta_jax.weights import name_of

# Parameters outside "body" whose first axis is the features.
READERS = ("head/kernel", "classifier/kernel")
Kept = Sequence[np.ndarray]  # of each `Channels` which of them stay, in order


def fewer(widths: Sequence[int], share: float) -> tuple[int, ...]:
    """Widths of that share, at least 1 each.

    >>> fewer((8, 16), 0.3)
    (2, 5)
    """
    return tuple(max(1, round(share * width)) for width in widths)


def best(channels: Sequence[Channels], scores: Sequence[np.ndarray], widths: Sequence[int]) -> Kept:
    """Of each set of channels the best ones, as many as the new widths say."""
    return [
        np.sort(np.argsort(-np.asarray(score), kind="stable")[: widths[of.width]])
        for of, score in zip(channels, scores, strict=True)
    ]


def by_parameter(members: Iterable[Member]) -> Iterator[tuple[str, Member]]:
    """Members with the full name of their parameter; readers of features with each of theirs."""
    for member in members:
        names = READERS if member.name == FEATURES else (f"body/{member.name}",)
        yield from ((name, member) for name in names)


def along(factor: Array, member: Member, size: int, shape: tuple[int, ...]) -> Array:
    """[size] factors of channels, ones elsewhere, along a member's axis of an array of `shape`."""
    axis = member.axis % len(shape)
    places = positions(member, size, shape[axis])
    spread = jnp.ones(shape[axis], factor.dtype)
    spread = spread.at[places.reshape(-1)].set(jnp.repeat(factor, places.shape[1]))
    return spread.reshape(*(-1 if i == axis else 1 for i in range(len(shape))))


def scaled(
    params: Params, channels: Sequence[Channels], factors: Sequence[Array], *, read: bool = True
) -> Params:
    """Parameters with what makes each channel times its factor, and what reads it zeroed where the
    factor is 0, if `read`.

    A kernel that a norm follows is left as it is: the norm would undo it.
    """
    scale: dict[str, list[tuple[Array, Member, int]]] = {}
    for of, factor in zip(channels, factors, strict=True):
        normed = any(member.name.endswith("/scale") for member in of.made)
        made = [m for m in of.made if not (normed and m.name.endswith("kernel"))]
        there = (factor != 0).astype(factor.dtype)
        for value, members in ((factor, made), (there, of.read if read else ())):
            for name, member in by_parameter(members):
                scale.setdefault(name, []).append((value, member, of.size))

    def one(path: Any, leaf: Array) -> Array:
        for factor, member, size in scale.get(name_of(path), ()):
            leaf = leaf * along(factor, member, size, leaf.shape).astype(leaf.dtype)
        return leaf

    found: Params = jax.tree_util.tree_map_with_path(one, params)
    return found


def masked(params: Params, channels: Sequence[Channels], kept: Kept) -> Params:
    """Parameters with the channels that do not stay as zeros."""
    factors = [
        jnp.zeros(of.size).at[stay].set(1.0) for of, stay in zip(channels, kept, strict=True)
    ]
    return scaled(params, channels, factors)


def sliced(params: Params, channels: Sequence[Channels], kept: Kept, like: Params) -> Params:
    """Parameters without the channels that do not stay, shaped as `like`.

    ValueError for a parameter of another shape that is neither the body's nor reads features: a
    preconditioner of whole layers, for instance.
    """
    stays: dict[str, dict[int, list[tuple[Member, np.ndarray, int]]]] = {}
    for of, stay in zip(channels, kept, strict=True):
        for name, member in by_parameter((*of.made, *of.read)):
            cuts = stays.setdefault(name, {}).setdefault(member.axis, [])
            cuts.append((member, stay, of.size))

    def one(path: Any, leaf: Array, wanted: Any) -> Array:
        name = name_of(path)
        for axis, cuts in stays.get(name, {}).items():
            keep = np.ones(leaf.shape[axis], bool)
            for member, stay, size in cuts:
                places = positions(member, size, leaf.shape[axis])
                keep[np.delete(places, stay, 0).reshape(-1)] = False
            leaf = jnp.take(leaf, np.flatnonzero(keep), axis)
        if leaf.shape != wanted.shape:
            raise ValueError(
                f"{name} is of shape {leaf.shape} without the channels, and the smaller network's "
                f"{wanted.shape}: what it is to a channel is not known"
            )
        return leaf

    found: Params = jax.tree_util.tree_map_with_path(one, params, like)
    return found


def flops(function: Callable[..., Any], *given: Any) -> float:
    """Floating-point operations of a function of such arguments, by its compiled program."""
    analysis = jax.jit(function).lower(*given).compile().cost_analysis()
    if isinstance(analysis, (list, tuple)):  # one for each program
        analysis = analysis[0]
    counts: Mapping[str, float] = analysis or {}
    return float(counts.get("flops", float("nan")))
