"""A run put to use: adapted to a folder, told images, by the files alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from medmeta_jax import cli, deploy_verbs, runs
from medmeta_jax.data.samples import DataError
from medmeta_jax.deploy import marking, model as models, task_file
from medmeta_jax.deploy.artefact import packed
from medmeta_jax.deploy.predictor import Predictor
from medmeta_jax.metrics.pooled import softmax
from medmeta_jax.options import Adapt, Predict
from medmeta_jax.runs import RunError
from medmeta_jax.settings import ConfigError
from medmeta_jax.types import Examples

from ..tiny_run import train

NAMES = ("bright", "dark", "striped")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = train(tmp_path_factory.mktemp("deploy"))
    (Path(made).parent.parent / "toy.npz").unlink()  # what is put to use needs no data
    return made


def picture(kind: str, rng: np.random.Generator) -> Image.Image:
    """A picture of 10 x 10 pixels that tells its class to anyone."""
    grey = {"bright": 220, "dark": 30, "striped": 120}[kind]
    pixels = np.clip(grey + rng.integers(-15, 15, (10, 10)), 0, 255)
    if kind == "striped":
        pixels[::2] = 250
    return Image.fromarray(pixels.astype(np.uint8))


def write_folder(where: Path, each: int, names: tuple[str, ...] = NAMES) -> str:
    rng = np.random.default_rng(len(names) + each)
    for name in names:
        (where / name).mkdir(parents=True)
        for i in range(each):
            picture(name, rng).save(where / name / f"{i}.png")
    return str(where)


def as_trained_on(model: models.Model, images: np.ndarray) -> np.ndarray:
    """uint8 images with the scaling of the run's data."""
    return (images.astype(np.float32) / 255.0 - model.scaling.shift) * model.scaling.scale


@pytest.fixture(scope="module")
def task(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("task")
    support = write_folder(where / "support", 2)
    found = deploy_verbs.adapt(Adapt(run, support, str(where / "cells.task")))
    assert found["classes"] == dict.fromkeys(NAMES, 2)
    assert found["warnings"] == []
    return where / "cells.task"


def test_images_are_told_by_files_alone(task: Path, tmp_path: Path) -> None:
    """What the table says is what the learner says, by hand."""
    rng = np.random.default_rng(9)
    for i in range(20):  # more than one batch
        picture(NAMES[i % 3], rng).save(tmp_path / f"{i:02}.png")
    out = tmp_path / "told.csv"
    found = deploy_verbs.predict(Predict(str(task), str(tmp_path), str(out)))
    rows = list(csv.DictReader(out.open()))
    assert found["images"] == len(rows) == 20
    assert [row["image"] for row in rows] == [f"{i:02}.png" for i in range(20)]
    arrays, about = task_file.read(task)
    model = models.load(runs.existing(about["run"]), 3)
    kept = task_file.task_of(model, arrays, about, task)
    _, images = deploy_verbs.unlabelled(str(tmp_path), about)
    x = as_trained_on(model, marking.fitting(model, images))
    logits = np.asarray(model.learner.predict(kept.adapted, x, np.ones(20, bool)))
    assert model.calibration is not None
    expected = softmax(logits, model.calibration.temperature)
    table = np.asarray([[float(row[f"p({name})"]) for name in NAMES] for row in rows])
    np.testing.assert_allclose(table, expected, atol=2e-4)
    assert [row["class"] for row in rows] == [NAMES[i] for i in expected.argmax(1)]
    for row in rows:
        inside = row["set"].split("|") if row["set"] else []
        assert set(inside) <= set(NAMES)
        assert row["certain"] == ("yes" if len(inside) == 1 else "no")
        assert float(row["distance"]) >= 0


def test_adapting_is_what_the_learner_does_whatever_the_padding(run: str) -> None:
    model = models.load(runs.existing(run), 2)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(9) % 2
    predictor = Predictor(model)
    made = predictor.adapt(images, labels)
    x = jax.numpy.asarray(as_trained_on(model, images))
    support = Examples(x, jax.numpy.asarray(labels), np.ones(9, bool))
    plain = model.learner.adapt(model.params, support, jax.random.key(0))
    for ours, theirs in zip(jax.tree.leaves(made.adapted), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    told = predictor.predict(made, images, 2)
    assert told.probabilities.shape == (9, 2)
    np.testing.assert_allclose(told.probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(told.distance, 0, atol=1e-2)  # each is its own nearest


def test_a_second_task_compiles_nothing(run: str) -> None:
    predictor = Predictor(models.load(runs.existing(run), 3))
    rng = np.random.default_rng(0)
    counts = []
    for count in (6, 8, 3):
        images = rng.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
        made = predictor.adapt(images, np.arange(count) % 3)
        predictor.predict(made, images[:2], 3)
        counts.append(predictor.programs())
    assert counts == [2, 2, 2]


def test_what_is_unlike_the_support_is_far(task: Path) -> None:
    arrays, about = task_file.read(task)
    model = models.load(runs.existing(about["run"]), 3)
    kept, predictor = task_file.task_of(model, arrays, about, task), Predictor(model)
    rng = np.random.default_rng(3)
    alike = np.stack([np.asarray(picture("dark", rng).resize((8, 8)))[..., None] for _ in range(8)])
    noise = rng.integers(0, 2, (8, 8, 8, 1)).astype(np.uint8) * 255
    near, far = (predictor.predict(kept, images, 3).distance.mean() for images in (alike, noise))
    assert far > 2 * near


def test_a_support_that_is_not_as_in_training_is_told(run: str, tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", 1)
    found = deploy_verbs.adapt(Adapt(run, one, str(tmp_path / "one.task")))
    assert "nothing is promised" in found["warnings"][0]
    assert "bright has 1 images, fewer than the run trained with" in found["warnings"][1]
    two = write_folder(tmp_path / "two", 2, NAMES[:2])
    found = deploy_verbs.adapt(Adapt(run, two, str(tmp_path / "two.task")))
    assert len(found["warnings"]) == 1


def test_what_cannot_be_adapted_to_is_refused(run: str, tmp_path: Path) -> None:
    many = tmp_path / "many"
    write_folder(many / "parts", 1, ("dark",))
    for i in range(4):
        (many / "classes" / f"c{i}").mkdir(parents=True)
        picture("dark", np.random.default_rng(i)).save(many / "classes" / f"c{i}" / "0.png")
    with pytest.raises(ConfigError, match="trained for 3 ways, and its head has no more; the sup"):
        deploy_verbs.adapt(Adapt(run, str(many / "classes"), str(tmp_path / "x")))
    with pytest.raises(DataError, match="has 1 class; two or more are told apart"):
        deploy_verbs.adapt(Adapt(run, str(many / "parts"), str(tmp_path / "x")))
    with pytest.raises(ConfigError, match="adapt: is told as in"):
        deploy_verbs.adapt(Adapt(run))
    with pytest.raises(ConfigError, match="predict: is told as in"):
        deploy_verbs.predict(Predict("x.task"))
    with pytest.raises(RunError, match=r"no such run"):
        deploy_verbs.adapt(Adapt(str(tmp_path / "gone"), str(many), "x"))
    with pytest.raises(ConfigError, match=r"out: .* cannot be written"):
        deploy_verbs.adapt(Adapt(run, write_folder(tmp_path / "s", 1), str(tmp_path / "no" / "x")))
    assert not list(tmp_path.glob("x*"))


def test_a_run_of_another_kind_or_of_before_is_refused(run: str, tmp_path: Path) -> None:
    made = runs.existing(run)
    found = runs.read_facts(made)
    other = runs.Run(tmp_path)
    with pytest.raises(RunError, match=r"model\.json: missing"):
        models.load(other, 3)
    for change, message in (
        ({"labels": "values"}, "learned values; adapt takes runs of classes, grades, masks"),
        ({"covariates": ["age"]}, "takes more than an image"),
    ):
        other.model.write_text(json.dumps({**found, **change}))
        with pytest.raises(ConfigError, match=message):
            models.load(other, 3)
    other.model.write_text("{")
    with pytest.raises(RunError, match=r"model\.json: not JSON"):
        models.load(other, 3)


def altered(task: Path, where: Path, change: Any) -> Path:
    """The task with something changed, written as it is."""
    with np.load(task) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    with where.open("wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]
    return where


def test_an_altered_or_damaged_task_is_refused(task: Path, tmp_path: Path) -> None:
    def shift(arrays: dict[str, np.ndarray]) -> None:
        arrays["features"] = arrays["features"] + 1

    def rename(arrays: dict[str, np.ndarray]) -> None:
        arrays["about"] = np.frombuffer(
            arrays["about"].tobytes().replace(b"dark", b"bark"), np.uint8
        )

    for number, change in enumerate((shift, rename)):
        path = altered(task, tmp_path / f"{number}.task", change)
        with pytest.raises(DataError, match="its bytes are not those that were written"):
            task_file.read(path)
    whole = task.read_bytes()
    for number, text in enumerate((whole[: len(whole) // 2], b"", b"PK\x03\x04 no archive")):
        (tmp_path / f"half-{number}.task").write_bytes(text)
        with pytest.raises(DataError, match="not of this kind, or damaged"):
            task_file.read(tmp_path / f"half-{number}.task")
    with pytest.raises(DataError, match="no such task"):
        task_file.read(tmp_path / "gone.task")


def test_a_task_of_an_older_version_is_refused(task: Path, tmp_path: Path) -> None:
    """One that does not say what its labels are, nor how its support was read."""
    arrays, about = task_file.read(task)
    old = {name: value for name, value in about.items() if name not in ("labels", "read")}
    (tmp_path / "old.task").write_bytes(packed(arrays, old))
    with pytest.raises(DataError, match=r"of an older version, .*; adapt again"):
        task_file.read(tmp_path / "old.task")


@pytest.mark.slow
def test_a_task_of_another_run_is_refused(task: Path, tmp_path: Path) -> None:
    arrays, about = task_file.read(task)
    other = train(tmp_path, net={"width": 3, "depth": 2})
    model = models.load(runs.existing(other), 3)
    with pytest.raises(DataError, match="is not what its run has; adapt again"):
        task_file.task_of(model, arrays, about, task)


@pytest.mark.slow
def test_a_head_from_the_support_takes_any_number_of_classes(tmp_path: Path) -> None:
    run = train(tmp_path, algorithm="protonet", hyper={})
    for i in range(5):
        folder = tmp_path / "five" / f"c{i}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(folder / "0.png")
    deploy_verbs.adapt(Adapt(run, str(tmp_path / "five"), str(tmp_path / "t")))
    out = tmp_path / "told.csv"
    deploy_verbs.predict(Predict(str(tmp_path / "t"), str(tmp_path / "five"), str(out)))
    rows = list(csv.DictReader(out.open()))
    assert [row["class"] for row in rows] == [f"c{i}" for i in range(5)]


def test_the_command_line_prints_one_object(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support, task = write_folder(tmp_path / "s", 2), str(tmp_path / "t.task")
    cli.main(["adapt", run, "--support", support, "--out", task, "--json"])
    assert json.loads(capsys.readouterr().out)["task"] == task
    cli.main(["predict", task, "--images", support, "--out", str(tmp_path / "t.csv"), "--json"])
    told = capsys.readouterr()
    assert json.loads(told.out)["images"] == 6
    assert "told       6 images" in told.err
