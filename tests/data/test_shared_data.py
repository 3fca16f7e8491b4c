"""Real data sets, held against what their own README says of them: inspected, prepared, and
inspected again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from medmeta_jax.data_verbs import data_inspect, data_prepare
from medmeta_jax.options import DataInspect, DataPrepare

from .test_sources import REAL, needs_real


class Told(NamedTuple):
    """What the README says, and where it is silent None.

    samples: images, or crops of boxes; classes: how many of each; names: how many classes; each:
    how many of every class; sizes: of every image, (height, width, channels); longest: no side is
    above it; groups: as many as groups.csv names, or images that boxes are cut from.
    """

    path: str
    samples: int | None
    classes: dict[str, int] | None
    names: int | None = None
    each: int | None = None
    sizes: tuple[int, int, int] | None = None
    longest: int | None = None
    groups: int | None = None
    modalities: tuple[str, ...] | None = None
    sides: dict[str, int] | None = None
    masked: bool = False


RED_CELLS = (
    "elliptocyte", "hypochromia", "macrocyte", "microcyte", "normal", "ovalocyte", "spherocyte",
)  # fmt: skip
CHEST_XRAY = Told(
    "chest_xray", 307, {"covid": 130, "normal": 88, "viral_pneumonia": 89}, longest=128
)
RETINA = Told("retina_vessels", 40, {"retina_vessels": 40}, sizes=(292, 282, 3), masked=True)
BCCD = Told("bccd", 4888, {"RBC": 4155, "WBC": 372, "Platelets": 361}, groups=364)
QUICK = [
    CHEST_XRAY,
    RETINA,
    Told(
        "brain_tumor_mri", 800,
        dict.fromkeys(("glioma", "meningioma", "pituitary", "no_tumor"), 200), longest=128,
    ),
    Told("lung_ct", 503, {"benign": 103, "malignant": 200, "normal": 200}, longest=128),
    Told(
        "wbc_seg", 300,
        {"neutrophil": 176, "lymphocyte": 53, "monocyte": 48, "eosinophil": 22, "basophil": 1},
        longest=120, masked=True,
    ),
    Told("nuclei_seg", 80, {"nuclei_seg": 80}, sizes=(256, 256, 1), masked=True),
    Told("spinal_cord", None, None, groups=1, modalities=("mt1", "t1w", "t2star", "t2w"),
         masked=True),
]  # fmt: skip
LONG = [
    Told("blood_cells", 1400, dict.fromkeys(RED_CELLS, 200), sizes=(64, 64, 3), groups=246),
    Told("omniglot/omniglot28.npz", 4840, None, names=242, each=20, sizes=(28, 28, 1)),
    Told(
        "pneumoniamnist/pneumoniamnist.npz", 3882 + 524 + 624, None, names=2, sizes=(28, 28, 1),
        sides={"train": 3882 + 524, "test": 624},
    ),
    BCCD,
]  # fmt: skip
ALL = [
    *(pytest.param(told, id=told.path) for told in QUICK),
    *(pytest.param(told, id=told.path, marks=pytest.mark.slow) for told in LONG),
]


def check(found: dict[str, Any], told: Told) -> None:
    """Every number that the README gives."""
    assert found["unreadable"] == []
    assert found["unlabelled"] == 0
    assert sum(found["classes"].values()) == found["samples"] > 0
    assert found["groups"] == told.groups
    assert found["masks"] == (found["samples"] if told.masked else 0)
    assert told.sides in (None, found["sides"])
    if told.samples is not None:
        assert found["samples"] == told.samples
    if told.classes is not None:
        assert found["classes"] == told.classes
    assert told.names in (None, len(found["classes"]))
    assert told.each is None or set(found["classes"].values()) == {told.each}
    if told.sizes is not None:
        assert found["sizes"] == [{"size": list(told.sizes), "images": found["samples"]}]
    if told.longest is not None:
        assert max(max(one["size"]) for one in found["sizes"]) <= told.longest
    modalities = found["modalities"]
    assert (None if modalities is None else tuple(modalities)) == told.modalities


@needs_real
@pytest.mark.parametrize("told", [CHEST_XRAY, RETINA], ids=lambda told: told.path)
def test_the_command_line_counts_as_the_readme(told: Told) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medmeta_jax", "data", "inspect", str(REAL / told.path), "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), told)


@needs_real
@pytest.mark.parametrize("told", ALL)
def test_counts_as_the_readme_and_prepared_the_same(told: Told, tmp_path: Path) -> None:
    """Nothing that can be seen in the source is otherwise in what was made of it."""
    before = data_inspect(DataInspect(str(REAL / told.path)))
    check(before, told)
    out = str(tmp_path / "made")
    manifest = data_prepare(DataPrepare(str(REAL / told.path), out=out, image_size=0), {})
    for name in ("samples", "classes", "groups", "masks", "boxes", "modalities"):
        assert manifest[name] == before[name], name
    assert data_inspect(DataInspect(out)) == before


@needs_real
@pytest.mark.slow
def test_boxes_of_whole_images(tmp_path: Path) -> None:
    """As boxes of the images that they lie in, and not as crops: as many."""
    out = str(tmp_path / "made")
    given = DataPrepare(str(REAL / BCCD.path), out=out, image_size=0)
    manifest = data_prepare(given, {"crops": False})
    found = data_inspect(DataInspect(out))
    assert manifest["samples"] == found["samples"] == BCCD.groups
    assert manifest["boxes"] == found["boxes"] == BCCD.samples
    assert found["sizes"] == [{"size": [480, 640, 3], "images": BCCD.groups}]
