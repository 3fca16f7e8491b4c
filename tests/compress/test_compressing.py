"""A run of a smaller network: what it holds, how it was judged, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from medmeta_jax import (
    compressing,
    config as configs,
    experiment as experiments,
    learners,
    runs,
    verbs,
)
from medmeta_jax.compress.distil import distilled
from medmeta_jax.compress.slicing import fewer
from medmeta_jax.deploy import model as models
from medmeta_jax.options import Compress, Eval
from medmeta_jax.report import _loaded as loaded
from medmeta_jax.runs import RunError
from medmeta_jax.settings import ConfigError

from ..tiny_run import CONFIG, copied


@pytest.fixture(scope="module")
def run(trained_once: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return copied(trained_once, tmp_path_factory.mktemp("compressing"))


def compressed(run: str, **options: Any) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setenv("MEDMETA_RUNS", str(Path(run).parent))
        return compressing.compress(Compress(run, **options), lambda: False)


@pytest.fixture(scope="module")
def small(run: str) -> dict[str, Any]:
    return compressed(run, share=0.6, by="magnitude", steps=2)


@pytest.mark.slow
def test_it_is_a_run_as_any_of_fewer_channels(run: str, small: dict[str, Any]) -> None:
    model = models.load(runs.existing(small["run"]), 0)
    whole, widths = small["compression"]["widths"]
    assert whole == [4, 4]
    assert max(widths) < 4
    assert model.config.net["widths"] == tuple(widths)
    assert model.config.teacher == str(Path(run).absolute())
    assert model.config.meta_steps == 2
    assert model.config.init_from == str(runs.existing(small["run"]).weights.absolute())
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    before, after = small["compression"]["mflops"]
    assert small["compression"]["parameters"][1] == count
    assert after <= 0.6 * before


@pytest.mark.slow
def test_it_starts_from_the_channels_that_stay(run: str, small: dict[str, Any]) -> None:
    """Of a kernel of the first layer each channel is one of the whole network's."""
    name = "body/ConvNormPool_0/conv/kernel"
    with np.load(runs.existing(small["run"]).weights) as file:
        start = file[name]
    whole = learners.run_weights(runs.existing(run))[name]
    kept = [
        any(np.array_equal(start[..., i], whole[..., j]) for j in range(whole.shape[-1]))
        for i in range(start.shape[-1])
    ]
    assert all(kept)


@pytest.mark.slow
def test_what_it_costs_is_of_the_same_episodes(run: str, small: dict[str, Any]) -> None:
    before, after = loaded.read(run), loaded.read(small["run"])
    assert after.first["episodes_hash"] == before.first["episodes_hash"]
    gap = after.scores["anil"] - before.scores["anil"]
    about = json.loads(after.run.compression.read_text())
    assert about == small["compression"]
    assert about["minus_whole"]["mean"] == pytest.approx(gap.mean())
    lower = about["minus_whole"]["mean"] - about["minus_whole"]["ci95"]
    assert about["not_inferior"] == (lower > -0.01)


@pytest.mark.slow
def test_it_is_judged_again_without_its_teacher(small: dict[str, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(small["run"], tmp_path / "run")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("teacher: ", "teacher: /gone"))
    with jax.numpy_dtype_promotion("standard"):
        found = verbs.evaluate(Eval(str(folder), baselines="none"))
    assert found["results"][0]["accuracy"] == small["results"][0]["accuracy"]


def test_the_widths_are_the_largest_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against trying every width, where telling an image takes the square of the channels."""
    monkeypatch.setattr(compressing, "widths_in", lambda made, params: (12, 24))
    monkeypatch.setattr(compressing, "with_widths", lambda made, widths: widths)
    monkeypatch.setattr(compressing, "telling_flops", lambda made: float(made[0] ** 2))
    for share in (0.02, 0.3, 0.5, 0.99):
        tried = [fewer((12, 24), n / 12) for n in range(1, 12)]
        largest = [widths for widths in tried if widths[0] ** 2 <= share * 144][-1]
        assert compressing.widths_for((12, 24), {}, share) == largest  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"share: a network of one channel has more than 0\.001"):
        compressing.widths_for((12, 24), {}, 0.001)  # type: ignore[arg-type]


def test_a_teacher_is_in_the_loss_that_is_trained_alone(run: str) -> None:
    plain = experiments.build(dataclasses.replace(CONFIG, data=of(run)))
    made = experiments.build(dataclasses.replace(CONFIG, data=of(run), teacher=run))
    key, step = jax.random.key(0), jax.numpy.zeros((), jax.numpy.int32)
    with jax.numpy_dtype_promotion("standard"):
        params = jax.jit(made.learner.init)(key, made.example_x)
        episode = jax.jit(made.sampler)(key, made.split.pools["train"])
        given = models.load(runs.existing(run), 0)
        expected = distilled(plain.learner, given.learner, given.params)
        value, wanted, untaught = (
            float(jax.jit(one.loss)(params, episode, key, step)[0])
            for one in (made.training, expected, plain.training)
        )
    assert value == pytest.approx(wanted, rel=1e-5)
    assert abs(value - untaught) > 1e-3


def of(run: str) -> str:
    """The data of a run."""
    return str(configs.load(None, str(Path(run) / "config.yaml")).data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 12}, r"teacher: image_size of .* is 8, here 12; take a run on the same"),
        ({"ways": 2}, r"teacher: outputs of .* is 3, here 2"),
        ({"mix": "mixup"}, "teacher: answers episodes as they are; leave out mix"),
        ({"policy": ("rotate",)}, "teacher: answers episodes as they are; leave out policy"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    run: str, changes: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(CONFIG, data=of(run), teacher=run, **changes)
    with pytest.raises(ConfigError, match=message):
        experiments.build(config)


def test_a_teacher_that_is_no_run_is_refused(run: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, data=of(run), teacher=str(tmp_path))
    with pytest.raises(RunError, match=r"^teacher: .*not a run directory"):
        experiments.build(config)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_a_share_is_a_part(run: str, share: float) -> None:
    with pytest.raises(ConfigError, match="share: must be > 0 and < 1"):
        compressed(run, share=share)


def test_a_run_that_is_not_complete_is_refused(run: str, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunError, match="is not complete; go on with"):
        compressed(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "group"}, "norm: norm must be batch, support or none"),
        (
            {"backbone": "pixels", "net": {}, "norm": "none"},
            "backbone: channels can be taken out of .* 'pixels'",
        ),
        ({"policy": ("rotate",)}, "policy: a network that was trained with it"),
    ],
)
def test_networks_that_cannot_be_made_smaller(
    run: str, changes: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(CONFIG, data=of(run), algorithm="protonet", hyper={}, **changes)
    made = experiments.build(config)
    params = jax.eval_shape(made.learner.init, jax.random.key(0), made.example_x)
    with pytest.raises(ConfigError, match=message):
        compressing.channels_in(made, params)
