"""A run directory: config.yaml, split.json, data.json, model.json, env.json, metrics.jsonl,
checkpoints/, calibration.json, scores.csv, plots/, summary.json, report.html."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("medmeta_jax", "jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy")


class RunError(Exception):
    """A run directory that cannot be made, or is none. The message says what to do."""


class Run:
    """Paths and writers of one run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.environment = folder / "env.json"
        self.split = folder / "split.json"
        self.data = folder / "data.json"  # counts of images, groups and classes
        self.model = folder / "model.json"  # what putting it to use takes of its data
        self.metrics = folder / "metrics.jsonl"
        self.summary = folder / "summary.json"
        self.calibration = folder / "calibration.json"
        self.scores = folder / "scores.csv"  # of each row, on each meta-test episode
        self.by_shots = folder / "by_shots.json"  # where `eval --shots` was given several
        self.events = folder / "events"  # of TensorBoard, where they were wanted
        self.plots = folder / "plots"
        self.sheet = self.plots / "data.png"
        self.overlays = self.plots / "overlays.png"  # of masks
        self.episodes = self.plots / "episodes.png"  # of classes
        self.checkpoints = folder / "checkpoints"
        self.weights = folder / "init.npz"  # where --init-from gave any
        self.compression = folder / "compression.json"  # of `medmeta compress`

    def log(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the metrics past a step, which a resumed run will write again."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break  # the line that was being written when the run was killed
            if record["step"] <= step:
                kept.append(line + "\n")
        write_whole(self.metrics, "".join(kept))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; not-a-number is refused, since JSON has none."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of numbers [n] by their names, whole, to all their digits."""
    lines = [list(columns), *zip(*columns.values(), strict=True)]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    write_whole(path, out.getvalue())


def write_config(run: Run, config: dict[str, Any]) -> None:
    """Write config.yaml whole."""
    import yaml

    write_whole(run.config, yaml.safe_dump(config, sort_keys=False))


def portable(name: str) -> str:
    """A name that every file system takes, and every shell without quotes.

    >>> portable("maml-tfds:colorectal_histology")
    'maml-tfds-colorectal_histology'
    """
    return re.sub("[^A-Za-z0-9._-]+", "-", name).strip("-.")


def create(name: str, config: dict[str, Any]) -> Run:
    """A new run directory under `MEDMETA_RUNS` (default ./runs), never an existing one; its name is
    the time and `portable(name)`."""
    root = Path(os.environ.get("MEDMETA_RUNS") or "runs")
    name = portable(name)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):
        folder = root / (f"{stamp}-{name}" + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.is_dir():
                continue
            raise RunError(f"{root}: is a file; set MEDMETA_RUNS to a folder") from None
        except OSError as error:
            raise RunError(
                f"{root}: a run cannot be written there ({error.strerror}); "
                "set MEDMETA_RUNS to a folder that can"
            ) from None
        run = Run(folder)
        try:
            write_config(run, config)
            write_json(run.environment, environment())
        except OSError as error:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            raise RunError(f"{folder}: cannot be written ({error.strerror})") from None
        return run
    raise RunError(f"{root}: holds 100 runs of this second; try again")


def existing(folder: str, field: str = "") -> Run:
    """A run directory that is there already (RunError where it is none, with the field of the
    configuration that named it)."""
    run = Run(Path(folder))
    told = f"{field}: {folder}" if field else folder
    if not run.folder.is_dir():
        raise RunError(f"{told}: no such run; give the directory that `medmeta train` named")
    if not run.config.exists():
        raise RunError(f"{told}: not a run directory (it has no config.yaml)")
    return run


def read_facts(run: Run) -> dict[str, Any]:
    """What a run says of itself (RunError)."""
    try:
        found: dict[str, Any] = json.loads(run.model.read_text(encoding="utf-8"))
    except OSError:
        raise RunError(
            f"{run.model}: missing; runs of this version have it: train again to deploy"
        ) from None
    except ValueError as error:
        raise RunError(f"{run.model}: not JSON ({error}); train again") from None
    return found


def environment() -> dict[str, Any]:
    """What a run was made with: versions, device, command, source state."""
    import jax

    return {
        "command": ["medmeta", *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": git_state(),
    }


def peak_mb() -> float | None:
    """The most memory that this process has held, in MB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / 2**20 if sys.platform == "darwin" else held / 2**10


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def git_state() -> str | None:
    """The source's commit, "+changed" where files differ from it, None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changed" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
