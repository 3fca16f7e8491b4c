"""What a task marks, in the images' own pixels: a mask of each picture as PNG, 255 where it is
marked, and of each NIfTI volume as NIfTI, 1 where it is, on the volume's own voxels.

A picture is marked at the size that the model takes, and its probabilities are brought back to its
own; a volume slice by slice, each as it would have been read to be trained on. A pixel is marked
where its probability is above a half.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax import overlays
from medmeta_jax.data import nifti
from medmeta_jax.data._cuts import PLANES, cut, draw, undrawn
from medmeta_jax.data._volumes import SUFFIXES, read_volume, stem_of
from medmeta_jax.data.samples import DataError, fit_image, fitted, to_channels
from medmeta_jax.deploy.model import Model
from medmeta_jax.deploy.predictor import Predictor, Task

# How a volume is read, of the options of `data/nifti.py`, where the support was of no volumes.
READ = {"plane": "axial", "intensity": "percentile", "spacing": 0.0, "frame": 0}


class Mask(NamedTuple):
    """What is marked in one file.

    name: the image's; file: the mask's, its `content`; marked: pixels or voxels, `of` so many; mm3:
    what is marked in space, None of a picture; distance: from the support, of a volume its slices'
    mean; image: a picture of it [H, W, C] uint8, of a volume the slice with most marks, and what is
    marked there [H, W] bool.
    """

    name: str
    file: str
    content: bytes
    marked: int
    of: int
    mm3: float | None
    distance: float
    image: np.ndarray
    shown: np.ndarray


def in_own_pixels(p: np.ndarray, sizes: tuple[int, int], to: tuple[int, int]) -> np.ndarray:
    """Probabilities [S, S] of an image that `fit_image` made of one of these sizes, without the
    padding and at a size of its own [height, width].

    >>> in_own_pixels(np.eye(4, dtype=np.float32), (2, 4), (2, 2)).shape
    (2, 2)
    """
    from PIL import Image

    (height, width), (top, left) = fitted(sizes, len(p))
    within = np.ascontiguousarray(p[top : top + height, left : left + width], np.float32)
    return np.asarray(Image.fromarray(within).resize(to[::-1], Image.Resampling.BILINEAR))


def fitting(model: Model, images: Sequence[np.ndarray]) -> np.ndarray:
    """Images [H, W, C] uint8 of any sizes as the model takes them."""
    size, channels = model.config.image_size, len(model.scaling.shift)
    return np.stack([to_channels(fit_image(image, size), channels) for image in images])


def pictures(
    predictor: Predictor, task: Task, names: Sequence[str], images: Sequence[np.ndarray]
) -> Iterator[Mask]:
    """The masks of pictures [H, W, C] uint8, each of its own size."""
    from PIL import Image

    told = predictor.mark(task, fitting(predictor.model, images))
    stems = [str(Path(name).with_suffix("")) for name in names]
    files = stems if len(set(stems)) == len(stems) else names
    for name, file, image, p, distance in zip(names, files, images, *told, strict=True):
        own = (image.shape[0], image.shape[1])
        marked = in_own_pixels(p, own, own) > 0.5
        out = io.BytesIO()
        Image.fromarray(np.where(marked, np.uint8(255), np.uint8(0))).save(out, "png")
        yield Mask(
            name, f"{file}_mask.png", out.getvalue(), int(marked.sum()), marked.size, None,
            float(distance), image, marked,
        )  # fmt: skip


def volume(
    predictor: Predictor, task: Task, path: Path, name: str, read: Mapping[str, Any]
) -> Mask:
    """The mask of a NIfTI volume, on the voxels of its file (DataError)."""
    how = {key: read.get(key, default) for key, default in READ.items()}
    whole = read_volume(path, how.pop("frame"))
    axis = PLANES[how["plane"]]
    slices = [piece.image for piece in cut(whole, None, slices=0, **how)]
    told = predictor.mark(task, fitting(predictor.model, slices))
    marked = np.zeros(whole.values.shape, np.uint8)
    places = np.moveaxis(marked, axis, 0)  # a view, by which `marked` is written
    for place, (image, p) in enumerate(zip(slices, told.probabilities, strict=True)):
        to = draw(whole.values, axis, place).shape
        places[place] = undrawn(in_own_pixels(p, (image.shape[0], image.shape[1]), to) > 0.5)
    most = int(places.sum((1, 2)).argmax())
    own = in_own_pixels(told.probabilities[most], slices[most].shape[:2], slices[most].shape[:2])
    suffix = next(end for end in SUFFIXES if path.name.lower().endswith(end))
    file = f"{name[: -len(suffix)]}_mask{suffix}"
    voxel = float(abs(np.linalg.det(whole.affine[:3, :3])))
    count = int(marked.sum())
    return Mask(
        name, file, as_nifti(path, marked, whole.affine), count, marked.size, count * voxel,
        float(told.distance.mean()), slices[most], own > 0.5,
    )  # fmt: skip


def as_nifti(path: Path, marked: np.ndarray, affine: np.ndarray) -> bytes:
    """A mask [x, y, z] uint8 in RAS+ order as a file in another's order, with its affine and its
    header, compressed where that is."""
    import nibabel as nib

    image: Any = nib.load(path)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.io_orientation(image.affine)
    )
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header["cal_min"], header["cal_max"] = 0, 1
    values = nib.apply_orientation(marked, turn)
    whole = nib.Nifti1Image(np.ascontiguousarray(values), image.affine, header).to_bytes()
    # Without the time, so that the same mask is the same file.
    return gzip.compress(whole, mtime=0) if path.suffix.lower() == ".gz" else whole


def volumes_of(source: str) -> list[tuple[Path, str]]:
    """The NIfTI volumes of a file or folder, with names below it, their masks left out (DataError);
    none where it holds other images."""
    path = Path(source)
    if path.is_file():
        return [(path, path.name)] if stem_of(path) else []
    if not nifti.recognises(source):
        return []
    return [
        (file.path, file.path.relative_to(path).as_posix())
        for file in nifti.list_files(path, "modality")
    ]


def as_table(masks: Sequence[Mask]) -> str:
    """One line an image, as CSV: its mask, what is marked, and how unlike the support it is."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "mask", "marked", "share", "mm3", "distance"])
    for one in masks:
        mm3 = "" if one.mm3 is None else f"{one.mm3:.1f}"
        distance = "" if np.isnan(one.distance) else f"{one.distance:.2f}"
        share = f"{one.marked / one.of:.6f}"
        writer.writerow([one.name, one.file, one.marked, share, mm3, distance])
    return out.getvalue()


def to_look_at(masks: Sequence[Mask]) -> Any:
    """A Pillow image of some, evenly from the first to the last: each as it is, and as marked."""
    places = np.linspace(0, len(masks) - 1, min(overlays.COUNT, len(masks))).round().astype(int)
    entries = []
    for one in (masks[place] for place in places):
        colour = to_channels(one.image, 3)
        tiles = colour, overlays.tinted(colour, one.shown, overlays.TOLD)
        caption = f"{100 * one.marked / one.of:.1f}%  {Path(one.name).name}"
        entries.append(overlays.Entry(caption, tiles))
    heading = ("each: image, ", "black"), ("what is marked", overlays.TOLD)
    return overlays.sheet(entries, heading)


def check_pictures(model: Model, spatial: int, source: str) -> None:
    """DataError where images have other axes than the run's."""
    if spatial != model.spatial:
        kinds = {2: "pictures", 3: "volumes"}
        raise DataError(
            f"{source}: holds {kinds[spatial]}, and the run was trained on {kinds[model.spatial]}"
        )
