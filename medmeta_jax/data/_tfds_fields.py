"""Which fields of a tfds data set are the image, the label and the group, and what they say.

    features.json         the fields and their kinds
    FIELD.labels.txt      the names of a field's classes, one a line, where they have names

The fields of the medical sets of tfds' catalogue are known; those of others are told by their
kind, or named by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medmeta_jax.data._tfds_files import AGAIN, FEATURES, get, read_json, read_text, whole
from medmeta_jax.data.samples import DataError

MOST_CLASSES = 100_000
KINDS = ("image", "classLabel", "text", "tensor", "sequence", "featuresDict")
IMAGES = ("uint8", "uint16")
WHOLE = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
GROUPS = ("patient_id", "patient", "subject_id", "subject", "group")
STATES = ("uncertain", "positive", "negative", "unmentioned")
NOTHING = "No Finding"
CHEXPERT = (  # the columns of its tables, in their order
    NOTHING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip


class Known(NamedTuple):
    """A data set whose fields `image` and `label` are what they are called.

    group: a field, and patient: a pattern whose part in brackets is the patient.
    findings: of which each number of the label is a state; () for ordinary labels.
    """

    modality: str
    group: str = ""
    patient: str = ""
    findings: tuple[str, ...] = ()


KNOWN = {
    "patch_camelyon": Known("histology"),
    "colorectal_histology": Known("histology"),
    "malaria": Known("microscopy"),
    "diabetic_retinopathy_detection": Known("fundus", "name", r"(\d+)_(?:left|right)"),
    "chexpert": Known("xray", "name", r".*/(patient\d+)/.*", CHEXPERT),
}


class Labels(NamedTuple):
    """A field of labels.

    how: "one": it is a class's number; "list": the numbers of several classes; "flags": a number
        for each of `names`, 1 where the image shows it and less than `below`.
    names: by number; None where any number may come.
    named: whether the data set says the names.
    """

    field: str
    how: str
    names: tuple[str, ...] | None
    named: bool = True
    below: int = 2

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What images may be labelled with, in order."""
        return self.names and tuple(name for name in self.names if name != NOTHING)


class Fields(NamedTuple):
    """Where to find what in an example. group: "" for none; patient: a pattern whose part in
    brackets is the group, or "" where all of it is."""

    image: str
    label: Labels
    group: str
    patient: str
    modality: str | None


def choose_fields(folder: Path, data_set: str, image: str, label: str, group: str) -> Fields:
    """The fields to read: those asked for, else known, else the only ones there are (DataError)."""
    path = folder / FEATURES
    features = read_features(path)
    for option, name in (("image", image), ("label", label), ("group", group)):
        if name and name not in features:
            raise DataError(
                f"{path}: the option {option} must be one of {', '.join(features)}, got {name!r}"
            )
    known = KNOWN.get(data_set)
    if known:
        lacking = {"image", "label", known.group} - features.keys() - {""}
        if lacking:
            raise DataError(f"{path}: {data_set} lacks the fields {sorted(lacking)}; {AGAIN}")
    image = image or ("image" if known else only(path, features, "image", "image"))
    check_image(path, image, features[image])
    labelled = label or ("label" if known else only(path, features, "label", "classLabel"))
    labels = labels_of(path, labelled, features[labelled])
    if known and known.findings and not label:
        labels = findings_of(path, labels, known.findings)
    patient = known.patient if known and not group else ""
    group = group or (known.group if known else next((n for n in GROUPS if n in features), ""))
    if group:
        check_group(path, group, features[group])
    return Fields(image, labels, group, patient, known.modality if known else None)


def read_features(path: Path) -> dict[str, Any]:
    """The fields of an example by name (DataError)."""
    found = read_json(path)
    if "type" in found:
        raise DataError(f"{path}: of a tensorflow-datasets before 2022; {AGAIN} with today's")
    features: dict[str, Any] = get(path, get(path, found, "featuresDict", dict), "features", dict)
    return features


def kind_of(feature: Any) -> str:
    """What a field holds: one of `KINDS`, or "other"."""
    found = feature if isinstance(feature, dict) else {}
    return next((kind for kind in KINDS if isinstance(found.get(kind), dict)), "other")


def only(path: Path, features: dict[str, Any], option: str, kind: str) -> str:
    """The one field of a kind, or DataError that lists what there is."""
    found = [name for name, feature in features.items() if kind_of(feature) == kind]
    if len(found) != 1:
        kinds = ", ".join(f"{name} ({kind_of(feature)})" for name, feature in features.items())
        raise DataError(
            f"{path}: {len(found)} fields are of the kind {kind}; name one by the option "
            f"{option}, of {kinds}"
        )
    return found[0]


def shape_of(path: Path, content: dict[str, Any]) -> list[int]:
    """The lengths of an array's axes, -1 for any."""
    dimensions = get(path, get(path, content, "shape", dict, {}), "dimensions", list, [])
    return [whole(path, "dimensions", length) for length in dimensions]


def check_image(path: Path, name: str, feature: Any) -> None:
    """DataError where a field is no image, or one of another shape or dtype."""
    if kind_of(feature) != "image":
        raise DataError(f"{path}: {name} is of the kind {kind_of(feature)}, must be image")
    shape, dtype = shape_of(path, feature["image"]), feature["image"].get("dtype")
    if len(shape) != 3 or dtype not in IMAGES:
        raise DataError(
            f"{path}: {name}: images of {dtype} {shape} are not read, only [height, width, "
            f"channels] of {' or '.join(IMAGES)}"
        )


def check_group(path: Path, name: str, feature: Any) -> None:
    """DataError where a field is no text and no whole number."""
    content = feature["tensor"] if kind_of(feature) == "tensor" else {}
    scalar = content.get("dtype") in WHOLE and not shape_of(path, content)
    if not scalar and kind_of(feature) not in ("text", "classLabel"):
        raise DataError(f"{path}: {name} cannot be the group: it is no text and no whole number")


def labels_of(path: Path, name: str, feature: Any) -> Labels:
    """What a field says of labels (DataError)."""
    kind, axes = kind_of(feature), []
    if kind == "sequence":
        axes = [whole(path, "length", feature["sequence"].get("length"))]
        feature = feature["sequence"].get("feature")
        kind = kind_of(feature)
    if kind == "classLabel":
        count = whole(path, "numClasses", feature[kind].get("numClasses"))
        if not 0 < count <= MOST_CLASSES:
            raise DataError(f"{path}: {name}: numClasses is {count}; {AGAIN}")
        names = read_names(path.parent / f"{name}.labels.txt", count)
        return Labels(name, "list" if axes else "one", names or numbered(count), bool(names))
    if kind == "tensor" and feature[kind].get("dtype") in {*WHOLE, "bool"}:
        shape = axes + shape_of(path, feature[kind])
        if not shape:
            boolean = feature[kind]["dtype"] == "bool"
            return Labels(name, "one", numbered(2) if boolean else None, named=False)
        if len(shape) == 1 and 0 < shape[0] <= MOST_CLASSES:
            return Labels(name, "flags", numbered(shape[0]), named=False)
    raise DataError(
        f"{path}: {name} cannot be the label: it must be a class, a list of classes, a whole "
        "number, a bool, or a known number of 0 and 1"
    )


def read_names(path: Path, count: int) -> tuple[str, ...]:
    """The names of classes, or () where there is no such file (DataError)."""
    if not path.is_file():
        return ()
    names = tuple(line.strip() for line in read_text(path).split("\n") if line.strip())
    if len(set(names)) != count or len(names) != count:
        raise DataError(f"{path}: must be {count} names, each another, got {len(names)}; {AGAIN}")
    return names


def findings_of(path: Path, labels: Labels, findings: tuple[str, ...]) -> Labels:
    """A label that gives for each finding one of `STATES` (DataError)."""
    if labels.how != "list" or labels.names != STATES:
        raise DataError(
            f"{path}: {labels.field} must be a list of {', '.join(STATES)}, in that order, as "
            f"{labels.field}.labels.txt names them; {AGAIN}"
        )
    return Labels(labels.field, "flags", findings, below=len(STATES))  # 1 is "positive" too


def numbered(count: int) -> tuple[str, ...]:
    """Names for classes that have none.

    >>> numbered(2)
    ('class0', 'class1')
    """
    return tuple(f"class{number}" for number in range(count))


def label_of(labels: Labels, numbers: list[Any] | None) -> str | tuple[str, ...]:
    """What the numbers of an example say. Raises ValueError that names the field.

    >>> label_of(Labels("found", "flags", ("a", "b", "c")), [1, 0, 1])
    ('a', 'c')
    """
    field, how, names, _, below = labels
    if numbers is None or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{field} holds no whole numbers")
    if how == "flags" and names is not None:
        if len(numbers) != len(names) or not all(0 <= number < below for number in numbers):
            raise ValueError(f"{field} must be {len(names)} numbers from 0 to {below - 1}")
        shown = zip(names, numbers, strict=True)
        return tuple(name for name, number in shown if number == 1 and name != NOTHING)
    for number in numbers:
        if number < 0 or (names is not None and number >= len(names)):
            raise ValueError(f"{field} is {number}, which is no class")
    found = tuple(dict.fromkeys(names[n] if names else f"class{n}" for n in numbers))
    if how == "list":
        return found
    if len(numbers) != 1:
        raise ValueError(f"{field} holds {len(numbers)} numbers, must be one")
    return found[0]


def group_of(fields: Fields, values: Mapping[str, list[Any]]) -> str:
    """An example's group. Raises ValueError that names the field."""
    value = one_of(values, fields.group, bytes, int)
    text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    if not fields.patient:
        return text
    found = re.fullmatch(fields.patient, text)
    if found is None:
        raise ValueError(f"{fields.group} {text!r} names no patient")
    return found[1]


def one_of(values: Mapping[str, list[Any]], name: str, *kinds: type) -> Any:
    """The one value of a field. Raises ValueError that names it."""
    found = values.get(name, [])
    if len(found) != 1 or not isinstance(found[0], kinds):
        raise ValueError(f"{name} is not one value of its kind")
    return found[0]
