"""What memory `data prepare` takes: `python -m benchmarks.data_memory`.

Two generated data sets in class folders, many small PNG files and a few large NIfTI volumes, each
read by the command in a process of its own, which tells its largest resident size; beside
them a data set of a few images, which is what the command takes by itself. Needs as much room in
the temporary folder as the volumes take, and twice the images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine

PIXELS, CLASSES = 32, 6
# The command, and then its own peak: what the system tells of a child counts its parent's too.
COMMAND = """
import sys
from benchmarks.memory_use import resident_mb
from medmeta_jax.cli import main
try:
    main()
finally:
    print(resident_mb("VmHWM"), file=sys.stderr)
"""


def write_images(root: Path, count: int) -> None:
    """So many noisy PNG files of 32 pixels a side, in six class folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for place in range(CLASSES):
        (root / f"class{place}").mkdir(parents=True)
    for place in range(count):
        image = Image.fromarray(rng.integers(0, 256, (PIXELS, PIXELS), np.uint8))
        image.save(root / f"class{place % CLASSES}" / f"{place}.png", compress_level=1)


def write_volumes(root: Path, megabytes: int, each: int) -> None:
    """NIfTI volumes of int16 of `each` MB, as many as make so many MB in all."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    side = round((each * 2**20 / 2) ** (1 / 3))
    block = rng.integers(0, 2000, (side, side, 16), np.int16)
    values = np.tile(block, (1, 1, -(-side // 16)))[..., :side]
    for place in range(max(1, megabytes // each)):
        folder = root / f"class{place % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"p{place}_CT.nii")


def prepared(source: Path, out: Path) -> dict[str, Any]:
    """What `data prepare` said of a source, the seconds that it took and its peak in MB."""
    began = time.perf_counter()
    command = [sys.executable, "-c", COMMAND, "data", "prepare", str(source), "--out", str(out)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"data prepare {source} ended with {done.returncode}: {done.stderr}")
    return {
        "images": json.loads(done.stdout)["samples"],
        "seconds": time.perf_counter() - began,
        "peak_mb": float(done.stderr.splitlines()[-1]),
    }


def measure(images: int, megabytes: int, each: int) -> dict[str, Any]:
    """A row for each data set."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        write_images(root / "few", 60)
        write_images(root / "many", images)
        write_volumes(root / "volumes", megabytes, each)
        for name in ("few", "many", "volumes"):
            files = [path for path in (root / name).rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files) / 2**20
            rows[name] = {
                "files": len(files), "mb": size, **prepared(root / name, root / f"{name}-made")
            }  # fmt: skip
    return {**machine.described(), "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| data | files | MB | images made | seconds | peak, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        lines.append(
            f"| {name} | {row['files']} | {row['mb']:.0f} | {row['images']} | {row['seconds']:.0f} "
            f"| {row['peak_mb']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.data_memory")
    parser.add_argument("--images", type=int, default=200_000, help="small PNG files")
    parser.add_argument("--megabytes", type=int, default=2048, help="of volumes, in all")
    parser.add_argument("--each", type=int, default=128, help="MB of a volume")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    given = parser.parse_args()
    found = measure(given.images, given.megabytes, given.each)
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
