"""What `adapt` and `predict` do: a few labelled images in, a task; images in, a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax import config as configs, console, runs
from medmeta_jax.data import sources
from medmeta_jax.data.folder import IMAGE_SUFFIXES
from medmeta_jax.data.reading import read_units
from medmeta_jax.data.samples import DataError, fit_image, read_image, to_channels
from medmeta_jax.deploy import model as models, task_file
from medmeta_jax.deploy.predictor import Predictor, Told
from medmeta_jax.options import Adapt, Predict
from medmeta_jax.settings import ConfigError
from medmeta_jax.verbs import enable_compilation_cache

FAR = 2.0  # times the usual distance, from where an image is unlike the support


def adapt(given: Adapt) -> dict[str, Any]:
    """Adapt a run to labelled images, and write the task."""
    if given.support is None or given.out is None:
        raise ConfigError("adapt: is told as in: medmeta adapt RUN --support DIR --out TASK")
    enable_compilation_cache()
    run = runs.existing(given.run)
    size = configs.load(None, str(run.config)).image_size
    samples = sources.load(given.support, image_size=size)
    if samples.labels.ndim != 1:
        raise DataError(f"{given.support}: one class an image is needed (class folders)")
    ways = len(samples.class_names)
    if ways < 2:
        raise DataError(f"{given.support}: has {ways} class; two or more are told apart")
    model = models.load(run, ways)
    images = to_channels(np.asarray(samples.images), len(model.scaling.shift))
    task = Predictor(model).adapt(images, samples.labels, samples.class_names)
    counts = dict(zip(samples.class_names, np.bincount(samples.labels, minlength=ways).tolist(),
                      strict=True))  # fmt: skip
    warnings = cautions(model, counts)
    about = {
        "run": str(run.folder.absolute()), "algorithm": model.config.algorithm,
        "counts": counts, "warnings": warnings, "versions": runs.versions(),
    }  # fmt: skip
    try:
        task_file.save(Path(given.out), task, about)
    except OSError as error:
        raise ConfigError(f"out: {given.out} cannot be written ({error.strerror})") from None
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    console.say(f"adapted    {model.config.algorithm} to {shown}")
    for line in warnings:
        console.say(f"caution    {line}")
    console.say(f"task       {given.out}")
    return {"task": given.out, "classes": counts, "warnings": warnings}


def cautions(model: models.Model, counts: dict[str, int]) -> list[str]:
    """Where the support is not what the run's promises were made for."""

    def lowest(value: Any) -> int:
        return int(value[0] if isinstance(value, (list, tuple)) else value)

    ways, shots = lowest(model.tasks["ways"]), lowest(model.tasks["shots"])
    each, found = list(counts.values()), []
    if model.calibration is None:
        found.append("the run has no calibration: probabilities are as they come, a set is all")
    elif len(counts) != ways or min(each) != max(each) or min(each) < shots:
        found.append(
            f"probabilities and sets were calibrated on tasks of {ways} classes with {shots} "
            "images of each; for this support nothing is promised"
        )
    few = [name for name, count in counts.items() if count < shots]
    if few:
        found.append(f"{few[0]} has {counts[few[0]]} images, fewer than the run trained with")
    if model.config.norm == "batch":
        found.append(
            "norm 'batch' takes statistics from the images that are told, 16 at once: in other "
            "company an image is told otherwise; train with --norm support to deploy"
        )
    return found


def predict(given: Predict) -> dict[str, Any]:
    """Tell images by a task, and write the table."""
    if given.images is None or given.out is None:
        raise ConfigError("predict: is told as in: medmeta predict TASK --images DIR --out T.csv")
    enable_compilation_cache()
    path = Path(given.task)
    arrays, about = task_file.read(path)
    run = runs.existing(about["run"])
    model = models.load(run, len(about["classes"]))
    task = task_file.task_of(model, arrays, about, path)
    names, images = unlabelled(given.images, model.config.image_size, len(model.scaling.shift))
    told = Predictor(model).predict(task, images)
    try:
        runs.write_whole(Path(given.out), as_csv(names, task.class_names, told))
    except OSError as error:
        raise ConfigError(f"out: {given.out} cannot be written ({error.strerror})") from None
    unsure, far = int((told.sets.sum(1) != 1).sum()), int((told.distance > FAR).sum())
    console.say(f"told       {len(names)} images, {unsure} of them not for certain")
    if far:
        console.say(f"caution    {far} images are unlike the support (distance above {FAR:g})")
    for line in about["warnings"]:
        console.say(f"caution    {line}")
    console.say(f"table      {given.out}")
    return {"predictions": given.out, "images": len(names), "uncertain": unsure, "unlike": far}


def unlabelled(source: str, size: int, channels: int) -> tuple[list[str], np.ndarray]:
    """The images of a file, a folder or any data set, by name (DataError); labels are not read."""
    path = Path(source)
    files = [path] if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES else []
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if files:
        root = path if path.is_dir() else path.parent
        found = [(file.relative_to(root).as_posix(), read_image(file)) for file in files]
    else:
        reads = read_units(sources.catalogue(source))
        found = [(record.name, record.image) for read in reads for record in read.records]
    if not found:
        raise DataError(f"{source}: holds no images")
    names = [name for name, _ in found]
    images = [to_channels(fit_image(image, size), channels) for _, image in found]
    return names, np.stack(images)


def as_csv(names: list[str], classes: tuple[str, ...], told: Told) -> str:
    """One line an image."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "class", "probability", "set", "certain", "distance",
                     *(f"p({name})" for name in classes)])  # fmt: skip
    rows = zip(names, told.probabilities, told.sets, told.distance, strict=True)
    for name, p, within, distance in rows:
        best = int(p.argmax())
        kept = [one for one, there in zip(classes, within, strict=True) if there]
        writer.writerow([name, classes[best], f"{p[best]:.4f}", "|".join(kept),
                         "yes" if len(kept) == 1 else "no", f"{distance:.2f}",
                         *(f"{value:.4f}" for value in p)])  # fmt: skip
    return out.getvalue()
