"""A step that was not finite is found again, with the episode that made it so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from medmeta_jax import cli, experiment as experiments, replaying, running, runs
from medmeta_jax.experiment import Experiment
from medmeta_jax.judging import RunFailed
from medmeta_jax.meta_gradient import step_keys
from medmeta_jax.settings import ConfigError
from medmeta_jax.types import Examples

from .test_experiment import CONFIG, write_toy
from .tiny_run import copied, train


@pytest.fixture(autouse=True)
def strict_promotion() -> None:
    """Not here: Adam mixes a float with an int count."""


@pytest.fixture(scope="module")
def run(trained_once: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four steps of two episodes, whole."""
    return copied(trained_once, tmp_path_factory.mktemp("replaying"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    path = write_toy(tmp_path_factory.mktemp("planted") / "toy.npz")
    return experiments.build(dataclasses.replace(CONFIG, data=str(path), augment=()))


@pytest.mark.slow
def test_it_stands_where_the_run_stood(run: str) -> None:
    """The losses of a step's episodes are those whose mean the run wrote down."""
    found = replaying.replay(run, 3)
    assert found["ok"]
    assert found["from_checkpoint"] is None  # its only one is of step 4, after it
    assert found["picture"] is None
    (record,) = [json.loads(line) for line in runs.Run(Path(run)).metrics.read_text().splitlines()]
    first = [replaying.replay(run, step)["episodes"] for step in range(3)]
    losses = [[one["loss"] for one in episodes] for episodes in (*first, found["episodes"])]
    assert record["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def planted(made: Experiment, loss: Any) -> Experiment:
    """With another loss in meta-training."""
    return made._replace(training=made.training._replace(loss=loss))


def test_a_gradient_that_is_not_finite_is_found_by_episode(made: Experiment) -> None:
    """Its loss is a number; the derivative of a root at 0, of the head's bias alone, is none."""
    learner = made.training
    progress = running.initial_progress(made, learner)
    keys = step_keys(progress.state.key, progress.state.step, made.config.meta_batch)
    bad = jax.random.key_data(jax.random.split(keys[1])[1])

    def loss(params: Any, episode: Any, key: Any, step: Any) -> Any:
        value, info = learner.loss(params, episode, key, step)
        at_zero = 0 * params["head"]["bias"].sum()
        here = (jax.random.key_data(key) == bad).all()
        return value + jnp.where(here, 1.0, 0.0) * jnp.sqrt(jnp.where(here, at_zero, 1.0)), info

    (_, first), (_, second) = replaying.episodes_of(planted(made, loss), progress)
    assert first["finite"]
    assert first["gradient_not_finite"] == []
    assert not second["finite"]
    assert second["loss"] is not None
    assert second["gradient_not_finite"] == ["head/bias"]
    assert second["inner_step"] is None
    assert "NOT FINITE, of" in (line := replaying.line_of(1, second))
    assert line.endswith("its gradient by head/bias")


def test_numbers_of_images_that_are_none_are_counted() -> None:
    """Padding is not, nor is a channel that is missing."""
    x = np.zeros((3, 4, 4, 2), np.float32)
    x[0, 1, 1, 0] = np.nan
    x[1, :, :, 1] = np.nan  # a modality that this image does not have
    x[1, 2, 2, 0] = np.inf
    x[2] = np.nan
    examples = Examples(jnp.asarray(x), jnp.zeros(3, jnp.int32), jnp.asarray([True, True, False]))
    assert replaying.spoilt(examples) == 2
    whole = examples._replace(x=jnp.full((3, 4, 4, 1), jnp.nan))
    assert replaying.spoilt(whole) == 32  # of one channel, none is missing


def test_the_inner_step_that_loses_it_is_found(made: Experiment) -> None:
    """At a rate at which parameters overflow: at once before any step, after one all is lost."""
    config = dataclasses.replace(
        made.config, hyper={**made.config.hyper, "inner_lr": 1e38, "steps": 2}
    )
    wild = experiments.build(config)
    progress = running.initial_progress(wild, wild.training)
    for episode, facts in replaying.episodes_of(wild, progress):
        assert not facts["finite"]
        assert facts["images_not_finite"] == 0
        assert facts["inner_step"] in (1, 2)
        assert episode.support.x.shape[0] > 0


@pytest.mark.slow
def test_a_run_that_stopped_says_how_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command that it names to a picture."""
    with pytest.raises(RunFailed, match=r"medmeta replay .* --step 0") as stopped:
        train(tmp_path, algorithm="maml", hyper={"steps": 2, "inner_lr": 1e38})
    command = str(stopped.value).split("medmeta ")[1].split()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--json"])
    assert ended.value.code == 1
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["ok"] is False
    assert any(not one["finite"] for one in found["episodes"])
    assert "NOT FINITE" in said.err
    assert Image.open(found["picture"]).size[0] > 100
    later = replaying.replay  # a step after the one that is lost
    with pytest.raises(RunFailed, match="at step 0 already: replay that one"):
        later(command[1], 2)


def test_a_step_that_there_is_not(run: str) -> None:
    with pytest.raises(ConfigError, match="step: must be in 0 to 3, got 4"):
        replaying.replay(run, 4)
