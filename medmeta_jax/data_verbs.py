"""What the verbs about data do: `data list`, `data inspect`, `data prepare`, `data split`. Each
returns its `--json` object."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from medmeta_jax import console
from medmeta_jax.data import covariates, pictures, sources, split_file, survey
from medmeta_jax.data.samples import DataError, Skipped, of_each_class
from medmeta_jax.data.splits import SIDES
from medmeta_jax.options import DataInspect, DataPrepare, DataSplit
from medmeta_jax.settings import ConfigError


def data_list() -> dict[str, Any]:
    """The data sources there are, by name, with the first line of their documentation."""
    about = {name: (made.__doc__ or "").split("\n")[0] for name, made in sources.sources().items()}
    table = "\n".join(f"{name:10s} {line}" for name, line in about.items())
    return {"sources": about, "table": table}


def data_inspect(given: DataInspect) -> dict[str, Any]:
    """Look at every file of a data set: counts, sizes, intensities, copies, what is unreadable;
    with a folder to write to, a contact sheet and a histogram too; with a table of covariates, how
    it fits."""
    source, out = given.source, given.out
    listed = sources.catalogue(source)
    if given.covariates is not None:
        covariates.read(Path(given.covariates))  # a damaged table is refused before the long look
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
    told = survey.lines(found)
    if given.covariates is not None:
        found["covariates"] = covariates_of(looks, source, Path(given.covariates))
        told += covariates.lines(found["covariates"])
    return {**found, "table": "\n".join(told)}


def covariates_of(looks: list[survey.Look], source: str, path: Path) -> dict[str, Any]:
    """How a table fits the groups of a data set (DataError)."""
    groups = {look.group for look in looks if look.group is not None}
    if not groups:
        raise DataError(f"{source}: names no groups (patients), by which {path} could be joined")
    hashes = sources.find(source) == "dicom"
    return covariates.facts(covariates.read(path, hashes=hashes), groups)


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


def data_prepare(given: DataPrepare, options: dict[str, Any]) -> dict[str, Any]:
    """Read a source once into a folder; its manifest, with the folder and how long it took."""
    if given.out is None:
        raise ConfigError("out: say which folder to make, as in: data prepare SOURCE --out FOLDER")
    if given.image_size < 0:
        raise ConfigError(f"image_size: must be >= 0, got {given.image_size}")
    if not 0 <= given.skip_at_most <= 1:
        raise ConfigError(f"skip_at_most: must lie in 0 to 1, got {given.skip_at_most}")
    from medmeta_jax.data.prepare import prepare  # it brings tensorflow-datasets

    began, out = time.perf_counter(), Path(given.out)
    before = out.exists()
    with console.bar("reading", 1) as advance:
        found = prepare(
            given.source, out, image_size=given.image_size, on_error=given.on_error,
            skip_at_most=given.skip_at_most, options=options,
            advance=lambda done, total: advance(done, "", total),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    size = sum(one["bytes"] for one in found["files"].values())
    console.say(
        f"{found['about']}: {found['samples']} images of {len(found['class_names'])} classes, "
        f"{size / 2**20:.1f} MB in {out}"
    )
    for one in found["skipped"]:
        console.say(f"left out    {one['reason']}")
    console.say(
        "it was there already, made in the same way" if before else
        f"in {seconds:.1f} s; train on it with: medmeta train --data {out}"
    )  # fmt: skip
    return {**found, "out": str(out), "seconds": None if before else round(seconds, 2)}


COPIES_AT = 32  # pixels a side at which images are compared


def data_split(given: DataSplit) -> dict[str, Any]:
    """Deal a data set out and write the file; what each side holds, and the file's digest."""
    if given.out is None:
        raise ConfigError("out: say which file to write, as in: data split SOURCE --out split.csv")
    samples = sources.load(given.source, image_size=COPIES_AT, on_error=given.on_error)
    dealt = split_file.deal(
        samples, given.by, val=given.val, test=given.test, fold=given.fold, seed=given.seed
    )
    split_file.write(Path(given.out), samples, dealt)
    shown = of_each_class(samples)
    sides: dict[str, Any] = {}
    for side in (*SIDES, ""):
        there = dealt.sides == side
        counts = dict(zip(samples.class_names, shown[there].sum(0).tolist(), strict=True))
        groups = None if samples.groups is None else len(set(samples.groups[there].tolist()))
        sides[side or "none"] = {"images": int(there.sum()), "groups": groups, "classes": counts}
    for side, facts in sides.items():
        of_groups = "" if facts["groups"] is None else f" of {facts['groups']} groups"
        classes = ", ".join(f"{name} {n}" for name, n in facts["classes"].items() if n)
        console.say(f"{side:6s}{facts['images']} images{of_groups}: {classes or 'no class'}")
    for one in samples.skipped:
        console.say(f"left out    {one.reason}")
    console.say(
        f"{given.out}, {dealt.digest}; train with: "
        f"medmeta train --data {given.source} --split {given.out}"
    )
    skipped = [one._asdict() for one in samples.skipped]
    return {"out": given.out, "digest": dealt.digest, "sides": sides, "skipped": skipped}
