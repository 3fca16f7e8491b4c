"""Lesions from end to end: which one an image shows, by a learner of pixels and one of images."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import plenty
from medmeta_jax import (
    baselines,
    details,
    experiment as experiments,
    parsing,
    plan as plans,
    protocol,
    running,
    tables,
)
from medmeta_jax.config import check
from medmeta_jax.experiment import Experiment
from medmeta_jax.labels import LESIONS, LESIONS_OF_IMAGES
from medmeta_jax.plan import Budget
from medmeta_jax.settings import ConfigError, TrainConfig

from .conftest import OF_MASKS, judged_rows

SIZE = 12
# The grey of each type's block, on a middling ground.
GREYS = {"black": 0, "dark": 50, "light": 200, "pale": 165, "dim": 85, "white": 250}
CONFIG = TrainConfig(
    task="lesions", image_size=SIZE, backbone="unet", net={"width": 4, "depth": 2},
    algorithm="panet", meta_steps=80, meta_batch=2, val_episodes=6, test_episodes=8, shots=2,
    queries=3, validate_every=40, dispatch=40, baselines="all", ways=2,
    val_classes=("dim",), test_classes=("light",), augment=(),
)  # fmt: skip


def write_lesions(root: Path) -> str:
    """Twelve images of each type and 36 of none, two of a patient each."""
    rng = np.random.default_rng(0)
    lines = ["image,label,group"]
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i, name in enumerate(np.repeat([*GREYS, *["none"] * 3], 12).tolist()):
        image, mask = rng.integers(110, 140, (SIZE, SIZE)), np.zeros((SIZE, SIZE), np.uint8)
        if name != "none":
            y, x = rng.integers(0, SIZE - 4, 2)
            image[y : y + 4, x : x + 4] = GREYS[name]
            mask[y : y + 4, x : x + 4] = 255
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{i:03}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:03}.png")
        lines.append(f"{i:03}.png,{name},p{i // 2:02}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return str(root)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_lesions(tmp_path_factory.mktemp("lesions") / "scans")


@pytest.fixture(scope="module")
def made(data: str) -> Experiment:
    return experiments.build(dataclasses.replace(CONFIG, data=data))


def test_a_network_that_knows_the_types_is_scored_on_the_episodes_own_ways(data: str) -> None:
    """The row of many examples: told right, marked half, and with its two types mixed up."""
    two = {"val_classes": ("dim", "dark"), "test_classes": ("light", "pale")}
    made = experiments.build(dataclasses.replace(CONFIG, data=data, ways=3, **two))  # type: ignore[arg-type]
    pool = made.test.pool
    classes, types = made.split.classes["test"], made.config.test_classes
    shown = np.zeros(len(pool.x), np.int32)
    for name, row in zip(classes, np.asarray(pool.rows), strict=True):
        shown[row[row >= 0]] = types.index(name) + 1 if name in types else 0
    maps = np.where(np.asarray(pool.masks) > 0, shown[:, None, None], 0)
    spec = dataclasses.replace(made.spec, shots=2)

    def scored(told: np.ndarray) -> dict[str, float]:
        logits = np.eye(1 + len(types))[told]
        found = plenty.scores(logits, types, made.test, spec, classes)
        return {name: values.mean() for name, values in found.items()}

    right = scored(maps)
    assert right["accuracy"] == right["dice"] == right["presence_f1"] == 1
    half = maps.copy()
    half[:, : SIZE // 2] = 0
    assert 0.2 < scored(half)["dice"] < 0.8
    for wrong, dice in ((0 * maps, 0), (np.asarray([0, 2, 1])[maps], 1)):
        found = scored(wrong)
        assert found["accuracy"] == pytest.approx(1 / 3)  # the images of none
        assert found["dice"] == dice


@pytest.fixture(scope="module")
def first(made: Experiment) -> baselines.Row:
    return baselines.raw_centroid(running.task_of(made))


def test_what_is_built(made: Experiment) -> None:
    assert made.kind is LESIONS
    assert made.outputs == 2
    classes = {side: set(made.split.classes[side]) for side in made.split.classes}
    assert classes == {
        "train": {"black", "dark", "pale", "white", "none"}, "val": {"dim", "none"},
        "test": {"light", "none"},
    }  # fmt: skip
    episode = jax.jit(made.sampler)(jax.random.key(0), made.split.pools["train"])
    assert episode.support.y.shape == (4, SIZE, SIZE)
    np.testing.assert_array_equal(np.asarray(episode.support.y).sum((1, 2)), [16, 16, 0, 0])


def test_a_network_of_whole_images_is_told_which(made: Experiment) -> None:
    config = dataclasses.replace(made.config, backbone="conv4", net={"width": 4, "depth": 2})
    plain = experiments.build(dataclasses.replace(config, algorithm="protonet", hyper={}))
    assert plain.kind is LESIONS_OF_IMAGES
    with pytest.raises(ConfigError, match="algorithm: panet"):
        experiments.build(config)
    task = running.task_of(plain)
    assert baselines.pretrained_by(task.kind) == "nearest_centroid"
    untrained = running.initial_progress(plain, plain.learner).state.params
    row = next(baselines.rows(task, plain.learner, untrained, untrained))
    assert "dice" not in row.scores.per_episode
    assert 0 <= row.scores.headline.mean <= 1


@pytest.mark.slow
def test_methods_that_mark_pixels_and_those_that_do_not(made: Experiment) -> None:
    """On a network with a feature a pixel, those that need a class an image do not fit."""
    budget = Budget(4, 2, 2, 1, False, 4, 4)
    plan = plans.Plan(made, budget, (2,))
    wanted = ("maml", "anil", "finetune", "scratch", "raw_centroid", "protonet", *OF_MASKS)
    fit = protocol.that_fit(plan, wanted)
    assert set(wanted) - set(fit) == {"protonet"}
    assert protocol.for_method(plan, "raw_centroid").kind is LESIONS_OF_IMAGES


def test_the_nearest_pixels_by_class_and_in_a_table(made: Experiment, first: baselines.Row) -> None:
    task = running.task_of(made)
    facts, groups = running.facts(made, task), baselines.query_groups(task)
    assert facts["labels"] == "lesions"
    assert facts["queries_mean"] == 3
    found = baselines.result(first, first, facts, groups)
    mask = first.scores.predictions.mask
    assert found["accuracy_over_subjects"]["subjects"] == len(np.unique(groups[mask]))
    table = details.by_class(made, first.scores.predictions)
    assert table["classes"] == list(made.split.classes["test"])
    counts = np.asarray(table["counts"])
    assert counts.sum() == mask.sum()
    assert np.trace(counts) / counts.sum() == pytest.approx(found["accuracy"]["mean"])
    out = io.StringIO()
    tables.table({"results": [found], "patients": {}}, out)
    said = out.getvalue()
    assert "Whether there is a lesion at all: raw-centroid" in said
    assert re.search(r" -\s+none\n", said), "no Dice where nothing is marked"


@pytest.fixture(scope="module")
def judged(made: Experiment) -> dict[str, baselines.Row]:
    return judged_rows(made)


@pytest.mark.slow
def test_lesions_are_learned(judged: dict[str, baselines.Row]) -> None:
    assert list(judged) == [
        "panet", "panet-untrained", "scratch", "raw-centroid", "pretrained-probe",
        "pretrained-finetune",
    ]  # fmt: skip
    scores = {name: row.scores for name, row in judged.items()}
    assert scores["panet"].headline.mean > 0.8
    assert scores["panet"].estimate("dice").mean > 0.6
    assert scores["pretrained-probe"].estimate("dice").mean > 0.5


@pytest.mark.slow
def test_overlays_name_the_type_or_none(made: Experiment, judged: dict[str, baselines.Row]) -> None:
    shown = details.shown(made, judged["panet"].scores.predictions)
    assert {one.structure for one in shown} == {"light", "none"}
    assert all(one.truth.any() == (one.structure == "light") for one in shown)


REFUSED: dict[str, Any] = {
    "also": ("x",), "split": "s.csv", "modalities": ("t1", "t2"), "within": "domain",
    "rotate_classes": True, "stream": "always",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_for_lesions_is_refused(name: str) -> None:
    config = dataclasses.replace(CONFIG, val_classes=(), test_classes=(), **{name: REFUSED[name]})
    with pytest.raises(ConfigError, match=f"^{name}: "):
        check(config)


def test_what_a_source_is_told_is_configuration(data: str) -> None:
    config, _ = parsing.parse_train(["--preset", "case-study", "--read.patients", "66"])
    assert config.read["patients"] == 66
    assert config.read["types"] == 10
    assert config.read["seed"] == 0  # filled in, so that a run holds all that it was told
    other, _ = parsing.parse_train(["--preset", "case-study", "--data", data])
    assert "patients" not in other.read
    for given in (["--data", "anatomy", "--read.size", "9"], ["--data", data, "--read.seed", "1"]):
        with pytest.raises(SystemExit) as error:
            parsing.parse_train(given)
        assert error.value.code == 2


def test_a_wrong_argument_of_a_source_is_named(data: str) -> None:
    for read, what in (
        ({"patience": 3}, r"read\.patience: phantom has no such argument; did you mean patients"),
        ({"patients": "many"}, r"read\.patients: must be a whole number, got 'many'"),
    ):
        config = TrainConfig(data="phantom", read=read)
        with pytest.raises(ConfigError, match=what):
            experiments.build(config)
    with pytest.raises(ConfigError, match="read: detection reads whole images"):
        experiments.build(TrainConfig(data="phantom", read={"size": 9}, task="detection"))
