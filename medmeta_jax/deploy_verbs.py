"""What `adapt`, `predict` and `export` do: a few labelled images in, a task; images in, a table; a
task or a run in, one file that runs elsewhere."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax import config as configs, console, runs
from medmeta_jax.data import sources
from medmeta_jax.data.folder import IMAGE_SUFFIXES
from medmeta_jax.data.reading import read_units
from medmeta_jax.data.samples import DataError, fit_image, read_image, to_channels
from medmeta_jax.deploy import artefact as artefacts, export as exports, model as models, task_file
from medmeta_jax.deploy.artefact import as_csv
from medmeta_jax.deploy.predictor import Predictor, Task
from medmeta_jax.options import Adapt, Export, Predict
from medmeta_jax.settings import ConfigError
from medmeta_jax.verbs import enable_compilation_cache

READER = "medmeta_artefact.py"
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
    task = Predictor(model).adapt(images, samples.labels)
    counts = dict(zip(samples.class_names, np.bincount(samples.labels, minlength=ways).tolist(),
                      strict=True))  # fmt: skip
    warnings = cautions(model, counts)
    about = {
        "run": str(run.folder.absolute()), "algorithm": model.config.algorithm,
        "classes": list(samples.class_names), "counts": counts, "warnings": warnings,
        "versions": runs.versions(),
    }  # fmt: skip
    with writing(given.out):
        task_file.save(Path(given.out), task, about)
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    console.say(f"adapted    {model.config.algorithm} to {shown}")
    for line in warnings:
        console.say(f"caution    {line}")
    console.say(f"task       {given.out}")
    return {"task": given.out, "classes": counts, "warnings": warnings}


def cautions(model: models.Model, counts: dict[str, int]) -> list[str]:
    """Where the support is not what the run's promises were made for."""
    ways, shots = (models.lowest(model.tasks[name]) for name in ("ways", "shots"))
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
    model, task, about = of_task(Path(given.task))
    classes = tuple(about["classes"])
    names, images = unlabelled(given.images, model.config.image_size, len(model.scaling.shift))
    told = Predictor(model).predict(task, images, len(classes))
    with writing(given.out):
        runs.write_whole(Path(given.out), as_csv(names, classes, told))
    unsure, far = int((told.sets.sum(1) != 1).sum()), int((told.distance > FAR).sum())
    console.say(f"told       {len(names)} images, {unsure} of them not for certain")
    if far:
        console.say(f"caution    {far} images are unlike the support (distance above {FAR:g})")
    for line in about["warnings"]:
        console.say(f"caution    {line}")
    console.say(f"table      {given.out}")
    return {"predictions": given.out, "images": len(names), "uncertain": unsure, "unlike": far}


def of_task(path: Path) -> tuple[models.Model, Task, dict[str, Any]]:
    """A task in a file with its run's model, and what the file says of it."""
    arrays, about = task_file.read(path)
    model = models.load(runs.existing(about["run"]), len(about["classes"]))
    return model, task_file.task_of(model, arrays, about, path), about


@contextlib.contextmanager
def writing(out: str) -> Iterator[None]:
    """What cannot be written is told by name."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"out: {out} cannot be written ({error.strerror})") from None


def export(given: Export) -> dict[str, Any]:
    """Write a task, or a run that adapts, as one file that jax and numpy alone can run."""
    if given.out is None:
        raise ConfigError("export: is told as in: medmeta export TASK --out FILE")
    path, task = Path(given.what), None
    if path.is_file():
        if given.support is not None:
            raise ConfigError("support: is of a run; a task is adapted already")
        model, task, about = of_task(path)
        most = about["support"]
        about = {name: about[name] for name in ("algorithm", "classes", "counts", "warnings")}
    else:
        if given.support is not None and given.support < 1:
            raise ConfigError(f"support: must be >= 1, got {given.support}")
        model = models.load(runs.existing(given.what), 0)
        about = {"algorithm": model.config.algorithm}
        most = given.support or 2 * model.outputs * models.highest(model.tasks["shots"])
    calibration = None if model.calibration is None else model.calibration._asdict()
    if calibration is not None and not np.isfinite(calibration["quantile"]):
        calibration["quantile"] = None  # JSON has no infinity: the sets hold all
    about |= {"calibration": calibration, "versions": runs.versions()}
    whole = exports.artefact(model, task, about, kind=given.weights, support=artefacts.slots(most))
    beside = Path(given.out).parent / READER
    with writing(given.out):
        runs.write_whole(Path(given.out), whole)
        shutil.copyfile(str(artefacts.__file__), beside)
    console.say(f"artefact   {given.out}, {len(whole) / 1e6:.2f} MB, weights {given.weights}")
    console.say(f"reader     {beside}, which needs jax, numpy and flatbuffers alone")
    for line in about.get("warnings", []):
        console.say(f"caution    {line}")
    return {
        "artefact": given.out, "reader": str(beside), "bytes": len(whole),
        "platforms": list(exports.PLATFORMS), "weights": given.weights,
    }  # fmt: skip


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
