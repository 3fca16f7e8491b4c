"""A NumPy archive: `images`, `labels` and optionally `groups`, `domains`, `times`, `class_names`;
`values` and `value_names` in place of the labels where something was measured of each image;
or MedMNIST's layout (`train_images`, `train_labels`, `val_images`, ...).

images: [N, H, W] or [N, H, W, C] uint8, C being 1 or 3; or volumes [N, D, H, W] (MedMNIST's 3-D
sets), of which slices are taken, a volume's all of one group, or which stay whole. labels: [N] or
[N, 1] int, or [N, L] of 0 and 1 where an image may show several labels or none (then `class_names`
names the L). values: [N] or [N, L] of numbers, such as an age, NaN where one is not known. Nothing
is unpickled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medmeta_jax.data._cuts import spread
from medmeta_jax.data.records import Catalogue, Record, Unit
from medmeta_jax.data.samples import DAMAGED, DataError

MEDMNIST_SIDES = {"train": "train", "val": "train", "test": "test"}


def recognises(source: str) -> bool:
    """A file that ends in .npz."""
    return source.endswith(".npz")


def catalogue(source: str, *, slices: int = 4, whole: bool = False) -> Catalogue:
    """The archive as one unit. Raises DataError naming the file and the field.

    Args:
      slices: how many of a volume, evenly over the middle 80 percent of its depth; 0 for all.
      whole: a volume is one image in three dimensions, in place of slices.
    """
    if slices < 0:
        raise DataError(f"the option slices must be >= 0, got {slices}")
    path = Path(source)
    arrays = read_arrays(path)
    sides = [""]
    if "train_images" in arrays:
        parts = [side for side in MEDMNIST_SIDES if f"{side}_images" in arrays]
        lacking = [side for side in parts if f"{side}_labels" not in arrays]
        if lacking:
            raise DataError(f"{path}: has {lacking[0]}_images but no {lacking[0]}_labels")
        images = np.concatenate([arrays[f"{side}_images"] for side in parts])
        labels = np.concatenate([arrays[f"{side}_labels"] for side in parts])
        sides = [MEDMNIST_SIDES[side] for side in parts for _ in arrays[f"{side}_images"]]
    elif {"images", "labels"} <= arrays.keys():
        images, labels = arrays["images"], arrays["labels"]
    elif {"images", "values"} <= arrays.keys():
        images, labels = arrays["images"], arrays["values"]
    else:
        raise DataError(
            f"{path}: needs the arrays images and labels, or images and values, or train_images "
            f"and train_labels; has {sorted(arrays)}"
        )
    images = check_images(path, images)
    values = labels is arrays.get("values")
    labels = (check_values if values else check_labels)(path, labels, len(images))
    known = np.arange(labels.shape[1]) if labels.ndim == 2 else np.unique(labels)
    names = names_of(path, arrays, "value_names" if values else "class_names", known)
    groups = column(path, arrays, "groups", len(images))
    domains = column(path, arrays, "domains", len(images))
    times = times_of(path, arrays, len(images))

    volumes = images.ndim == 5
    if volumes and groups is None:
        groups = np.arange(len(images)).astype(str)

    def read() -> list[Record]:
        of_label = dict(zip(known.tolist(), names, strict=True))
        return [
            Record(
                image=image,
                label=labels_of(label, of_label),
                name=f"{place}{which}",
                group=None if groups is None else str(groups[place]),
                side=sides[place % len(sides)],
                domain=None if domains is None else str(domains[place]),
                time=None if times is None else float(times[place]),
            )
            for place, (one, label) in enumerate(zip(images, labels, strict=True))
            for which, image in (slices_of(one, slices) if volumes and not whole else [("", one)])
        ]

    return Catalogue([Unit(path.name, read)], f"images of {path.name}", class_names=names)


def slices_of(volume: np.ndarray, slices: int) -> list[tuple[str, np.ndarray]]:
    """Slices of [D, H, W, 1], and what each is called."""
    return [(f" z={place}", volume[place]) for place in spread(len(volume), slices)]


def labels_of(label: np.ndarray, names: dict[int, str]) -> str | tuple[str, ...] | dict[str, float]:
    """The name of a label, the names of those that are set, or the values that are known."""
    if label.ndim == 0:
        return names[int(label)]
    if label.dtype.kind == "f":
        there = np.flatnonzero(~np.isnan(label)).tolist()
        return {names[place]: float(label[place]) for place in there}
    return tuple(names[place] for place in np.flatnonzero(label).tolist())


def times_of(path: Path, arrays: dict[str, np.ndarray], count: int) -> np.ndarray | None:
    """When the images were taken [N], finite numbers (DataError); None where that is not said."""
    times = arrays.get("times")
    if times is None:
        return None
    if times.shape != (count,) or times.dtype.kind not in "iuf" or not np.isfinite(times).all():
        raise DataError(
            f"{path}: times must be a finite number for each of {count} images, got {times.dtype} "
            f"{times.shape}"
        )
    return times


def example(where: Path) -> str:
    """Write a small data set in this format; returns the name to load it by."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 6)
    where.mkdir(parents=True, exist_ok=True)
    np.savez(
        where / "example.npz",
        images=rng.integers(0, 256, (len(labels), 9, 12, 3), np.uint8),
        labels=labels,
        groups=np.asarray([f"patient{i % 3}" for i in range(len(labels))]),
        domains=np.where(labels < 3, "ct", "mr"),
    )
    return str(where / "example.npz")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the archive, refusing pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DAMAGED as error:
        raise DataError(f"{path}: not a readable npz archive ({error})") from None


def check_images(path: Path, images: np.ndarray) -> np.ndarray:
    """images as [N, H, W, C] or [N, D, H, W, 1] uint8, or DataError."""
    if images.dtype != np.uint8:
        raise DataError(f"{path}: images must be uint8, got {images.dtype}")
    if images.ndim == 3 or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        images = images[..., None]
    if images.ndim not in (4, 5) or not images.size or images.shape[-1] not in (1, 3):
        raise DataError(
            f"{path}: images must be [N, H, W], [N, H, W, 1|3] or [N, D, H, W], got {images.shape}"
        )
    return images


def check_values(path: Path, values: np.ndarray, n: int) -> np.ndarray:
    """values as [N, L] float32, or DataError."""
    if values.ndim == 1:
        values = values[:, None]
    numbers = values.dtype.kind in "iuf"
    if values.ndim != 2 or len(values) != n or not values.shape[1] or not numbers:
        raise DataError(
            f"{path}: values must be numbers [{n}] or [{n}, L], got {values.dtype} {values.shape}"
        )
    values = values.astype(np.float32)
    if np.isinf(values).any() or np.isnan(values).all(1).any():
        place = int(np.argmax(np.isinf(values).any(1) | np.isnan(values).all(1)))
        raise DataError(f"{path}: image {place} has no value that is a finite number; leave it out")
    return values


def check_labels(path: Path, labels: np.ndarray, n: int) -> np.ndarray:
    """labels as [N] int or [N, L] of 0 and 1, or DataError."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != n:
        raise DataError(
            f"{path}: labels must be [{n}], one an image, or [{n}, L] of 0 and 1, got "
            f"{labels.shape}"
        )
    if labels.dtype != np.bool_ and not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels must be integers, got {labels.dtype}; numbers that were measured are "
            "the array values"
        )
    if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
        raise DataError(f"{path}: labels of several an image must be 0 or 1")
    return labels


def names_of(
    path: Path, arrays: dict[str, np.ndarray], name: str, known: np.ndarray
) -> tuple[str, ...]:
    """A name for each label that occurs, from the array of this name if there is one."""
    if name not in arrays:
        return tuple(f"{name.removesuffix('_names')}{label}" for label in known)
    given = arrays[name]
    if given.ndim != 1 or known[0] < 0 or known[-1] >= len(given):
        raise DataError(f"{path}: {name} must name the labels 0 to {known[-1]}")
    return tuple(str(given[label]) for label in known)


def column(path: Path, arrays: dict[str, np.ndarray], name: str, n: int) -> np.ndarray | None:
    """An optional column of strings [n]."""
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape != (n,):
        raise DataError(f"{path}: {name} must be [{n}], one an image, got {values.shape}")
    return values.astype(str)
