"""Covariates of patients as channels of their images: who standardises them, what they are worth,
what is missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import baselines, experiment as experiments, learners, running, verbs
from medmeta_jax.config import check
from medmeta_jax.data.samples import DataError
from medmeta_jax.evaluation import evaluate
from medmeta_jax.experiment import Experiment
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Array, Episode, Params

CLASSES, EACH = 9, 12
GROUPS = np.asarray([f"p{i // 2:02}" for i in range(CLASSES * EACH)])
CONFIG = TrainConfig(
    image_size=8, ways=3, queries=3, net={"width": 4, "depth": 1}, val_episodes=4, test_episodes=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Noise of nine classes, two images a patient: all that tells classes apart is in the table."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("covariates") / "scans.npz"
    images = rng.integers(0, 256, (CLASSES * EACH, 8, 8)).astype(np.uint8)
    np.savez(path, images=images, labels=np.repeat(np.arange(CLASSES), EACH), groups=GROUPS)
    return str(path)


def table(data: str, name: str, missing: str | None = None) -> str:
    """A gene whose value is the class of each patient, give or take, and a sex of no meaning."""
    rng = np.random.default_rng(1)
    lines = ["group,gene,sex"]
    for place, patient in enumerate(np.unique(GROUPS).tolist()):
        value = 10 * (2 * place // EACH) + rng.normal()
        cell = "" if patient == missing else f"{value:.3f}"
        lines.append(f"{patient},{cell},{'FM'[place % 2]}")
    path = Path(data).with_name(name)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def made(data: str) -> Experiment:
    config = dataclasses.replace(CONFIG, data=data, covariates=table(data, "whole.csv"))
    return experiments.build(config)


def test_they_are_channels_of_one_value_standardised_on_meta_train(made: Experiment) -> None:
    assert made.split.covariates == ("gene", "sex=F", "sex=M")
    values = {side: np.asarray(pool.covariates) for side, pool in made.split.pools.items()}
    assert values["train"][:, 0].mean() == pytest.approx(0, abs=1e-5)
    assert values["train"][:, 0].std() == pytest.approx(1, abs=1e-5)
    assert abs(values["test"][:, 0].mean()) > 0.1
    np.testing.assert_array_equal(values["test"][:, 1:].sum(1), 1)
    pool = made.split.pools["train"]
    x = np.asarray(jax.jit(made.sampler)(jax.random.key(0), pool).support.x)
    assert x.shape == (3, 8, 8, 4)
    np.testing.assert_array_equal(x[..., 1:], np.broadcast_to(x[:, :1, :1, 1:], x[..., 1:].shape))
    assert x[..., 0].std() > 0.5  # the image beside them is as it was


@pytest.mark.slow
def test_augmentation_leaves_them_as_they_are(made: Experiment) -> None:
    episode = jax.jit(made.sampler)(jax.random.key(0), made.split.pools["train"])
    seen = []

    def loss(params: Params, given: Episode, key: Array, step: Array) -> Any:
        seen.append(given)
        return jnp.zeros(()), None

    config = dataclasses.replace(made.config, augment=("noise", "rotate"))
    learner = made.learner._replace(loss=loss)
    learner = learners.with_augmentation(config, made.split, learner)
    learner.loss({}, episode, jax.random.key(1), jnp.zeros((), jnp.int32))
    for side in ("support", "query"):
        before, after = (np.asarray(getattr(one, side).x) for one in (episode, seen[0]))
        np.testing.assert_array_equal(after[..., 1:], before[..., 1:])
        assert (after[..., 0] != before[..., 0]).mean() > 0.9


def test_they_tell_what_images_do_not(made: Experiment, data: str) -> None:
    plain = experiments.build(dataclasses.replace(CONFIG, data=data))
    without, with_them = (
        baselines.raw_centroid(running.task_of(one)).scores.headline.mean for one in (plain, made)
    )
    assert without < 0.45
    assert with_them > without + 0.15


def test_other_covariates_are_other_data(made: Experiment, data: str) -> None:
    plain = experiments.build(dataclasses.replace(CONFIG, data=data))
    first, second = (experiments.identity(one)["test"]["images"] for one in (plain, made))
    assert first != second


@pytest.mark.slow
def test_what_is_missing_takes_a_backbone_that_does_without(data: str) -> None:
    path = table(data, "holes.csv", missing="p03")
    config = dataclasses.replace(CONFIG, data=data, covariates=path)
    with pytest.raises(
        ConfigError, match="covariates: gene of some patients is missing, which conv4"
    ):
        experiments.build(config)
    made = experiments.build(
        dataclasses.replace(config, backbone="multimodal", algorithm="protonet")
    )
    pools = made.split.pools.values()
    missing = [np.isnan(np.asarray(pool.covariates)).sum(0) for pool in pools]
    np.testing.assert_array_equal(np.sum(missing, 0), [2, 0, 0])
    keys = jax.random.split(jax.random.key(0), 40)
    x = jax.jit(jax.vmap(lambda key: made.sampler(key, made.split.pools["train"]).support.x))(keys)
    absent = np.isnan(np.asarray(x)).any((2, 3))
    assert absent.any()
    assert not absent[..., [0, 2, 3]].any()
    params = running.initial_progress(made, made.learner).state.params
    assert np.isfinite(evaluate(made.learner, params, made.test).predictions.logits).all()


def test_what_they_are_not_for_is_refused(data: str, tmp_path: Path) -> None:
    path = table(data, "again.csv")
    for change in ({"also": ("x",)}, {"meta_test": "x"}, {"stream": "always"}):
        with pytest.raises(ConfigError, match=r"^covariates: "):
            check(dataclasses.replace(CONFIG, covariates=path, **change))
    np.savez(tmp_path / "plain.npz", **{
        name: array for name, array in np.load(data).items() if name != "groups"
    })  # fmt: skip
    config = dataclasses.replace(CONFIG, data=str(tmp_path / "plain.npz"), covariates=path)
    with pytest.raises(DataError, match="names no groups"):
        experiments.build(config)
    gone = dataclasses.replace(CONFIG, data=data, covariates=str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        experiments.build(gone)


def test_a_run_finds_its_table_from_anywhere(data: str) -> None:
    config = dataclasses.replace(CONFIG, covariates=table(data, "far.csv"))
    assert Path(str(verbs.plain_config(config)["covariates"])).is_absolute()
