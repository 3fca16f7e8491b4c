"""What `adapt`, `predict` and `export` do: a few labelled images in, a task; images in, a table or
masks; a task or a run in, one file that runs elsewhere."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax import config as configs, console, overlays, runs
from medmeta_jax.data import sources
from medmeta_jax.data.folder import IMAGE_SUFFIXES
from medmeta_jax.data.reading import read_units
from medmeta_jax.data.samples import DataError, Samples, read_image, require_one_rank, to_channels
from medmeta_jax.data.structures import ANY, structures
from medmeta_jax.deploy import (
    artefact as artefacts,
    export as exports,
    marking,
    model as models,
    task_file,
)
from medmeta_jax.deploy.artefact import as_csv
from medmeta_jax.deploy.predictor import Predictor, Task
from medmeta_jax.labels import MASKS
from medmeta_jax.options import Adapt, Export, Predict
from medmeta_jax.settings import ConfigError
from medmeta_jax.verbs import enable_compilation_cache

READER = "medmeta_artefact.py"
FAR = 2.0  # times the usual distance, from where an image is unlike the support


class Support(NamedTuple):
    """images [n, *spatial, C] uint8; labels [n] int32, or masks [n, *spatial] of what is to be
    marked; counts: how many images, of each class or of the structure."""

    images: np.ndarray
    labels: np.ndarray
    counts: dict[str, int]


def adapt(given: Adapt, read: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Adapt a run to labelled images, read as told, and write the task."""
    if given.support is None or given.out is None:
        raise ConfigError("adapt: is told as in: medmeta adapt RUN --support DIR --out TASK")
    enable_compilation_cache()
    run = runs.existing(given.run)
    of_masks = models.kind_of_run(run, runs.read_facts(run)) is MASKS
    size = configs.load(None, str(run.config)).image_size
    samples = sources.load(given.support, image_size=size, masks=of_masks, read=read)
    if of_masks:
        support = with_structure(samples, given.structure or ANY, given.support)
    elif given.structure is not None:
        raise ConfigError("structure: is of masks, and the run learned classes; leave it out")
    else:
        support = with_classes(samples, given.support)
    model = models.load(run, 0 if of_masks else len(support.counts))
    marking.check_pictures(model, support.images.ndim - 2, given.support)
    images = to_channels(support.images, len(model.scaling.shift))
    task = Predictor(model).adapt(images, support.labels)
    warnings = cautions(model, support.counts)
    about = {
        "run": str(run.folder.absolute()), "algorithm": model.config.algorithm,
        "labels": model.kind.name, "classes": list(support.counts), "counts": support.counts,
        "warnings": warnings, "source": sources.find(given.support), "read": dict(read),
        "versions": runs.versions(),
    }  # fmt: skip
    with writing(given.out):
        task_file.save(Path(given.out), task, about)
    shown = ", ".join(f"{name} {count}" for name, count in support.counts.items())
    console.say(f"adapted    {model.config.algorithm} to {shown}")
    for line in warnings:
        console.say(f"caution    {line}")
    console.say(f"task       {given.out}")
    return {"task": given.out, "classes": support.counts, "warnings": warnings}


def with_classes(samples: Samples, where: str) -> Support:
    """Images of one class each (DataError)."""
    if samples.labels.ndim != 1:
        raise DataError(f"{where}: one class an image is needed (class folders)")
    ways = len(samples.class_names)
    if ways < 2:
        raise DataError(f"{where}: has {ways} class; two or more are told apart")
    counts = np.bincount(samples.labels, minlength=ways).tolist()
    named = dict(zip(samples.class_names, counts, strict=True))
    return Support(np.asarray(samples.images), samples.labels, named)


def with_structure(samples: Samples, name: str, where: str) -> Support:
    """Images that show a structure of their masks, as in training (DataError)."""
    found = structures(samples)
    assert found.masks is not None
    assert found.marks is not None
    names = found.class_names
    if len(names) == 1 and name in (ANY, str(np.max(found.masks))):
        name = names[0]  # the only one, by either name
    if name not in names:
        raise DataError(
            f"{where}: no image shows a structure {name!r}; there are {', '.join(names)}"
        )
    column = names.index(name)
    showing = np.asarray(found.labels)[:, column]
    masks, value = np.asarray(found.masks)[showing], found.marks[column]
    marked = (masks == value) if value else (masks > 0)
    left = int((~showing).sum())
    if left:
        console.say(f"left out   {left} images that do not show it")
    images = np.asarray(found.images)[showing]
    return Support(images, marked.astype(np.int32), {name: int(showing.sum())})


def cautions(model: models.Model, counts: dict[str, int]) -> list[str]:
    """Where the support is not what the run's promises were made for."""
    ways, shots = (models.lowest(model.tasks[name]) for name in ("ways", "shots"))
    each, found = list(counts.values()), []
    if model.kind is not MASKS:  # of which nothing is promised: no calibration is of pixels
        found += unpromised(model, each, ways, shots)
    few = [name for name, count in counts.items() if count < shots]
    if few:
        found.append(f"{few[0]} has {counts[few[0]]} images, fewer than the run trained with")
    if model.config.norm == "batch":
        found.append(
            "norm 'batch' takes statistics from the images that are told, 16 at once: in other "
            "company an image is told otherwise; train with --norm support to deploy"
        )
    return found


def unpromised(model: models.Model, each: list[int], ways: int, shots: int) -> list[str]:
    """Why a calibration on tasks of so many ways and shots does not hold for a support with so many
    images of each class; nothing where it does."""
    if model.calibration is None:
        return ["the run has no calibration: probabilities are as they come, a set is all"]
    if len(each) == ways and min(each) == max(each) and min(each) >= shots:
        return []
    return [
        f"probabilities and sets were calibrated on tasks of {ways} classes with {shots} images of "
        "each; for this support nothing is promised"
    ]


def predict(given: Predict) -> dict[str, Any]:
    """Tell images by a task, and write the table, or the masks and their table."""
    if given.images is None or given.out is None:
        raise ConfigError("predict: is told as in: medmeta predict TASK --images DIR --out T.csv")
    enable_compilation_cache()
    model, task, about = of_task(Path(given.task))
    if model.kind is MASKS:
        found = mark(Predictor(model), task, about, given.images, Path(given.out))
    else:
        found = tell(Predictor(model), task, about, given.images, Path(given.out))
    if found["unlike"]:
        what = f"{found['unlike']} images are unlike the support (distance above {FAR:g})"
        console.say(f"caution    {what}")
    for line in about["warnings"]:
        console.say(f"caution    {line}")
    console.say(f"table      {found['predictions']}")
    return found


def tell(
    predictor: Predictor, task: Task, about: Mapping[str, Any], images: str, out: Path
) -> dict[str, Any]:
    """Write a table of images' classes."""
    classes = tuple(about["classes"])
    names, given = unlabelled(images, about)
    marking.check_pictures(predictor.model, given[0].ndim - 1, images)
    told = predictor.predict(task, marking.fitting(predictor.model, given), len(classes))
    with writing(str(out)):
        runs.write_whole(out, as_csv(names, classes, told))
    unsure, far = int((told.sets.sum(1) != 1).sum()), int((told.distance > FAR).sum())
    console.say(f"told       {len(names)} images, {unsure} of them not for certain")
    return {"predictions": str(out), "images": len(names), "uncertain": unsure, "unlike": far}


def mark(
    predictor: Predictor, task: Task, about: Mapping[str, Any], images: str, out: Path
) -> dict[str, Any]:
    """Write a mask of each image into a folder, a table of them, and some to look at."""
    made: Iterator[marking.Mask]
    volumes = marking.volumes_of(images)
    read = about["read"] if about["source"] == "nifti" else {}
    if volumes:
        marking.check_pictures(predictor.model, 2, images)  # a volume is told slice by slice
        made = (marking.volume(predictor, task, path, name, read) for path, name in volumes)
    else:
        names, given = unlabelled(images, about)
        marking.check_pictures(predictor.model, given[0].ndim - 1, images)
        made = marking.pictures(predictor, task, names, given)
    table, looks, found = out / "masks.csv", out / "overlays.png", []
    with writing(str(out)):
        for one in made:
            (out / one.file).parent.mkdir(parents=True, exist_ok=True)
            runs.write_whole(out / one.file, one.content)
            found.append(one._replace(content=b""))  # which may be large
        overlays.save(marking.to_look_at(found), looks)
        runs.write_whole(table, marking.as_table(found))
    empty, far = sum(one.marked == 0 for one in found), sum(one.distance > FAR for one in found)
    console.say(f"marked     {', '.join(about['classes'])} in {len(found)} images, none in {empty}")
    console.say(f"overlays   {looks}")
    return {
        "predictions": str(table), "images": len(found), "empty": empty, "unlike": far,
        "overlays": str(looks),
    }  # fmt: skip


def of_task(path: Path) -> tuple[models.Model, Task, dict[str, Any]]:
    """A task in a file with its run's model, and what the file says of it."""
    arrays, about = task_file.read(path)
    model = models.load(runs.existing(about["run"]), ways_of(about))
    return model, task_file.task_of(model, arrays, about, path), about


def ways_of(about: Mapping[str, Any]) -> int:
    """The ways that a task's model is to be loaded for."""
    return 0 if about["labels"] == MASKS.name else len(about["classes"])


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
    path, task, run, ways = Path(given.what), None, given.what, 0
    if path.is_file():
        if given.support is not None:
            raise ConfigError("support: is of a run; a task is adapted already")
        model, task, about = of_task(path)
        most, run, ways = about["support"], about["run"], ways_of(about)
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
    telling = None
    if given.activations == "int8":
        telling = models.load(runs.existing(run), ways, form="int8")
    whole = exports.artefact(
        model, task, about, kind=given.weights, telling=telling, support=artefacts.slots(most)
    )
    beside = Path(given.out).parent / READER
    with writing(given.out):
        runs.write_whole(Path(given.out), whole)
        shutil.copyfile(str(artefacts.__file__), beside)
    console.say(
        f"artefact   {given.out}, {len(whole) / 1e6:.2f} MB, weights {given.weights}, activations "
        f"{given.activations}"
    )
    console.say(f"reader     {beside}, which needs jax, numpy and flatbuffers alone")
    for line in about.get("warnings", []):
        console.say(f"caution    {line}")
    return {
        "artefact": given.out, "reader": str(beside), "bytes": len(whole),
        "platforms": list(exports.PLATFORMS), "weights": given.weights,
        "activations": given.activations,
    }  # fmt: skip


def unlabelled(source: str, about: Mapping[str, Any]) -> tuple[list[str], list[np.ndarray]]:
    """The images [*spatial, C] uint8 of a file, a folder or any data set, by name, each of its own
    size (DataError); labels are not read. Of what the support was of, it is read as that was."""
    path = Path(source)
    files = [path] if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES else []
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if files:
        root = path if path.is_dir() else path.parent
        found = [(file.relative_to(root).as_posix(), read_image(file)) for file in files]
    else:
        read = about["read"] if sources.find(source) == about["source"] else {}
        reads = read_units(sources.catalogue(source, **read))
        found = [(record.name, record.image) for one in reads for record in one.records]
    if not found:
        raise DataError(f"{source}: holds no images")
    require_one_rank((name, image.ndim) for name, image in found)
    return [name for name, _ in found], [image for _, image in found]
