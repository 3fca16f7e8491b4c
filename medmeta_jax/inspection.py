"""What the verbs that only look do: `data list`, `data inspect`, `doctor`."""

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
from medmeta_jax.data import anatomy, sources
from medmeta_jax.data.anatomy import cache_folder
from medmeta_jax.data.samples import Samples, shows


def data_list() -> dict[str, Any]:
    """The data sources there are, by name, with the first line of their documentation."""
    about = {name: (made.__doc__ or "").split("\n")[0] for name, made in sources.sources().items()}
    for name, line in about.items():
        console.say(f"{name:10s} {line}")
    return {"sources": about}


def data_inspect(source: str, image_size: int) -> dict[str, Any]:
    """Count what a data set holds: samples, classes, groups, domains, intensities."""
    samples: Samples = sources.load(source, image_size=image_size)
    counts = {name: int(shows(samples, name).sum()) for name in samples.class_names}
    unique = len({image.tobytes() for image in samples.images})
    found = {
        "samples": len(samples.images),
        "classes": counts,
        "groups": None if samples.groups is None else len(set(samples.groups.tolist())),
        "domains": None if samples.domains is None else sorted(set(samples.domains.tolist())),
        "channels": int(samples.images.shape[-1]),
        "intensity": {"mean": float(samples.images.mean()), "std": float(samples.images.std())},
        "exact_duplicates": len(samples.images) - unique,
        "about": samples.about,
    }
    console.say(f"{samples.about}: {found['samples']} images, {found['channels']} channels")
    console.say(f"groups {found['groups']}, exact duplicates {found['exact_duplicates']}")
    for name, count in counts.items():
        console.say(f"  {count:6d}  {name}")
    return found


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
