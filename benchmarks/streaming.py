"""What streaming costs, and how quick its reading is: `python -m benchmarks.streaming`.

The step of `medmeta train`'s default preset, and of ProtoNet in its place, which has the least to
do in a step, on generated images of 28 x 28: with the images on the device, and streamed from the
folder that `data prepare` made of them; in turns, from dispatches after a turn's first one, whose
images nothing was there to hide the reading of.

Beside it, the images a second of reading all of them in random order: by grain as streaming does,
and by `torch.utils.data.DataLoader` with as many workers as there are threads here and batches of
the same size, over the same images as PNG files, over the same records as tensorflow-datasets
gives them, and over the same records decoded as here. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report
from benchmarks.machine import say
from medmeta_jax.data import prepared
from medmeta_jax.data.prepare import prepare
from medmeta_jax.data.stored import BLOCK, StoredImages, threads

SETS = {"28 x 28, grey": (12_000, 28, 1), "84 x 84, in colour": (4_000, 84, 3)}
CLASSES = 24
TRAINED_ON = "28 x 28, grey"
LEARNERS = {"maml": {}, "protonet": {"algorithm": "protonet", "hyper": {}}}
DISPATCHES = 6  # of a turn


def write(root: Path, count: int, size: int, channels: int) -> Path:
    """A prepared folder of images that differ: smooth shapes with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size, :1][:2] / size
    a, b = rng.uniform(2, 9, (2, count, 1, 1, channels))
    images = 128 + 90 * np.sin(a * x) * np.cos(b * y) + rng.normal(0, 9, (count, size, size, 1))
    labels = np.arange(count) % CLASSES
    np.savez(root / "images.npz", images=images.clip(0, 255).astype(np.uint8), labels=labels)
    prepare(str(root / "images.npz"), root / "made")
    return root / "made"


class Files:
    """PNG files, kept in memory as files in the system's cache are, decoded by Pillow."""

    def __init__(self, images: np.ndarray) -> None:
        from PIL import Image

        self.files = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image.squeeze()).save(file, "png")
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> np.ndarray:
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.files[place])))


class Records:
    """Stored records, opened by each worker for itself; `decode` gives images of places."""

    def __init__(self, folder: Path, size: int, count: int, *, by_tfds: bool) -> None:
        self.folder, self.size, self.count, self.by_tfds = folder, size, count, by_tfds
        self.opened: Any = None

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, places: list[int]) -> list[np.ndarray]:
        if self.opened is None:
            self.opened = (
                prepared.open_records(self.folder)
                if self.by_tfds
                else prepared.PreparedImages(self.folder, self.size)
            )
        if self.by_tfds:
            return [example["image"] for example in self.opened.__getitems__(places)]
        return list(self.opened.read(np.asarray(places)))


def loader(data: Any, order: list[int]) -> Callable[[], int]:
    """A pass of torch's DataLoader, whose workers stay; how many images it gave."""
    import torch.utils.data

    made: Any = torch.utils.data.DataLoader(
        data, batch_size=BLOCK, sampler=order, num_workers=threads(), collate_fn=np.stack,
        persistent_workers=True, multiprocessing_context="fork",
    )  # fmt: skip
    return lambda: sum(len(batch) for batch in made)


def reading_rows(folder: Path, size: int, repeats: int) -> list[dict[str, Any]]:
    """Images a second of each way to read a folder, the median of some turns."""
    images = prepared.open_samples(str(folder), image_size=size).images
    assert isinstance(images, StoredImages)
    order = np.random.default_rng(0).permutation(len(images))
    in_memory = np.empty(images.shape, np.uint8)
    for place in range(0, len(images), BLOCK):  # without grain's threads, before torch forks
        in_memory[place : place + BLOCK] = images.block(
            np.arange(place, min(place + BLOCK, len(images)))
        )
    count, listed = len(images), order.tolist()
    ways: dict[str, Callable[[], int]] = {
        "DataLoader, PNG files": loader(Files(in_memory), listed),
        "DataLoader, the same records by tfds": loader(
            Records(folder, size, count, by_tfds=True), listed
        ),
        "DataLoader, the same records decoded as here": loader(
            Records(folder, size, count, by_tfds=False), listed
        ),
        "grain, as streaming reads": lambda: sum(len(block) for _, block in images.blocks(order)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):  # the first starts the workers and fills the caches
        for name, read in ways.items():
            began = time.perf_counter()
            assert read() == count
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return [
        {
            "name": name,
            "images_per_s": count / statistics.median(values),
            "range": [count / max(values), count / min(values)],
        }
        for name, values in seconds.items()
    ]


def turns_of(experiment: Any) -> Iterator[float]:
    """Seconds of a step, turn after turn of one run that goes on."""
    from medmeta_jax import running, train

    step = running.compile_step(experiment, experiment.training).step
    progress = running.initial_progress(experiment, experiment.training)
    config, done = experiment.config, 0
    while True:
        done += DISPATCHES * config.dispatch
        fit = train.fit(step, progress, experiment.feed, steps=done, dispatch=config.dispatch)
        reports = list(fit)
        progress = reports[-1].progress
        steps = sum(len(one.metrics.loss) for one in reports[1:])
        yield sum(one.seconds for one in reports[1:]) / steps


def step_rows(folder: Path, size: int, repeats: int) -> list[dict[str, Any]]:
    """Steps a second of each learner, resident and streamed, the medians of some turns."""
    from medmeta_jax import config as configs, verbs

    base = dataclasses.replace(
        configs.load(configs.DEFAULT_PRESET, None), data=str(folder), image_size=size
    )
    rows = []
    for learner, changes in LEARNERS.items():
        say(f"{learner}: resident and streamed")
        runs = {
            how: turns_of(verbs.build(dataclasses.replace(base, stream=stream, **changes)))
            for how, stream in (("resident", "never"), ("streamed", "always"))
        }
        seconds: dict[str, list[float]] = {how: [] for how in runs}
        for turn in range(repeats + 1):
            for how, run in runs.items():
                value = next(run)
                seconds[how] += [value] if turn else []
        median = {how: statistics.median(values) for how, values in seconds.items()}
        rows.append(
            {
                "learner": learner,
                **{f"{how}_ms": 1e3 * value for how, value in median.items()},
                "ranges_ms": {h: [1e3 * min(v), 1e3 * max(v)] for h, v in seconds.items()},
                "cost": median["streamed"] / median["resident"] - 1,
            }
        )
    return rows


def measure(repeats: int) -> dict[str, Any]:
    """All rows. Reading comes first, since torch's workers are forked before JAX has threads."""
    with tempfile.TemporaryDirectory() as where:
        folders = {}
        for name, (count, size, channels) in SETS.items():
            root = Path(where) / name.replace(" ", "")
            root.mkdir()
            folders[name] = write(root, count, size, channels)
        reading = {}
        for name, folder in folders.items():
            say(f"reading {name}")
            reading[name] = reading_rows(folder, SETS[name][1], repeats)
        steps = step_rows(folders[TRAINED_ON], SETS[TRAINED_ON][1], repeats)
    return {**machine.described(), "workers": threads(), "steps": steps, "reading": reading}


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        report.heading(found),
        "",
        f"A training step on images of {TRAINED_ON}",
        "",
        "| | on the device, ms (range) | streamed, ms (range) | streaming costs |",
        "|---|---|---|---|",
    ]
    for row in found["steps"]:
        cells = [
            f"{row[f'{how}_ms']:.1f} ({low:.1f} to {high:.1f})"
            for how, (low, high) in row["ranges_ms"].items()
        ]
        lines.append(f"| {row['learner']} | {cells[0]} | {cells[1]} | {100 * row['cost']:.1f}% |")
    for name, rows in found["reading"].items():
        lines += ["", f"Reading, {name}, {found['workers']} workers", ""]
        lines += ["| | images/s, median (range) |", "|---|---|"]
        for row in rows:
            low, high = row["range"]
            lines.append(f"| {row['name']} | {row['images_per_s']:.0f} ({low:.0f} to {high:.0f}) |")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.streaming")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    found = measure(given.repeats)
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
