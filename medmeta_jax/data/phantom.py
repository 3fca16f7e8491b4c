"""The phantom: simulated lesions of sixteen types on real average anatomy, in any number.

`phantom` needs no files but those of an installed package. Each image is an axial slice of a
patient of its own, whose shape varies around the ICBM 2009a average (`phantom_anatomy.py`), seen as
one of five modalities, T1-, T2-, FLAIR-, CT- or PET-like, or three as the channels of one image
(`phantom_scan.py`), with one lesion (`phantom_lesions.py`). The class is the type of the lesion,
the group is the patient, the domain is the modality, and the mask marks the lesion by its type's
number plus one, so that each type is a structure to be segmented.

**What it is not**: contrast and pathology are simulated; only the average anatomy is real, that of
152 healthy people. It is for ablations that need more labelled images than there are, with a
difficulty that is known: `d_prime` is what an ideal observer that knows everything but whether the
lesion is there makes of each image (`phantom_scan.detectability`). It says nothing about disease,
and no result on it is a clinical one.

    medmeta data prepare phantom --out P --read.patients 2000 --read.d-prime 20 --image-size 0
    medmeta train --data P --image-size 48

d' is kept by images at the size they are drawn in: scaled down, they lose some. The same options
give the same bytes on one machine and version of JAX. Other processors, accelerators and versions
round differently: a grey may then be one level off here and there, a pixel at a lesion's border in
or out, and, very rarely, a lesion elsewhere.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data.records import Catalogue, Record, Unit
from medmeta_jax.data.samples import DataError

BLOCK = 48  # patients of a unit
LARGEST, MOST_PATIENTS, MOST_SCANS = 512, 10**6, 100
NO_LESION = "no_lesion"
SIXTHS = 6  # of the patients, in their order, make a side of a split where patients are dealt out
_compiling = threading.Lock()  # threads that read wait for one of them to compile


class Program(NamedTuple):
    """What an executable is compiled for: pixels a side, the modalities of each image that a
    patient has at once, and how often each is taken."""

    size: int
    views: tuple[tuple[str, ...], ...]
    scans: int


class Settings(NamedTuple):
    """What else the images depend on."""

    types: int
    no_lesion: bool
    d_prime: float
    noise: float
    seed: int


def recognises(source: str) -> bool:
    """The name "phantom"."""
    return source == "phantom"


def catalogue(
    source: str = "phantom", *, patients: int = 192, size: int = 48, modality: str = "flair",
    types: int = 16, d_prime: float = 40.0, noise: float = 1.0, scans: int = 1,
    no_lesion: bool = False, seed: int = 0,
) -> Catalogue:  # fmt: skip
    """The patients in blocks, drawn when they are read. Raises DataError naming the option.

    Args:
      patients: how many; types come equally often, also within each sixth that is dealt to a side.
      size: pixels a side.
      modality: t1, t2, flair, ct or pet; three joined by "+" are the channels of one image, as
        "t1+t2+flair"; several with commas between are an image each of every patient.
      types: how many types of lesion, the first of `phantom_lesions.TYPES`.
      d_prime: of the ideal observer on each image; 0 keeps the types' own contrasts.
      noise: times each modality's own.
      scans: how many images of a patient and modality, which differ by their noise alone.
      no_lesion: patients without a lesion are one more class.
      seed: of everything.
    """
    del source
    from medmeta_jax.data.phantom_lesions import TYPES

    program = Program(size, views_of(modality), scans)
    settings = Settings(types, no_lesion, d_prime, noise, seed)
    whole = (("patients", patients, 1, MOST_PATIENTS), ("size", size, 8, LARGEST),
             ("types", types, 1, len(TYPES)), ("scans", scans, 1, MOST_SCANS),
             ("seed", seed, 0, 2**31 - 1), ("noise", noise, 1e-3, 1e3),
             ("d_prime", d_prime, 0, 1e4))  # fmt: skip
    for name, value, least, most in whole:
        if not least <= value <= most:
            raise DataError(f"the option {name} must be from {least:g} to {most:g}, got {value}")
    blocks = [range(first, min(first + BLOCK, patients)) for first in range(0, patients, BLOCK)]
    strength = f"d' {d_prime:g}" if d_prime else "contrasts of the types' own"
    return Catalogue(
        [
            Unit(
                f"patients[{block.start}:{block.stop}]",
                functools.partial(read, program, settings, block),
                whole_names=True,
            )
            for block in blocks
        ],
        about=f"phantom: simulated lesions on real average anatomy, {modality}-like, {strength}",
        class_names=class_names(settings),
    )


def views_of(modality: str) -> tuple[tuple[str, ...], ...]:
    """The modalities of each image of a patient (DataError).

    >>> views_of("t1+t2+flair,ct")
    (('t1', 't2', 'flair'), ('ct',))
    """
    from medmeta_jax.data.phantom_lesions import MODALITIES

    views = tuple(tuple(view.strip().split("+")) for view in modality.split(","))
    for view in views:
        if len(view) not in (1, 3) or len(set(view)) < len(view) or not set(view) <= {*MODALITIES}:
            raise DataError(
                f"the option modality must be one of {', '.join(MODALITIES)}, three of them joined "
                f"by '+', or several such with commas between, got {modality!r}"
            )
    if len(set(views)) < len(views):
        raise DataError(f"the option modality must name each image once, got {modality!r}")
    return views


def class_names(settings: Settings) -> tuple[str, ...]:
    """In label order: the types, and patients without a lesion."""
    from medmeta_jax.data.phantom_lesions import TYPES

    return (*list(TYPES)[: settings.types], *[NO_LESION] * settings.no_lesion)


def class_of(patient: int, classes: int) -> int:
    """The class of a patient, dealt so that every sixth patient, from any, has all of them in turn.

    >>> sorted(class_of(patient, 16) for patient in range(5, 96, 6)) == list(range(16))
    True
    """
    turn, sixth = divmod(patient, SIXTHS)
    return (turn + sixth * classes // SIXTHS) % classes


def read(program: Program, settings: Settings, block: range) -> list[Record]:
    """The images of some patients, patient by patient."""
    names = class_names(settings)
    labels = [class_of(patient, len(names)) for patient in block]
    with _compiling:
        draw = compiled(program)
    images, masks = draw(block.start, np.resize(labels, BLOCK), settings)
    return [
        Record(
            image=images[view][place, scan],
            label=names[label],
            name=f"patient-{patient:06d}/{'+'.join(modalities)}/{scan}",
            group=f"patient-{patient:06d}",
            domain="+".join(modalities),
            modality="+".join(modalities),
            mask=masks[place],
            place=str(scan),
            time=float(scan),
        )
        for place, (patient, label) in enumerate(zip(block, labels, strict=True))
        for view, modalities in enumerate(program.views)
        for scan in range(program.scans)
    ]


Draw = Callable[[int, np.ndarray, Settings], tuple[list[np.ndarray], np.ndarray]]


@functools.lru_cache(maxsize=4)
def compiled(program: Program) -> Draw:
    """What draws a block of patients: (first, their classes [BLOCK], settings) -> for each view
    images [BLOCK, scans, size, size, C] uint8, and masks [BLOCK, size, size] uint8.

    Blocks are always of one length, so that a patient looks the same however many there are.
    """
    import jax
    import jax.numpy as jnp

    from medmeta_jax.data.phantom_anatomy import read_anatomy
    from medmeta_jax.data.phantom_lesions import TYPES, stacked
    from medmeta_jax.data.phantom_scan import contrast_for, of_modalities, scan, scene

    modalities = tuple(dict.fromkeys(one for view in program.views for one in view))
    kinds, anatomy = stacked(list(TYPES)), jnp.asarray(read_anatomy())

    def block(anatomy: Any, first: Any, labels: Any, types: Any, wanted: Any, noise: Any,
              seed: Any) -> Any:  # fmt: skip
        def one(patient: Any, label: Any) -> Any:
            key = jax.random.fold_in(jax.random.key(seed), patient)
            patient_key, scan_key, lesion_key = jax.random.split(key, 3)
            kind = jax.tree.map(lambda field: field[jnp.minimum(label, types - 1)], kinds)
            seen = scene(
                anatomy, patient_key, lesion_key, kind,
                modalities=modalities, size=program.size, noise=noise,
            )  # fmt: skip
            images = []
            for view in program.views:
                part = of_modalities(seen, [modalities.index(name) for name in view])
                scale = jnp.where(wanted > 0, contrast_for(part, wanted), 1.0)
                scale = jnp.where(label < types, scale, 0.0)
                keys = [jax.random.fold_in(scan_key, number) for number in range(program.scans)]
                greys = jnp.stack([scan(part, own, scale) for own in keys])
                images.append(jnp.round(jnp.clip(greys, 0, 1) * 255).astype(jnp.uint8))
            mask = jnp.where(seen.mask & (label < types), label + 1, 0)
            return images, mask.astype(jnp.uint8)

        # One after another on a CPU, whose caches hold one patient; elsewhere side by side.
        batch = None if jax.default_backend() == "cpu" else BLOCK
        patients = first + jnp.arange(BLOCK, dtype=jnp.int32)
        return jax.lax.map(lambda xs: one(*xs), (patients, labels), batch_size=batch)

    def arguments(first: int, labels: np.ndarray, settings: Settings) -> tuple[Any, ...]:
        whole = (np.int32(first), labels.astype(np.int32), np.int32(settings.types))
        real = (np.float32(settings.d_prime), np.float32(settings.noise))
        return anatomy, *whole, *real, np.int32(settings.seed)

    example = arguments(0, np.zeros(BLOCK), Settings(1, False, 1.0, 1.0, 0))
    executable = jax.jit(block).lower(*example).compile()

    def draw(first: int, labels: np.ndarray, settings: Settings) -> Any:
        images, masks = executable(*arguments(first, labels, settings))
        return [np.asarray(view) for view in images], np.asarray(masks)

    return draw


def example(where: Path) -> str:
    """The name to load it by; nothing is written: the anatomy comes with a package."""
    del where
    return "phantom"
