"""One file that runs elsewhere: what it tells is what the model tells, and nothing else is read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from medmeta_jax import cli, deploy_verbs, registry
from medmeta_jax.data.pool import Scaling
from medmeta_jax.deploy import artefact as artefacts, export as exports
from medmeta_jax.deploy.artefact import ArtefactError
from medmeta_jax.deploy.model import Model
from medmeta_jax.deploy.predictor import Predictor
from medmeta_jax.metrics.calibration import Calibration, prediction_sets
from medmeta_jax.options import Export
from medmeta_jax.settings import ConfigError, TrainConfig

from ..conftest import WAYS, tiny_backbone

SUPPORT, OTHERS = 6, 20  # the others are more than a batch
NAMES = ("dark", "grey", "bright")
ABOUT = {"classes": list(NAMES), "versions": {"jax": jax.__version__}}


def model_of(name: str, **hyper: Any) -> Model:
    """A learner as it starts, as if it had been trained, with a calibration."""
    backbone = tiny_backbone("support")
    learner = registry.factory("algorithms", name)(backbone, outputs=WAYS, **hyper)
    params = learner.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    scaling = Scaling(np.asarray([0.4], np.float32), np.asarray([2.0], np.float32))
    return Model(
        TrainConfig(image_size=8, algorithm=name), learner, backbone, params, scaling, 2, WAYS,
        Calibration(1.7, 0.6, 0.9, (6, 6)), {"ways": WAYS, "shots": 2},
    )  # fmt: skip


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images of three greys, and which."""
    labels = np.arange(count) % WAYS
    noise = np.random.default_rng(seed).integers(-40, 40, (count, 8, 8, 1))
    return np.clip(60 + 70 * labels[:, None, None, None] + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(model_of("maml", steps=2))


@pytest.fixture(scope="module")
def written(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact of a task."""
    path = tmp_path_factory.mktemp("export") / "cells.medmeta"
    task = predictor.adapt(*images(SUPPORT))
    path.write_bytes(exports.artefact(predictor.model, task, ABOUT))
    return path


def same(found: artefacts.Told, expected: artefacts.Told) -> None:
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.sets, expected.sets)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-4, atol=1e-3)


def test_a_task_tells_the_same(predictor: Predictor, written: Path) -> None:
    others, _ = images(OTHERS, 1)
    expected = predictor.predict(predictor.adapt(*images(SUPPORT)), others, WAYS)
    artefact = artefacts.read(written)
    same(artefact.predict(others), expected)
    assert artefact.class_names == NAMES
    sizes = expected.sets.sum(1)
    assert sizes.min() < sizes.max()  # there is something to be the same in


def test_sets_and_distances_are_those_by_hand(predictor: Predictor) -> None:
    """Sets by the quantile that was fitted; distances from images of the support alone, where one
    image is what padding is to the network."""
    model, (given, labels) = predictor.model, images(SUPPORT)
    others = np.concatenate([images(OTHERS, 1)[0], np.full((1, 8, 8, 1), 102, np.uint8)])
    task = predictor.adapt(given, labels)
    told = predictor.predict(task, others, WAYS)

    def seen(some: np.ndarray) -> tuple[jax.Array, np.ndarray]:
        x = (some.astype(np.float32) / 255 - 0.4) * 2
        there = np.ones(len(x), bool)
        adapted = task.adapted
        features, _ = model.backbone.apply(adapted.params["body"], x, there, adapted.stats)
        return model.learner.predict(adapted, x, there), np.asarray(features)

    logits, of_others = seen(others)
    of_support = seen(given)[1]
    assert model.calibration is not None
    sets = prediction_sets(model.calibration, np.asarray(logits)[None], np.arange(WAYS)[None])[0]
    np.testing.assert_array_equal(told.sets, sets)
    assert 0 < sets.mean() < 1
    gaps = [np.linalg.norm(of_support - one, axis=-1) for one in of_support]
    usual = np.median([np.delete(gap, i).min() for i, gap in enumerate(gaps)])
    away = np.linalg.norm(of_others[:, None] - of_support[None], axis=-1).min(1) / usual
    np.testing.assert_allclose(told.distance, away, rtol=1e-3)
    assert told.distance[-1] > 0.1


@pytest.mark.parametrize("name", ["anil", "protonet", "r2d2", "protomaml"])
def test_a_run_adapts_and_tells_the_same(name: str) -> None:
    """Heads of several makes, a solve of linear equations among them, on CPU as on CUDA."""
    predictor = Predictor(model_of(name))
    artefact = artefacts.read(io.BytesIO(exports.artefact(predictor.model, None, {}, support=8)))
    assert artefact.about["platforms"] == ["cpu", "cuda"]
    given, labels = images(SUPPORT)
    others, _ = images(OTHERS, 1)
    task = artefact.adapt(given, labels, NAMES)
    same(
        artefact.predict(others, task),
        predictor.predict(predictor.adapt(given, labels), others, WAYS),
    )
    two = labels < 2
    pair = artefact.adapt(given[two], labels[two], NAMES[:2])
    assert artefact.predict(others, pair).probabilities.shape == (OTHERS, 2)


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"medmeta_jax", "flax", "optax", "chex", "PIL", "orbax"}:
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Refuse())
import runpy
sys.argv = ["medmeta_artefact.py", *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_it_needs_jax_and_numpy_alone(written: Path, predictor: Predictor, tmp_path: Path) -> None:
    """The reader by itself, in a process that refuses everything else."""
    reader = tmp_path / "medmeta_artefact.py"
    reader.write_text(Path(str(artefacts.__file__)).read_text(encoding="utf-8"), encoding="utf-8")
    others, _ = images(OTHERS, 1)
    np.save(tmp_path / "images.npy", others)
    command = [sys.executable, "-c", ALONE, str(written), "images.npy", "told.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = predictor.predict(predictor.adapt(*images(SUPPORT)), others, WAYS)
    table = artefacts.as_csv([str(i) for i in range(OTHERS)], NAMES, expected)
    assert (tmp_path / "told.csv").read_text(encoding="utf-8") == table
    np.save(tmp_path / "images.npy", others[:, :4])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "images must be uint8 [n, 8, 8, 1]" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_was_altered_or_cut_is_refused(written: Path, tmp_path: Path) -> None:
    whole = written.read_bytes()
    path = tmp_path / "other.medmeta"
    rng = np.random.default_rng(0)
    for place in [*rng.integers(100, len(whole) - 1, 20), len(whole) // 2]:
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        try:
            arrays, _ = artefacts.unpacked(path)
        except ArtefactError:
            continue
        # The archive keeps some fields twice; what was read is what was written.
        assert artefacts.digest(arrays) == artefacts.digest(artefacts.unpacked(written)[0])
    for text in (whole[: len(whole) // 2], whole[:-30], b"", b"PK\x03\x04"):
        path.write_bytes(text)
        with pytest.raises(ArtefactError, match="not of this kind, or damaged"):
            artefacts.read(path)
    with pytest.raises(ArtefactError, match="no such file"):
        artefacts.read(tmp_path / "gone")
    with np.load(written) as file:
        kept = {name: file[name] for name in file.files}
    kept["task/usual"] = kept["task/usual"] * 2
    with path.open("wb") as handle:
        np.savez(handle, **kept)
    with pytest.raises(ArtefactError, match="its bytes are not those that were written"):
        artefacts.read(path)
    arrays, about = artefacts.unpacked(written)
    path.write_bytes(artefacts.packed({"task/usual": arrays["task/usual"]}, about))
    with pytest.raises(ArtefactError, match="holds no program, and is not of `medmeta export`"):
        artefacts.read(path)
    arrays["program/predict"] = arrays["program/predict"][:100]
    path.write_bytes(artefacts.packed(arrays, about))
    with pytest.raises(ArtefactError, match=r"holds no program that jax .* can read"):
        artefacts.read(path)


def test_what_cannot_be_told_is_refused(written: Path, predictor: Predictor) -> None:
    given, labels = images(SUPPORT)
    artefact = artefacts.read(written)
    with pytest.raises(ArtefactError, match="it is adapted already"):
        artefact.adapt(given, labels, NAMES)
    for wrong in (given.astype(np.float32), given[:, :4], given[:0]):
        with pytest.raises(ArtefactError, match=r"images must be uint8 .* with black"):
            artefact.predict(wrong)
    of_run = artefacts.read(io.BytesIO(exports.artefact(predictor.model, None, {}, support=8)))
    with pytest.raises(ArtefactError, match="give the task that adapt found"):
        of_run.predict(given)
    with pytest.raises(ArtefactError, match="up to 8 images, got 9"):
        of_run.adapt(*images(9), NAMES)
    with pytest.raises(ArtefactError, match="a label for each of 6 images"):
        of_run.adapt(given, labels[:2], NAMES)
    with pytest.raises(ArtefactError, match="labels must be places in 2 class names"):
        of_run.adapt(given, labels, NAMES[:2])


def test_weights_of_a_byte_tell_nearly_the_same(predictor: Predictor, written: Path) -> None:
    """Each is within half a step of its own; the steps are for output channels."""
    task = predictor.adapt(*images(SUPPORT))
    whole = exports.artefact(predictor.model, task, ABOUT, kind="int8")
    arrays, _ = artefacts.unpacked(io.BytesIO(whole))
    plain, _ = artefacts.unpacked(written)
    kernels = [name for name in plain if name.endswith("kernel")]
    assert kernels
    for name in kernels:
        assert arrays[name].dtype == np.int8
        step = arrays[name + exports.STEP]
        assert step.shape == plain[name].shape[-1:]
        assert (np.abs(arrays[name] * step - plain[name]) <= 0.501 * step).all()
    others, _ = images(OTHERS, 1)
    found = artefacts.read(io.BytesIO(whole)).predict(others)
    expected = artefacts.read(written).predict(others)
    gap = np.abs(found.probabilities - expected.probabilities).max()
    assert 0 < gap < 0.05


def test_convolutions_in_integers_tell_nearly_the_same(predictor: Predictor, written: Path) -> None:
    """Adapting is not touched, and an image is told alike alone and among others."""
    model = predictor.model
    learner = registry.factory("algorithms", "maml")(
        tiny_backbone("support", form="int8"), outputs=WAYS, steps=2
    )
    task = predictor.adapt(*images(SUPPORT))
    telling = model._replace(learner=learner)
    read = artefacts.read(io.BytesIO(exports.artefact(model, task, ABOUT, telling=telling)))
    others, _ = images(OTHERS, 1)
    found, expected = (of.predict(others).probabilities for of in (read, artefacts.read(written)))
    assert 0 < np.abs(found - expected).max() < 0.05
    alone = read.predict(others[:1]).probabilities
    np.testing.assert_allclose(alone, found[:1], atol=1e-6)
    of_run = artefacts.read(io.BytesIO(exports.artefact(model, None, {}, telling=telling)))
    adapted = of_run.adapt(*images(SUPPORT), NAMES)
    np.testing.assert_allclose(of_run.predict(others, adapted).probabilities, found, atol=1e-5)


def test_the_verb_writes_it_with_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    predictor: Predictor,
) -> None:  # fmt: skip
    """A stand-in for the run, whose loading is shown in test_deploy.py."""
    out = tmp_path / "run.medmeta"
    monkeypatch.setattr(deploy_verbs.runs, "existing", lambda path: path)
    asked = []

    def load(run: str, ways: int, form: str = "auto") -> Model:
        asked.append((run, ways, form))
        return predictor.model

    monkeypatch.setattr(deploy_verbs.models, "load", load)
    cli.main(["export", str(tmp_path), "--out", str(out), "--activations", "int8", "--json"])
    assert asked == [(str(tmp_path), 0, "auto"), (str(tmp_path), 0, "int8")]
    told = json.loads(capsys.readouterr().out)
    assert told["activations"] == "int8"
    assert told["bytes"] == out.stat().st_size
    assert (tmp_path / "medmeta_artefact.py").is_file()
    about = artefacts.read(out).about
    assert (about["weights"], about["activations"]) == ("float32", "int8")
    assert (about["slots"], about["algorithm"]) == (16, "maml")  # twice 3 ways of 2, padded
    assert about["calibration"]["temperature"] == 1.7
    with pytest.raises(ConfigError, match="export: is told as in"):
        deploy_verbs.export(Export(str(tmp_path)))
    for support in (-1, 0):
        with pytest.raises(ConfigError, match=f"support: must be >= 1, got {support}"):
            deploy_verbs.export(Export(str(tmp_path), str(out), support=support))
    with pytest.raises(ConfigError, match=r"out: .* cannot be written"):
        deploy_verbs.export(Export(str(tmp_path), str(tmp_path / "no" / "x")))
