"""An exported model, read and run with jax and numpy alone (and flatbuffers, by which jax reads).

This file works by itself: `medmeta export` puts a copy of it beside what it writes, named
medmeta_artefact.py, and neither that copy nor the artefact needs medmeta_jax.

    import medmeta_artefact
    artefact = medmeta_artefact.read("cells.medmeta")
    told = artefact.predict(images)                       # of a task
    task = artefact.adapt(images, labels, names)          # of a run
    told = artefact.predict(others, task)

or, for a table: python medmeta_artefact.py cells.medmeta images.npy told.csv

Where it is of masks, `adapt` takes [n, *spatial] of what is marked (not 0) in place of labels, and
`predict` gives probabilities of each pixel: python medmeta_artefact.py parts.medmeta images.npy
marked.npy

Images are uint8 [n, *spatial, channels] of the artefact's size; how others are brought to it is in
`artefact.about["preprocessing"]`. What is done to intensities, the network, the calibration and the
sets are in the programs, which hold code for CPU and for CUDA.

An artefact is one .npz: named arrays, programs by `jax.export`, and JSON among them that says what
they are, with a digest of it all. Nothing is unpickled, and a file that was altered or cut short is
refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

FORMAT = 1
ABOUT, DIGEST, PROGRAM = "about", "digest", "program/"
BATCH = 16  # images that are told at once
LEAST_SLOTS = 8  # of a support set; more double


class ArtefactError(Exception):
    """An artefact that cannot be used, or is asked for what it is not of."""


class Told(NamedTuple):
    """Of each of n images: probabilities [n, classes], which classes are in its set [n, classes],
    and its distance from the support [n], 1 being usual there."""

    probabilities: np.ndarray
    sets: np.ndarray
    distance: np.ndarray


class Marked(NamedTuple):
    """Of each of n images: how likely each pixel is of what is marked [n, *spatial], and its
    distance from the support [n], not a number by a network without features of an image."""

    probabilities: np.ndarray
    distance: np.ndarray


class Task(NamedTuple):
    """What `Artefact.adapt` found: arrays by name, and the classes."""

    arrays: dict[str, Any]
    class_names: tuple[str, ...]


def slots(count: int) -> int:
    """The size that a support set of so many images is padded to.

    >>> [slots(count) for count in (1, 8, 9, 40)]
    [8, 8, 16, 64]
    """
    size = LEAST_SLOTS
    while size < count:
        size *= 2
    return size


def padded(x: np.ndarray, size: int) -> np.ndarray:
    """[n, ...] with zeros up to `size`."""
    return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)])


def in_batches(tell: Callable[[Any, Any], Any], images: np.ndarray) -> list[np.ndarray]:
    """What `tell`(images [m, ...], there [m]) gives, a tuple of [m, ...], over all images [n, ...].

    A single image is told by itself, others `BATCH` at once, so that there are two programs.
    """
    parts = []
    for first in range(0, len(images), BATCH):
        some = images[first : first + BATCH]
        size = BATCH if len(some) > 1 else 1
        found = tell(padded(some, size), np.arange(size) < len(some))
        parts.append([np.asarray(part)[: len(some)] for part in found])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def told(parts: list[np.ndarray], ways: int) -> Told:
    """What a program tells of images, of the first `ways` classes."""
    p, sets, distance = parts
    return Told(p[:, :ways], sets[:, :ways], distance)


def digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of names, types, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.digest()


def packed(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> bytes:
    """Arrays and what is said of them as the bytes of one file."""
    text = json.dumps({**about, "format": FORMAT}, allow_nan=False)
    whole = {**arrays, ABOUT: np.frombuffer(text.encode(), np.uint8)}
    whole[DIGEST] = np.frombuffer(digest(whole), np.uint8)
    out = io.BytesIO()
    np.savez(out, **whole)  # type: ignore[arg-type]
    return out.getvalue()


def unpacked(path: str | Path | BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file, and what it says of them (ArtefactError)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        same = arrays.pop(DIGEST).tobytes() == digest(arrays)
        about = json.loads(arrays.pop(ABOUT).tobytes())
        version = about["format"]
    except FileNotFoundError:
        raise ArtefactError(f"{path}: no such file") from None
    except Exception as error:  # whatever a damaged archive makes its readers raise
        raise ArtefactError(f"{path}: not of this kind, or damaged ({error})") from None
    if not same:
        raise ArtefactError(f"{path}: its bytes are not those that were written")
    if version != FORMAT:
        raise ArtefactError(f"{path}: of format {version}, this version reads {FORMAT}")
    return arrays, about


class Artefact:
    """See the module. about: what it says of itself."""

    def __init__(self, arrays: Mapping[str, np.ndarray], about: dict[str, Any]) -> None:
        self.about = about
        self._arrays: dict[str, Any] = {}
        self._programs: dict[str, Any] = {}
        for name, array in arrays.items():
            if name.startswith(PROGRAM):
                program = export.deserialize(bytearray(array.tobytes()))
                self._programs[name.removeprefix(PROGRAM)] = jax.jit(program.call)
            else:
                self._arrays[name] = jnp.asarray(array)

    def adapt(
        self, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...] = ()
    ) -> Task:
        """Adapt to images [n, *spatial, channels] uint8 with labels [n], places in the names; or to
        what is marked in them [n, *spatial], which takes no names."""
        if "adapt" not in self._programs:
            raise ArtefactError("this artefact is of a task: it is adapted already; predict")
        size = self.about["slots"]
        self._check(images)
        if len(images) > size:
            raise ArtefactError(f"takes a support of up to {size} images, got {len(images)}")
        labels = np.asarray(labels)
        if self._of_masks:
            if labels.shape != images.shape[:-1]:
                raise ArtefactError(f"needs masks {images.shape[:-1]}, got {labels.shape}")
            labels = labels != 0
        else:
            self._check_labels(images, labels, len(class_names))
        there = np.arange(size) < len(images)
        given = padded(images, size), padded(labels.astype(np.int32), size), there
        return Task(self._programs["adapt"](self._arrays, *given), tuple(class_names))

    def predict(self, images: np.ndarray, task: Task | None = None) -> Told | Marked:
        """Tell images [n, *spatial, channels] uint8, by its own task or the one given."""
        self._check(images)
        if (task is None) == ("adapt" in self._programs):
            raise ArtefactError(
                "give the task that adapt found" if task is None else "is of a task of its own"
            )
        arrays, names = task or Task(self._arrays, self.class_names)
        program = self._programs["predict"]
        parts = in_batches(lambda x, there: program(arrays, x, there), images)
        return Marked(*parts) if self._of_masks else told(parts, len(names))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of an artefact of a task."""
        return tuple(self.about["classes"])

    @property
    def _of_masks(self) -> bool:
        return self.about.get("labels") == "masks"  # of before there were masks: classes

    def _check_labels(self, images: np.ndarray, labels: np.ndarray, ways: int) -> None:
        most = self.about["outputs"]
        if labels.shape != (len(images),) or ways > most:
            raise ArtefactError(
                f"needs a label for each of {len(images)} images and up to {most} class names, "
                f"got {labels.shape} and {ways}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < ways:
            raise ArtefactError(f"labels must be places in {ways} class names")

    def _check(self, images: np.ndarray) -> None:
        wanted = tuple(self.about["image"])
        if images.dtype != np.uint8 or images.shape[1:] != wanted or not len(images):
            raise ArtefactError(
                f"images must be uint8 [n, {', '.join(map(str, wanted))}] with n >= 1, got "
                f"{images.dtype} {list(images.shape)}; {self.about['preprocessing']}"
            )


def read(path: str | Path | BinaryIO) -> Artefact:
    """An artefact that `medmeta export` wrote (ArtefactError)."""
    arrays, about = unpacked(path)
    if PROGRAM + "predict" not in arrays:
        raise ArtefactError(f"{path}: holds no program, and is not of `medmeta export`")
    try:
        return Artefact(arrays, about)
    except ImportError as error:  # which jax takes to read its programs, and does not bring
        raise ArtefactError(f"{error}: pip install flatbuffers") from None
    except Exception as error:  # of another kind of file, or of a jax that reads no such program
        raise ArtefactError(
            f"{path}: holds no program that jax {jax.__version__} can read ({error}); it was "
            f"written by jax {about.get('versions', {}).get('jax', 'of no known version')}"
        ) from None


def as_csv(names: list[str], class_names: tuple[str, ...], told: Told) -> str:
    """One line an image."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "class", "probability", "set", "certain", "distance",
                     *(f"p({name})" for name in class_names)])  # fmt: skip
    rows = zip(names, told.probabilities, told.sets, told.distance, strict=True)
    for name, p, within, distance in rows:
        best = int(p.argmax())
        kept = [one for one, there in zip(class_names, within, strict=True) if there]
        writer.writerow([name, class_names[best], f"{p[best]:.4f}", "|".join(kept),
                         "yes" if len(kept) == 1 else "no", f"{distance:.2f}",
                         *(f"{value:.4f}" for value in p)])  # fmt: skip
    return out.getvalue()


def main(arguments: list[str]) -> None:
    """python medmeta_artefact.py ARTEFACT IMAGES.npy OUT.csv (of masks: OUT.npy)."""
    if len(arguments) != 3:
        raise SystemExit(main.__doc__)
    path, images, out = arguments
    try:
        artefact = read(path)
        found = artefact.predict(np.load(images, allow_pickle=False))
        if isinstance(found, Marked):
            with Path(out).open("wb") as handle:
                np.save(handle, found.probabilities)
            return
        names = [str(i) for i in range(len(found.probabilities))]
        Path(out).write_text(as_csv(names, artefact.class_names, found), encoding="utf-8")
    except (ArtefactError, OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
