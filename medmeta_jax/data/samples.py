"""What every data source gives: labelled images on the host, and how to read one image."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from medmeta_jax.data._files import Within

if TYPE_CHECKING:
    from medmeta_jax.data.stored import StoredImages


class DataError(Exception):
    """Data that is missing or cannot be used. The message names the file and the remedy."""


# What numpy and zipfile raise on a damaged archive, compressed or not, or on one whose header asks
# for more memory than there is.
DAMAGED = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile,
    zlib.error, tokenize.TokenError,
)  # fmt: skip


class Skipped(NamedTuple):
    """A file that could not be read and was left out, and why."""

    name: str
    reason: str


class Samples(NamedTuple):
    """A labelled data set on the host.

    images: [N, H, W, C] uint8, in memory or read from files when asked for.
    labels: [N] int32, index into `class_names`; or [N, classes] bool, where an image may show
        several of them, or none.
    class_names: one name a class, in label order.
    groups: [N] str (patient, smear, block of slices), or None where not known.
    sides: [N] str, "train", "test" or "" (either): which side of a split the data set's
        own folders or files put an image on.
    domains: [N] str, or None: where an image comes from.
    names: [N] str, or None: what messages and split files call an image.
    split: class names by side, where the data set fixes it: {"train", "val", "test"}.
    about: one line that says what the data is, for tables and reports.
    skipped: the files that were left out.
    """

    images: np.ndarray | StoredImages
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray | None = None
    sides: np.ndarray | None = None
    domains: np.ndarray | None = None
    names: np.ndarray | None = None
    split: dict[str, tuple[str, ...]] | None = None
    about: str = ""
    skipped: tuple[Skipped, ...] = ()


def open_image(path: Path | BinaryIO, what: str = "image") -> Any:
    """One image, a file or its bytes (called by their `str`), as a loaded Pillow image of any mode.

    Raises DataError, naming the file and `what` it should be, where it is damaged or too large.
    """
    from PIL import Image

    try:
        file = Within(path) if isinstance(path, Path) else path
        with file, Image.open(file) as opened:
            opened.load()
            return opened
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large to be safe to open ({error})") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable {what} ({error}); repair or remove it") from None


def read_image(path: Path | BinaryIO) -> np.ndarray:
    """One image file as [H, W, C] uint8, of its own size; C is 1 for grey files, 3 for colour.

    16-bit images are scaled to 8 bits by their own range.

    Raises DataError, naming the file, where it is not a readable image.
    """
    from PIL import Image

    image = open_image(path)
    grey = image.mode in ("1", "L", "I", "I;16", "I;16B", "F", "LA")
    if image.mode in ("I", "I;16", "I;16B", "F"):
        values = np.asarray(image, np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{path}: holds values that are not finite; repair or remove it")
        span = max(float(np.ptp(values)), 1e-12)
        image = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
    array = np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
    return array[..., None] if grey else array


def as_pil(image: np.ndarray) -> Any:
    """[H, W, 1 or 3] uint8 as a Pillow image, grey or colour."""
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def fit_image(image: np.ndarray, image_size: int) -> np.ndarray:
    """[H, W, C] uint8 -> [image_size, image_size, C] uint8: the longer side is scaled to
    `image_size` and the shorter one padded with black, so that shapes keep their proportions.
    """
    from PIL import Image, ImageOps

    if image.shape[:2] == (image_size, image_size):
        return image
    padded = ImageOps.pad(as_pil(image), (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(padded, np.uint8).reshape(image_size, image_size, -1)


def to_channels(images: Any, channels: int) -> Any:
    """Grey to RGB by repeating, RGB to grey by ITU-R 601 luma; [..., H, W, C] uint8, in memory or
    `StoredImages`."""
    if images.shape[-1] == channels:
        return images
    if not isinstance(images, np.ndarray):
        return images.with_channels(channels)
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    luma = images.astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)
    return luma.round().astype(np.uint8)[..., None]


def shows(samples: Samples, name: str) -> np.ndarray:
    """Which images are of a class, or show it: [N] bool. DataError for no such class."""
    if name not in samples.class_names:
        raise DataError(f"class {name!r} is not in the data set")
    label = samples.class_names.index(name)
    return samples.labels[:, label] if samples.labels.ndim == 2 else samples.labels == label


def of_each_class(samples: Samples) -> np.ndarray:
    """Which classes each image is of, or shows: [N, classes] bool."""
    if samples.labels.ndim == 2:
        return samples.labels
    return np.asarray(samples.labels[:, None] == np.arange(len(samples.class_names)))


def join(parts: Mapping[str, Samples]) -> Samples:
    """Several data sets, by name, as one: each is a domain. One alone stays as it is.

    Classes and groups are named after their data set too, so that none are taken for the
    same. Colour is kept where one of them has it. Where a data set names no groups, each of
    its images is its own.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    several = [part.about for part in parts.values() if part.labels.ndim == 2]
    if several:
        raise DataError(
            f"{several[0]}: its images have several labels, and another data set does not say "
            "which of them its own show; train on it alone"
        )
    from medmeta_jax.data.stored import concatenated  # which has its images' channels from here

    channels = max(part.images.shape[-1] for part in parts.values())
    counts = [len(part.class_names) for part in parts.values()]
    first_label = np.cumsum([0, *counts[:-1]])

    def column(of: Callable[[str, Samples], list[str]]) -> np.ndarray:
        return np.asarray([value for name, part in parts.items() for value in of(name, part)])

    def groups(name: str, part: Samples) -> list[str]:
        own = range(len(part.labels)) if part.groups is None else part.groups.tolist()
        return [f"{name}/{group}" for group in own]

    def names(name: str, part: Samples) -> list[str]:
        return [f"{name}/{own}" for own in (() if part.names is None else part.names)]

    def sides(name: str, part: Samples) -> list[str]:
        return [""] * len(part.labels) if part.sides is None else part.sides.tolist()

    return Samples(
        images=concatenated([to_channels(part.images, channels) for part in parts.values()]),
        labels=np.concatenate(
            [part.labels + first for part, first in zip(parts.values(), first_label, strict=True)]
        ).astype(np.int32),
        class_names=tuple(f"{name}/{c}" for name, part in parts.items() for c in part.class_names),
        groups=column(groups) if any(p.groups is not None for p in parts.values()) else None,
        sides=column(sides) if any(p.sides is not None for p in parts.values()) else None,
        domains=column(lambda name, part: [name] * len(part.labels)),
        names=column(names) if all(p.names is not None for p in parts.values()) else None,
        about=" + ".join(part.about for part in parts.values()),
        skipped=tuple(one for part in parts.values() for one in part.skipped),
    )


def select(samples: Samples, keep: np.ndarray) -> Samples:
    """The samples where `keep` [N] is True; class names and labels as they were."""

    def pick(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[keep]

    return samples._replace(
        images=samples.images[keep],
        labels=samples.labels[keep],
        groups=pick(samples.groups),
        sides=pick(samples.sides),
        domains=pick(samples.domains),
        names=pick(samples.names),
    )
