"""Which parameters of a backbone belong to one and the same channels.

A channel is made by a row of one parameter or of several (its kernel's, its norm's) and read by a
row of others. What is taken out of a network is taken out of all of them, and what is left is the
same network of smaller widths. Each built-in backbone's wiring is told below; that it is right is
shown by its test: the network without some channels equals the one in which they are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Member(NamedTuple):
    """Where channels stand along an axis of a parameter below "body", or of the features.

    Channel c is at start + c and at every `period` after it, up to the axis' end; a period of 0 is
    the whole axis.
    """

    name: str
    axis: int
    start: int = 0
    period: int = 0


class Channels(NamedTuple):
    """Channels that can be taken out together.

    size: how many. width: the place in the backbone's `widths` that says so. made: by what.
    read: by what; `FEATURES` among them stands for whatever reads the backbone's features.
    """

    size: int
    width: int
    made: tuple[Member, ...]
    read: tuple[Member, ...]


FEATURES = "features"
# Of each built-in backbone a convolution of its i-th level, and how many blocks a level has.
LEVELS = {
    "conv4": ("ConvNormPool_{}/conv", 1), "resnet12": ("Block_{}/Conv_0", 1),
    "resnet18": ("Block_{}/Conv_0", 2), "unet": ("Level_{}/Conv_0", 1),
}  # fmt: skip


def widths_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """A built-in backbone's channels level by level, by its parameters' shapes by name (ValueError
    for another backbone).

    >>> widths_of("conv4", {"body/ConvNormPool_0/conv/kernel": (3, 3, 1, 8)})
    (8,)
    """
    if name not in LEVELS:
        raise ValueError(f"channels can be taken out of {[*LEVELS]}, got {name!r}")
    conv, blocks = LEVELS[name]
    found: list[int] = []
    while shape := shapes.get(f"body/{conv.format(blocks * len(found))}/kernel"):
        found.append(shape[-1])
    return tuple(found[: (len(found) + 1) // 2] if name == "unet" else found)


def positions(member: Member, size: int, length: int) -> np.ndarray:
    """The places [size, repeats] of some channels along an axis of that length.

    >>> positions(Member("", 0, period=3), 3, 6)
    array([[0, 3],
           [1, 4],
           [2, 5]])
    """
    period = member.period or length
    first = member.start + np.arange(size)
    return first[:, None] + np.arange(0, length, period)[None]


def made_by(conv: str, norm: str, policy: str) -> tuple[Member, ...]:
    """A convolution's kernel with its norm, or with its bias where there is none."""
    if policy == "none":
        return Member(f"{conv}/kernel", -1), Member(f"{conv}/bias", -1)
    return Member(f"{conv}/kernel", -1), Member(f"{norm}/scale", -1), Member(f"{norm}/bias", -1)


def read_by(*convs: str, start: int = 0) -> tuple[Member, ...]:
    """Convolutions."""
    return tuple(Member(f"{conv}/kernel", -2, start) for conv in convs)


def conv4(widths: Sequence[int], policy: str) -> list[Channels]:
    """A chain; the features are the last map, flattened."""
    found = []
    for i, width in enumerate(widths):
        block, after = f"ConvNormPool_{i}", f"ConvNormPool_{i + 1}/conv"
        last = i + 1 == len(widths)
        read = (Member(FEATURES, 0, 0, width),) if last else read_by(after)
        made = made_by(f"{block}/conv", f"{block}/norm", policy)
        found.append(Channels(width, i, made, read))
    return found


def resnet12(widths: Sequence[int], policy: str) -> list[Channels]:
    """Of each block the first and the second convolution's, and those of the third and of the way
    past it, which are added."""
    found = []
    for i, width in enumerate(widths):
        block, after = f"Block_{i}", f"Block_{i + 1}"
        each = [made_by(f"{block}/Conv_{j}", f"{block}/Norm_{j}", policy) for j in range(4)]
        for j in (0, 1):
            found.append(Channels(width, i, each[j], read_by(f"{block}/Conv_{j + 1}")))
        last = i + 1 == len(widths)
        read = (Member(FEATURES, 0),) if last else read_by(f"{after}/Conv_0", f"{after}/Conv_3")
        found.append(Channels(width, i, each[2] + each[3], read))
    return found


def resnet18(widths: Sequence[int], policy: str) -> list[Channels]:
    """Of each block its inner ones, and of each stage those that its blocks add to one another."""
    found = []
    for stage, width in enumerate(widths):
        first, second, after = (f"Block_{2 * stage + j}" for j in (0, 1, 2))
        for block in (first, second):
            made = made_by(f"{block}/Conv_0", f"{block}/Norm_0", policy)
            found.append(Channels(width, stage, made, read_by(f"{block}/Conv_1")))
        across = ("stem", "stem_norm") if stage == 0 else (f"{first}/Conv_2", f"{first}/Norm_2")
        made = made_by(*across, policy)
        for block in (first, second):
            made += made_by(f"{block}/Conv_1", f"{block}/Norm_1", policy)
        # The first stage is read by its own first block too, from the stem.
        inside = (first, second) if stage == 0 else (second,)
        read = read_by(*(f"{block}/Conv_0" for block in inside))
        if stage + 1 < len(widths):
            read += read_by(f"{after}/Conv_0", f"{after}/Conv_2")
        else:
            read += (Member(FEATURES, 0),)
        found.append(Channels(width, stage, made, read))
    return found


def unet(widths: Sequence[int], policy: str, convolutions: int, columns: bool) -> list[Channels]:
    """Of each level on the way down and up each convolution's. A map on the way down is read below
    and, after what comes from below, on the way up."""
    depth, found = len(widths), []
    # The level of index n is of width `of[n]`; on the way up one reads what is below and its skip.
    of = [*range(depth), *range(depth - 2, -1, -1)]
    columns_at = np.cumsum([0, *(widths[w] for w in of[depth - 1 :])])
    for n, w in enumerate(of):
        for j in range(convolutions):
            level = f"Level_{n}"
            made = made_by(f"{level}/Conv_{j}", f"{level}/Norm_{j}", policy)
            if j + 1 < convolutions:
                read = read_by(f"{level}/Conv_{j + 1}")
            else:
                read = read_by(f"Level_{n + 1}/Conv_0") if n + 1 < len(of) else ()
                if n < depth - 1:
                    up = depth + (depth - 2 - n)
                    read += read_by(f"Level_{up}/Conv_0", start=widths[w + 1])
                elif columns:
                    read += (Member(FEATURES, 0, int(columns_at[n - depth + 1])),)
                elif n + 1 == len(of):
                    read += (Member(FEATURES, 0),)
            found.append(Channels(widths[w], w, made, read))
    return found


def channels_of(name: str, widths: Sequence[int], policy: str, **net: int) -> list[Channels]:
    """All channels of a built-in backbone of these widths and norm; of a U-Net with its
    `convolutions` and `hypercolumns`.

    ValueError for another backbone, and for norm "group", whose statistics are of neighbouring
    channels: without some, the others would be normalised otherwise.
    """
    if policy == "group":
        raise ValueError("norm must be batch, support or none to take channels out, got 'group'")
    if name == "unet":
        return unet(widths, policy, net.get("convolutions", 1), bool(net.get("hypercolumns")))
    wiring: dict[str, Callable[..., list[Channels]]] = {
        "conv4": conv4, "resnet12": resnet12, "resnet18": resnet18,
    }  # fmt: skip
    if name not in wiring:
        raise ValueError(f"channels can be taken out of {[*LEVELS]}, got {name!r}")
    return wiring[name](widths, policy)
