"""Masks from end to end: trained, judged beside their baselines, counted by lesion and subject."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from medmeta_jax import (
    baselines,
    bench,
    details,
    experiment as experiments,
    options,
    overlays,
    running,
)
from medmeta_jax.data.pool import Scaling
from medmeta_jax.evaluation import FixedEpisodes, Predictions
from medmeta_jax.experiment import Experiment
from medmeta_jax.labels import MASKS
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Episode, Examples

from .conftest import OF_MASKS, judged_rows

SIZE, IMAGES = 12, 96
CONFIG = TrainConfig(
    task="segmentation", image_size=SIZE, backbone="unet", net={"width": 4, "depth": 2},
    algorithm="linear_probe", hyper={"steps": 3}, meta_steps=60, meta_batch=2, val_episodes=6,
    test_episodes=8, shots=2, queries=3, validate_every=30, dispatch=30, baselines="all",
)  # fmt: skip


def write_blocks(root: Path) -> str:
    """Images of patients, each of a bright block (1) and a dark one (2) on a middling ground."""
    rng = np.random.default_rng(0)
    lines = ["image,label,group"]
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(IMAGES):
        image, mask = rng.integers(110, 140, (SIZE, SIZE)), np.zeros((SIZE, SIZE), np.uint8)
        for value, level in ((1, 220), (2, 30)):
            y, x = rng.integers(0, SIZE - 4), rng.integers(0, SIZE // 2 - 4) + (value - 1) * 6
            where = np.s_[y : y + 4, x : x + 4]
            image[where], mask[where] = level + rng.integers(-20, 20, (4, 4)), value
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{i:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
        lines.append(f"{i:02}.png,blocks,p{i // 3:02}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return str(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    data = write_blocks(tmp_path_factory.mktemp("segmentation") / "blocks")
    return experiments.build(dataclasses.replace(CONFIG, data=data))


@pytest.fixture(scope="module")
def first(made: Experiment) -> baselines.Row:
    return baselines.threshold(running.task_of(made))


@pytest.fixture(scope="module")
def judged(made: Experiment) -> dict[str, baselines.Row]:
    return judged_rows(made)


@pytest.mark.slow
def test_joint_pretraining_is_better_than_none(judged: dict[str, baselines.Row]) -> None:
    """The features of a net that has marked both structures, against those of one that has not."""
    assert list(judged) == [
        "linear_probe", "linear_probe-untrained", "scratch", "threshold", "pretrained-probe",
        "pretrained-finetune",
    ]  # fmt: skip
    dice = {name: row.scores.estimate("dice").mean for name, row in judged.items()}
    assert dice["linear_probe"] > dice["linear_probe-untrained"] + 0.1
    assert dice["pretrained-finetune"] > dice["scratch"]
    assert dice["pretrained-probe"] > dice["linear_probe-untrained"] + 0.1


def test_rows_by_lesion_by_subject_and_by_structure(made: Experiment, first: baselines.Row) -> None:
    task = running.task_of(made)
    groups = baselines.query_groups(task)
    assert groups is not None
    found = baselines.result(first, first, running.facts(made, task), groups)
    assert {"dice", "hd95", "lesion_dice", "lesion_recall", "lesion_precision"} <= found.keys()
    each, mask = MASKS.each(*first.scores.predictions)[0], first.scores.predictions.mask
    of = {g: each[groups[mask] == g].mean() for g in np.unique(groups[mask])}
    over = found["dice_over_subjects"]
    assert over["subjects"] == len(of) >= 3
    assert over["mean"] == pytest.approx(np.mean(list(of.values())))
    structures = details.details(made, first.scores)["structures"]
    assert set(structures) == set(made.split.classes["test"]) == {"any", "1", "2"}
    total = sum(one["dice"] * one["queries"] for one in structures.values())
    assert total / mask.sum() == pytest.approx(each.mean())


def test_without_groups_there_are_no_subjects(made: Experiment, first: baselines.Row) -> None:
    task = running.task_of(made)
    plain = task._replace(spec=dataclasses.replace(task.spec, disjoint="image"))
    assert baselines.query_groups(plain) is None
    assert task.patients
    assert baselines.query_groups(task._replace(patients=False)) is None
    assert baselines.over_subjects(first.scores, None) is None
    one = np.zeros_like(first.scores.predictions.mask, np.int32)
    assert baselines.over_subjects(first.scores, one) is None


@pytest.mark.slow
def test_overlays_show_what_was_predicted(
    made: Experiment, first: baselines.Row, tmp_path: Path
) -> None:
    """The images as they are in the files, the worst first."""
    predictions = first.scores.predictions
    shown = details.shown(made, predictions)
    assert len(shown) == overlays.COUNT
    dice = [one.dice for one in shown]
    assert dice == sorted(dice)
    each = MASKS.each(*predictions)[0]
    assert (dice[0], dice[-1]) == (each.min(), each.max())
    pixels = np.asarray(made.split.pools["test"].x)
    for one in shown:
        assert (pixels == one.image).all((1, 2, 3)).any()
        both = 2 * (one.truth & one.told).sum() / (one.truth.sum() + one.told.sum())
        assert both == pytest.approx(one.dice)
    overlays.save(overlays.of_shown(shown), tmp_path / "plots" / "overlays.png")
    with Image.open(tmp_path / "plots" / "overlays.png") as page:
        drawn = np.asarray(page)
    for colour in (overlays.TRUTH, overlays.TOLD):
        assert (drawn == colour).all(-1).sum() > 1000


def test_of_a_volume_the_slice_with_most_of_the_structure_is_shown() -> None:
    y = np.zeros((1, 1, 3, 4, 4), np.int32)
    y[..., 1, :2, :], y[..., 2, 0, 0] = 1, 1
    x = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4, 1) / 255
    mask = np.ones((1, 1), bool)
    examples = Examples(x, y[0], mask[0])
    drawn = Episode(examples, examples, np.zeros(1, np.int32), np.asarray(0))
    predictions = Predictions(np.stack([0 * y, y - 0.5], -1), y, mask, np.full((1, 1), 7))
    episodes = FixedEpisodes(lambda key, pool: drawn, None, jax.random.split(jax.random.key(0), 1))
    (one,) = overlays.look_up(episodes, predictions, {7: "a"}, Scaling(np.zeros(1), np.ones(1)))
    np.testing.assert_array_equal(one.image[..., 0], np.arange(16, 32).reshape(4, 4))
    np.testing.assert_array_equal(one.truth, y[0, 0, 1] > 0)
    assert (one.dice, one.structure) == (1.0, "a")


def test_scores_of_an_episode_by_hand() -> None:
    """Of two lesions one is found, and beside them one that is none."""
    y = np.zeros((1, 1, 3, 11), np.int32)
    y[..., 1, 0], y[..., 1, 5] = 1, 1
    told = np.zeros_like(y)
    told[..., 1, 0], told[..., 1, 9] = 1, 1
    arrays = np.stack([0 * told, told - 0.5], -1), y, np.ones((1, 1), bool)
    found = {**MASKS.by_episode(*arrays), **MASKS.more(*arrays)}
    assert found["lesion_recall"] == found["lesion_precision"] == found["dice"] == 0.5
    assert found["lesion_dice"] == pytest.approx(1 / 3)  # one of three: found, missed, false


@pytest.mark.parametrize("name", ["nearest_centroid", "protonet", "r2d2"])
def test_what_is_of_classes_is_refused(made: Experiment, name: str) -> None:
    config = dataclasses.replace(made.config, algorithm=name, hyper={})
    with pytest.raises(ConfigError, match=f"algorithm: {name}"):
        experiments.build(config)
    assert name not in OF_MASKS


@pytest.mark.slow
def test_methods_of_masks_are_compared_by_a_preset(made: Experiment, tmp_path: Path) -> None:
    """What is learned is the preset's, how large the network is the budget's; what is of classes is
    refused before anything runs."""
    asked = options.BenchMethods(preset="segmentation", data=made.config.data)
    config = bench.config_of(asked)
    assert (config.task, config.backbone, config.image_size) == ("segmentation", "unet", 48)
    small = dataclasses.replace(asked, image_size=SIZE, norm="group", shots=(1,))
    assert bench.config_of(small).image_size == SIZE
    assert bench.config_of(small).norm == "group"
    assert "width" not in bench.config_of(dataclasses.replace(asked, preset="omniglot")).net
    assert bench.config_of(options.BenchMethods()) == TrainConfig()
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match="algorithm: protonet"):
        bench.run(dataclasses.replace(small, methods=("protonet",), out=out), lambda: False)
    found = bench.run(dataclasses.replace(small, methods=("threshold",), out=out), lambda: False)
    (row,) = found["results"]
    assert (row["learner"], row["labels"], row["norm"]) == ("threshold", "masks", "none")
    assert row["dice_over_subjects"]["subjects"] >= 3
    assert row["seeds"]["count"] == 1
