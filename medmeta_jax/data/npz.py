"""A NumPy archive: `images`, `labels` and optionally `groups`, `domains`, `class_names`;
or MedMNIST's layout (`train_images`, `train_labels`, `val_images`, ...).

images: [N, H, W] or [N, H, W, C] uint8, C being 1 or 3; or volumes [N, D, H, W] (MedMNIST's 3-D
sets), of which slices are taken, a volume's all of one group, or which stay whole. labels: [N] or
[N, 1] int, or [N, L] of 0 and 1 where an image may show several labels or none (then `class_names`
names the L). Nothing is unpickled.
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
    else:
        raise DataError(
            f"{path}: needs the arrays images and labels, or train_images and train_labels; "
            f"has {sorted(arrays)}"
        )
    images, labels = check_arrays(path, images, labels)
    known = np.arange(labels.shape[1]) if labels.ndim == 2 else np.unique(labels)
    names = names_of(path, arrays.get("class_names"), known)
    groups = column(path, arrays, "groups", len(images))
    domains = column(path, arrays, "domains", len(images))

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
            )
            for place, (one, label) in enumerate(zip(images, labels, strict=True))
            for which, image in (slices_of(one, slices) if volumes and not whole else [("", one)])
        ]

    return Catalogue([Unit(path.name, read)], f"images of {path.name}", class_names=names)


def slices_of(volume: np.ndarray, slices: int) -> list[tuple[str, np.ndarray]]:
    """Slices of [D, H, W, 1], and what each is called."""
    return [(f" z={place}", volume[place]) for place in spread(len(volume), slices)]


def labels_of(label: np.ndarray, names: dict[int, str]) -> str | tuple[str, ...]:
    """The name of a label, or the names of those that are set."""
    if label.ndim == 0:
        return names[int(label)]
    return tuple(names[place] for place in np.flatnonzero(label).tolist())


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


def check_arrays(path: Path, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """images as [N, H, W, C] or [N, D, H, W, 1] uint8, and labels as [N] int or [N, L] 0 and 1, or
    DataError."""
    if images.dtype != np.uint8:
        raise DataError(f"{path}: images must be uint8, got {images.dtype}")
    if images.ndim == 3 or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        images = images[..., None]
    if images.ndim not in (4, 5) or not images.size or images.shape[-1] not in (1, 3):
        raise DataError(
            f"{path}: images must be [N, H, W], [N, H, W, 1|3] or [N, D, H, W], got {images.shape}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != len(images):
        raise DataError(
            f"{path}: labels must be [{len(images)}], one an image, or [{len(images)}, L] of 0 and "
            f"1, got {labels.shape}"
        )
    if labels.dtype != np.bool_ and not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels must be integers, got {labels.dtype}")
    if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
        raise DataError(f"{path}: labels of several an image must be 0 or 1")
    return images, labels


def names_of(path: Path, given: np.ndarray | None, known: np.ndarray) -> tuple[str, ...]:
    """A name for each label that occurs."""
    if given is None:
        return tuple(f"class{label}" for label in known)
    if given.ndim != 1 or known[0] < 0 or known[-1] >= len(given):
        raise DataError(f"{path}: class_names must name the labels 0 to {known[-1]}")
    return tuple(str(given[label]) for label in known)


def column(path: Path, arrays: dict[str, np.ndarray], name: str, n: int) -> np.ndarray | None:
    """An optional column of strings [n]."""
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape != (n,):
        raise DataError(f"{path}: {name} must be [{n}], one an image, got {values.shape}")
    return values.astype(str)
