"""How quick `data prepare` is: `python -m benchmarks.data`.

Images a second of preparing a data set, and beside it, in turns in one run, of plain reading with
the library that decodes the files (Pillow, or nibabel for volumes): one file after another, and on
as many threads as preparing has. Plain reading decodes to an array and keeps nothing; preparing
also cuts volumes into slices, scales, checks, writes and sums what it wrote. The data sets are
generated: PNG files of the size of a chest film made small, and gzipped volumes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from medmeta_jax.data.prepare import prepare

SIDE, IMAGES = 256, 1200
SHAPE, VOLUMES = (96, 96, 64), 24
CLASSES = 6


def write_images(root: Path) -> None:
    """Grey PNG files: smooth shapes with noise, which pack about as films do."""
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    for place in range(IMAGES):
        folder = root / f"class{place % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        a, b = rng.uniform(2, 9, 2)
        film = 128 + 90 * np.sin(a * x) * np.cos(b * y) + rng.normal(0, 4, (SIDE, SIDE))
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(folder / f"{place}.png")


def write_volumes(root: Path) -> None:
    """Gzipped NIfTI volumes of int16."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    for place in range(VOLUMES):
        folder = root / f"class{place % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        values = np.where(radius < rng.uniform(0.6, 0.9), 600 + rng.normal(0, 30, SHAPE), 0)
        volume = nib.Nifti1Image(values.astype(np.int16), np.eye(4))
        nib.save(volume, folder / f"p{place}_T1w.nii.gz")


def decode_image(path: Path) -> Any:
    """A file as an array, by Pillow alone."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def decode_volume(path: Path) -> Any:
    """A file as an array, by nibabel alone."""
    import nibabel as nib

    return np.asarray(nib.load(path).dataobj)


def reading(files: list[Path], decode: Callable[[Path], Any], threads: int) -> None:
    """Decode all files and keep nothing."""
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(files), 4 * threads):
            list(pool.map(decode, files[first : first + 4 * threads]))


def rows_of(root: Path, decode: Callable[[Path], Any], repeats: int) -> list[dict[str, Any]]:
    """Files a second of preparing and of plain reading, the median of some turns."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    threads = min(8, os.cpu_count() or 1)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> None:
        began = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - began)

    for turn in range(repeats):
        timed("plain reading, one thread", lambda: reading(files, decode, 1))
        timed(f"plain reading, {threads} threads", lambda: reading(files, decode, threads))
        with tempfile.TemporaryDirectory(dir=root.parent) as out:
            made = Path(out) / f"made{turn}"
            timed("data prepare", lambda made=made: prepare(str(root), made))
    rates = {name: len(files) / statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "name": name,
            "files_per_s": rate,
            "range": [len(files) / max(seconds[name]), len(files) / min(seconds[name])],
            "ratio": rate / rates["plain reading, one thread"],
        }
        for name, rate in rates.items()
    ]


def measure(repeats: int) -> dict[str, Any]:
    """The rows of both data sets."""
    from PIL import Image

    Image.init()  # its plug-ins are loaded before anything is timed
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        write_images(root / "images")
        write_volumes(root / "volumes")
        return {
            **machine.described(),
            f"{IMAGES} grey PNG files of {SIDE} x {SIDE}": rows_of(
                root / "images", decode_image, repeats
            ),
            f"{VOLUMES} gzipped volumes of {SHAPE}, 16 slices made of each": rows_of(
                root / "volumes", decode_volume, repeats
            ),
        }


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines: list[str] = []
    for name, rows in found.items():
        if not isinstance(rows, list):
            continue
        lines += [name, "", "| | files/s, median (range) | to plain reading |", "|---|---|---|"]
        for row in rows:
            low, high = row["range"]
            lines.append(
                f"| {row['name']} | {row['files_per_s']:.0f} ({low:.0f} to {high:.0f}) "
                f"| {row['ratio']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    """Parse, measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.data")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    given = parser.parse_args()
    found = measure(given.repeats)
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
