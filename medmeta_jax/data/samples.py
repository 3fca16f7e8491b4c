"""What every data source gives: labelled images on the host, and how to read one image."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    images: [N, H, W, C] uint8, or volumes [N, D, H, W, C]; in memory, or read from files when asked
        for.
    labels: [N] int32, index into `class_names`; or [N, classes] bool, where an image may show
        several of them, or none; or [N, classes] float32, where a class is something that was
        measured, such as an age, and its label the value, NaN where it is not known.
    class_names: one name a class, in label order.
    groups: [N] str (patient, smear, block of slices), or None where not known.
    sides: [N] str, "train", "test" or "" (either): which side of a split the data set's
        own folders or files put an image on.
    domains: [N] str, or None: where an image comes from.
    names: [N] str, or None: what messages and split files call an image.
    split: class names by side, where the data set fixes it: {"train", "val", "test"}.
    about: one line that says what the data is, for tables and reports.
    skipped: the files that were left out.
    masks: [N, *spatial] uint8, where what is to be learned is to mark structures in images, which
        are then the classes, and labels say which an image shows (`data/structures.py`); read from
        files when asked for, where images are, and then [N, *spatial, 1]; else None.
    marks: [classes] uint8, the value of each class in the masks, 0 for any but 0; else None.
    present: [N, C] bool, which modalities an image has, where its channels are that; else None.
    times: [N] float32, when an image was taken, in whatever unit; or None.
    boxes: [N, M, 2, axes] float32, where it is to find objects, which masks then only mark: the
        first corner and the last of each, in pixels, NaN beyond an image's own
        (`data/objects.py`); else None.
    kinds: [N, M] uint8, the value of each object in the masks, 0 beyond an image's own; else None.
    no_lesion: the class of images without a lesion, where it is to tell which lesion an image shows
        and where (`data/lesions.py`); else None.
    covariates: [N, K] float32, what is known of each image's patient (`data/covariates.py`), NaN
        where it is not; or None.

    >>> images = np.zeros((2, 8, 8, 1), np.uint8)
    >>> Samples(images, np.array([0, 1]), ("benign", "malignant")).class_names
    ('benign', 'malignant')
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
    masks: np.ndarray | StoredImages | None = None
    marks: np.ndarray | None = None
    present: np.ndarray | None = None
    times: np.ndarray | None = None
    boxes: np.ndarray | None = None
    kinds: np.ndarray | None = None
    no_lesion: str | None = None
    covariates: np.ndarray | None = None


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


def fit_image(image: np.ndarray, image_size: int, *, smooth: bool = True) -> np.ndarray:
    """[H, W, C] uint8 -> [image_size, image_size, C] uint8: the longer side is scaled to
    `image_size` and the shorter one padded with black, so that shapes keep their proportions.
    A volume [D, H, W, C] likewise becomes a cube, each of its slices as a picture would. Blended,
    or not `smooth`: the nearest pixel's value.
    """
    from PIL import Image, ImageOps

    sizes = image.shape[:-1]
    if set(sizes) == {image_size}:
        return image
    if len(sizes) == 3:
        new, first = fitted(sizes, image_size)
        cube = np.zeros((image_size, image_size, image_size, image.shape[-1]), np.uint8)
        place = tuple(slice(a, a + size) for a, size in zip(first, new, strict=True))
        cube[place] = zoomed(image, new, smooth=smooth)
        return cube
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    padded = ImageOps.pad(as_pil(image), (image_size, image_size), how)
    return np.asarray(padded, np.uint8).reshape(image_size, image_size, -1)


def fit_mask(mask: np.ndarray, image_size: int) -> np.ndarray:
    """A mask [*spatial] uint8 as `fit_image` does its image, each pixel a value that was there."""
    return fit_image(mask[..., None], image_size, smooth=False)[..., 0]


def fitted(sizes: Sequence[int], image_size: int) -> tuple[list[int], list[int]]:
    """Where `fit_image` takes an image of these sizes: its new ones, and its first pixel's place.

    >>> fitted((20, 40), 8)
    ([4, 8], [2, 0])
    """
    new = [max(1, round(size / max(sizes) * image_size)) for size in sizes]
    return new, [round((image_size - size) / 2) for size in new]


def zoomed(image: np.ndarray, size: Sequence[int], *, smooth: bool) -> np.ndarray:
    """[*spatial, C] uint8 at another size, [*size, C]: blended, or the nearest one's values.

    A volume is scaled by Pillow along one axis after the other, which is what it does to a picture
    too: where an axis shrinks, all that falls into a voxel has a part in it. `scipy.ndimage.zoom`
    would leave out what lies between.
    """
    from PIL import Image

    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    if len(size) == 2:
        height, width = size
        return np.asarray(as_pil(image).resize((width, height), how)).reshape(height, width, -1)
    for axis in reversed(range(len(size))):
        moved = np.moveaxis(image, axis, 0)
        rows = Image.fromarray(moved.reshape(len(moved), -1))
        scaled = np.asarray(rows.resize((rows.width, size[axis]), how))
        image = np.moveaxis(scaled.reshape(size[axis], *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(image)


def picture_of(image: np.ndarray) -> np.ndarray:
    """What is shown of an image: itself, or the middle slice of [D, H, W, C]."""
    return image[len(image) // 2] if image.ndim == 4 else image


def require_one_rank(named: Iterable[tuple[str, int]]) -> None:
    """DataError, naming two, where some images, by how many axes each has, are pictures and some
    volumes."""
    first: dict[int, str] = {}
    for name, axes in named:
        first.setdefault(axes, name)
    if len(first) > 1:
        flat, deep = (first[rank] for rank in sorted(first))
        raise DataError(
            f"{flat}: two-dimensional, and {deep} is three-dimensional; take slices of all, or "
            "patches of all"
        )


def to_channels(images: Any, channels: int) -> Any:
    """Grey to RGB by repeating, RGB to grey by ITU-R 601 luma; [..., C] uint8, in memory or
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
    """Which images are of a class, show it, or have its value: [N] bool. DataError for no such
    class."""
    if name not in samples.class_names:
        raise DataError(f"class {name!r} is not in the data set")
    label = samples.class_names.index(name)
    if samples.labels.ndim == 1:
        return np.asarray(samples.labels == label)
    return known(samples.labels[:, label])


def known(labels: np.ndarray) -> np.ndarray:
    """Where labels of several classes are: what is shown, or what has a value."""
    return labels if labels.dtype == np.bool_ else ~np.isnan(labels)


def of_each_class(samples: Samples) -> np.ndarray:
    """Which classes each image is of, shows, or has a value of: [N, classes] bool."""
    if samples.labels.ndim == 2:
        return known(samples.labels)
    return np.asarray(samples.labels[:, None] == np.arange(len(samples.class_names)))


def has_values(samples: Samples) -> bool:
    """Whether labels are what was measured, and not classes."""
    return samples.labels.dtype.kind == "f"


def on_every_side(samples: Samples) -> bool:
    """Whether each side of a split has all classes, of other images: what was measured, and
    structures to be marked, which are not told apart from one another."""
    return has_values(samples) or samples.masks is not None


def joined_labels(parts: Sequence[Samples]) -> np.ndarray:
    """The labels of several data sets, one after another, over all their classes together.

    Raises DataError where they are of different kinds.
    """
    kinds = {(part.labels.ndim, part.labels.dtype.kind) for part in parts}
    if len(kinds) > 1:
        raise DataError(
            f"{' + '.join(part.about for part in parts)}: one has a class an image, another "
            "several labels or values; train on data sets of one kind"
        )
    first = np.cumsum([0, *(len(part.class_names) for part in parts)])
    if parts[0].labels.ndim == 1:
        numbered = [part.labels + at for part, at in zip(parts, first, strict=False)]
        return np.concatenate(numbered).astype(np.int32)
    nothing = np.nan if has_values(parts[0]) else False
    labels = np.full((sum(len(p.labels) for p in parts), first[-1]), nothing, parts[0].labels.dtype)
    row = 0
    for part, at in zip(parts, first, strict=False):
        labels[row : row + len(part.labels), at : at + len(part.class_names)] = part.labels
        row += len(part.labels)
    return labels


def padded(table: np.ndarray, width: int, beyond: float) -> np.ndarray:
    """[N, M, ...] -> [N, width, ...], `beyond` in place of what there is not."""
    more = [(0, 0), (0, width - table.shape[1]), *[(0, 0)] * (table.ndim - 2)]
    return np.pad(table, more, constant_values=beyond)


def join(parts: Mapping[str, Samples]) -> Samples:
    """Several data sets, by name, as one: each is a domain. One alone stays as it is.

    Classes and groups are named after their data set too, so that none are taken for the
    same. Colour is kept where one of them has it. Where a data set names no groups, each of
    its images is its own.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    labels = joined_labels(list(parts.values()))
    require_one_rank((part.about, part.images.ndim) for part in parts.values())
    from medmeta_jax.data.stored import concatenated  # which has its images' channels from here

    channels = max(part.images.shape[-1] for part in parts.values())

    def together(field: str, beyond: float | None = None) -> Any:
        own = [getattr(part, field) for part in parts.values()]
        if own[0] is None:
            return None
        if beyond is not None:  # one has more objects in an image than another
            most = max(part.shape[1] for part in own)
            own = [padded(part, most, beyond) for part in own]
        return concatenated(own)

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
        labels=labels,
        class_names=tuple(f"{name}/{c}" for name, part in parts.items() for c in part.class_names),
        groups=column(groups) if any(p.groups is not None for p in parts.values()) else None,
        sides=column(sides) if any(p.sides is not None for p in parts.values()) else None,
        domains=column(lambda name, part: [name] * len(part.labels)),
        names=column(names) if all(p.names is not None for p in parts.values()) else None,
        about=" + ".join(part.about for part in parts.values()),
        masks=together("masks"),
        marks=together("marks"),
        present=together("present"),
        times=together("times") if all(p.times is not None for p in parts.values()) else None,
        boxes=together("boxes", np.nan),
        kinds=together("kinds", 0),
        skipped=tuple(one for part in parts.values() for one in part.skipped),
    )


def select(samples: Samples, keep: np.ndarray) -> Samples:
    """The samples where `keep` [N] is True; class names and labels as they were."""

    def pick(column: Any) -> Any:
        return None if column is None else column[keep]

    return samples._replace(
        images=samples.images[keep],
        labels=samples.labels[keep],
        groups=pick(samples.groups),
        sides=pick(samples.sides),
        domains=pick(samples.domains),
        names=pick(samples.names),
        masks=pick(samples.masks),
        present=pick(samples.present),
        times=pick(samples.times),
        boxes=pick(samples.boxes),
        kinds=pick(samples.kinds),
        covariates=pick(samples.covariates),
    )
