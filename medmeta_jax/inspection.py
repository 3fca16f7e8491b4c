"""What the verbs that only look do: `data list`, `data inspect`, `doctor`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from medmeta_jax import console, runs
from medmeta_jax.config import ConfigError
from medmeta_jax.data import anatomy, pictures, sources, survey
from medmeta_jax.data.anatomy import cache_folder
from medmeta_jax.data.samples import DataError, Skipped


def data_list() -> dict[str, Any]:
    """The data sources there are, by name, with the first line of their documentation."""
    about = {name: (made.__doc__ or "").split("\n")[0] for name, made in sources.sources().items()}
    for name, line in about.items():
        console.say(f"{name:10s} {line}")
    return {"sources": about}


def data_inspect(source: str, out: str | None) -> dict[str, Any]:
    """Look at every file of a data set: counts, sizes, intensities, copies, what is unreadable;
    with a folder to write to, a contact sheet and a histogram too."""
    if out is not None and not importlib.util.find_spec("matplotlib"):
        raise ConfigError("out: pictures need matplotlib: pip install 'medmeta_jax[notebooks]'")
    listed = sources.catalogue(source)
    sheet = pictures.ContactSheet()
    looks: list[survey.Look] = []
    unreadable: list[Skipped] = []
    with console.bar("reading", len(listed.units)) as advance:
        for seen in survey.go_through(listed, unreadable):
            looks.append(seen.look)
            if out is not None:
                sheet.add(seen.look, seen.image)
            advance(seen.place, "")
    if not looks:
        first = f"; the first: {unreadable[0].reason}" if unreadable else ""
        raise DataError(f"{source}: none of its {len(listed.units)} files can be read{first}")
    found = survey.facts(survey.Survey(listed.about, looks, unreadable))
    if out is not None:
        found["pictures"] = save_pictures(Path(out), sheet, looks)
    for line in survey.lines(found):
        console.say(line)
    return found


def save_pictures(
    folder: Path, sheet: pictures.ContactSheet, looks: list[survey.Look]
) -> list[str]:
    """Write both pictures; their paths."""
    files = [folder / "contact_sheet.png", folder / "histogram.png"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sheet.save(files[0])
        pictures.save_histogram(looks, files[1])
    except OSError as error:
        raise ConfigError(f"out: {folder} cannot be written ({error.strerror})") from None
    return [str(file) for file in files]


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
