"""`medmeta doctor`: whether everything that a run needs is there."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from medmeta_jax import console, runs
from medmeta_jax.data import anatomy
from medmeta_jax.data.anatomy import cache_folder


def doctor() -> dict[str, Any]:
    """Check what a run needs: devices, built-in data, a cache and a runs folder to write to."""
    checks: dict[str, str] = {}
    templates = {"t1 2009a": anatomy.TRAIN_TEMPLATE, "t1 2009c": anatomy.TEST_TEMPLATE}
    for name, template in templates.items():
        checks[name] = attempt(lambda where: str(anatomy.package_file(*where)), template)
    folders = {"cache": cache_folder(), "runs": Path(os.environ.get("MEDMETA_RUNS") or "runs")}
    for name, folder in folders.items():
        checks[name] = attempt(writable, folder)
    checks["disk"] = f"ok: {shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here"
    found: dict[str, Any] = {
        "checks": checks,
        "python": sys.version.split()[0],
        "versions": runs.versions(),
        "devices": [f"{d} ({d.device_kind})" for d in jax.devices()],
        "ok": all(line.startswith("ok") for line in checks.values()),
    }
    for name, line in checks.items():
        console.say(f"{name:10s} {line}")
    console.say(f"{'devices':10s} {', '.join(found['devices'])}")
    for name, version in found["versions"].items():
        console.say(f"  {name} {version}")
    return found


def attempt(check: Callable[[Any], str], subject: Any) -> str:
    """One check as "ok: ..." or "problem: ..."."""
    try:
        return f"ok: {check(subject)}"
    except Exception as error:  # a doctor reports whatever it meets
        return f"problem: {error}"


def writable(folder: Path) -> str:
    """The folder, if it or the nearest one above it that exists can be written to (OSError)."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    with tempfile.TemporaryFile(dir=place):
        return str(folder)
