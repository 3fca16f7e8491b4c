"""`medmeta doctor`: whether all that a run needs is there, and what to do where it is not."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from packaging.requirements import Requirement

from medmeta_jax import runs
from medmeta_jax.data import anatomy
from medmeta_jax.data.anatomy import cache_folder

ROOM_GIB = 1.0  # that a run's checkpoints and the caches should find
NVIDIA = Path("/proc/driver/nvidia/version")  # the driver's, where there is a card to be driven


class ProblemError(Exception):
    """What is wrong, and after a semicolon what to do."""


def doctor() -> dict[str, Any]:
    """Check what a run needs: versions, devices, built-in data, folders to write to, room."""
    root = Path(os.environ.get("MEDMETA_RUNS") or "runs")
    checks: dict[str, Callable[[], str]] = {
        "versions": lambda: versions_in_bounds(metadata.requires("medmeta_jax") or ()),
        "devices": devices,
        "t1 2009a": lambda: str(anatomy.package_file(*anatomy.TRAIN_TEMPLATE)),
        "t1 2009c": lambda: str(anatomy.package_file(*anatomy.TEST_TEMPLATE)),
        "cache": lambda: writable(cache_folder(), "MEDMETA_DATA"),
        "runs": lambda: writable(root, "MEDMETA_RUNS"),
        "disk": lambda: room([root, cache_folder()]),
    }
    found: dict[str, Any] = {"checks": {name: attempt(check) for name, check in checks.items()}}
    found |= {
        "python": sys.version.split()[0],
        "versions": runs.versions(),
        "ok": all(line.startswith("ok") for line in found["checks"].values()),
    }
    lines = [f"{name:10s} {line}" for name, line in found["checks"].items()]
    lines += [f"  {name} {version}" for name, version in found["versions"].items()]
    return {**found, "table": "\n".join(lines)}


def attempt(check: Callable[[], str]) -> str:
    """One check as "ok: ..." or "problem: ...".

    >>> attempt(lambda: str(1 / 0))
    'problem: division by zero'
    """
    try:
        return f"ok: {check()}"
    except Exception as error:  # a doctor reports whatever it meets
        return f"problem: {error}"


def versions_in_bounds(wanted: Sequence[str]) -> str:
    """Whether what a package asks for is installed, extras aside (ProblemError).

    wanted: as a package's metadata names them.
    """
    needed = [Requirement(line) for line in wanted]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong, remedies = [], []
    for one in needed:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            version = "not"
        if version == "not" or not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version} installed, {one.specifier or 'any'} wanted")
            remedies.append(f'"{one.name}{one.specifier}"')
    if wrong:
        raise ProblemError(f"{', '.join(wrong)}; pip install {' '.join(remedies)}")
    return f"{len(needed)} packages within their bounds"


def devices() -> str:
    """The devices, of which the first computes what it should (ProblemError)."""
    try:
        there = jax.devices()
    except RuntimeError as error:
        asked = os.environ.get("JAX_PLATFORMS")
        remedy = "unset JAX_PLATFORMS" if asked else 'pip install "medmeta_jax[cuda]" for a GPU'
        raise ProblemError(f"{str(error).splitlines()[0]}; {remedy}") from None
    if NVIDIA.exists() and there[0].platform == "cpu" and not os.environ.get("JAX_PLATFORMS"):
        raise ProblemError(
            'there is an NVIDIA GPU, and JAX computes on the CPU; pip install "medmeta_jax[cuda]"'
        )
    a = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    off = float(np.abs(np.asarray(jax.jit(jnp.matmul)(a, a)) - a @ a).max())
    if not off < 0.5:  # TF32 is off by 0.02; a broken installation by anything
        raise ProblemError(
            f"a matrix product on {there[0]} is off by {off:.2g}; reinstall jaxlib for this "
            "machine, or set JAX_PLATFORMS=cpu"
        )
    return ", ".join(f"{device} ({device.device_kind})" for device in there)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def writable(folder: Path, variable: str) -> str:
    """The folder, if it or the nearest one above it can be written to (ProblemError)."""
    try:
        with tempfile.TemporaryFile(dir=nearest(folder)):
            return str(folder)
    except OSError as error:
        raise ProblemError(
            f"{folder} cannot be written to ({error.strerror}); set {variable} to a folder that can"
        ) from None


def room(folders: Sequence[Path]) -> str:
    """The least that is free where these folders are or will be (ProblemError)."""
    free = {folder: shutil.disk_usage(nearest(folder)).free / 2**30 for folder in folders}
    folder = min(free, key=lambda one: free[one])
    if free[folder] < ROOM_GIB:
        raise ProblemError(
            f"{free[folder]:.2f} GiB free at {folder}, and {ROOM_GIB:g} may be needed; free some, "
            f"for example by deleting {cache_folder() / 'compiled'}, which fills again"
        )
    return f"{free[folder]:.1f} GiB free at {folder}"
