"""What the tests of tfds data sets share: small ones, written by tfds itself, and their damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from medmeta_jax.data import tfds_sets
from medmeta_jax.data.records import Record

Examples = list[dict[str, Any]]
FEATURES = tfds.features
NAMED = FEATURES.ClassLabel(names=["tumour", "healthy"])
PATIENT = {"image": FEATURES.Image(), "label": NAMED, "patient": FEATURES.Text()}
TRAIN, TEST = (f"own-{side}.array_record-00000-of-00001" for side in ("train", "test"))


def stored(
    where: Path,
    splits: dict[str, Examples],
    features: dict[str, Any] | None = None,
    *,
    builder: type = tfds.core.GeneratorBasedBuilder,
    name: str = "own",
    config: str | None = None,
    version: str = "1.0.0",
    files: int = 1,
) -> Path:
    """A data set as tfds stores it below `where`, in the order given; the folder of its version."""

    class Own(builder, skip_registration=True):
        pkg_dir_path = builder._get_pkg_dir_path()
        VERSION = getattr(builder, "VERSION", None) or tfds.core.Version(version)
        if features and config:
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)]

        def _info(self) -> Any:
            if features is None:
                return super()._info()
            return tfds.core.DatasetInfo(
                builder=self, features=FEATURES.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self) -> None:
            raise AssertionError("nothing is generated")

    Own.name = name
    made = Own(data_dir=where, config=config, file_format="array_record")
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=files))
    return Path(made.data_dir)


def plain(value: int, channels: int = 3, size: tuple[int, int] = (4, 6)) -> Image.Image:
    """A picture of one value, 4 high and 6 wide."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return Image.new(mode, size[::-1], value if channels == 1 else (value,) * channels)


def patients(*values: int) -> Examples:
    """Examples of `PATIENT`: even values are tumours, tens a patient."""
    return [
        {"image": plain(value), "label": value % 2, "patient": f"p{value // 10}"}
        for value in values
    ]


def small(where: Path) -> Path:
    """Three examples to train on and two to test, of three patients."""
    return stored(where, {"train": patients(10, 11, 20), "test": patients(30, 31)}, PATIENT)


def records(source: Path | str, **options: str) -> list[Record]:
    """Everything that a data set holds; asking no other source is quicker."""
    units = tfds_sets.catalogue(str(source), **options).units
    return [record for unit in units for record in unit.read()]


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change what a JSON file holds."""

    def damage(root: Path) -> None:
        found = json.loads((root / name).read_text())
        change(found)
        (root / name).write_text(json.dumps(found))

    return damage


def lengths(split: str, *numbers: Any) -> Callable[[Any], None]:
    def change(info: Any) -> None:
        (found,) = (one for one in info["splits"] if one["name"] == split)
        found["shardLengths"] = list(numbers)

    return change


def field(name: str, value: Any) -> Callable[[Path], None]:
    """Change a field of features.json."""
    return edit(
        "features.json", lambda found: found["featuresDict"]["features"].update({name: value})
    )
