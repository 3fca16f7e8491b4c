"""The protocol: what every method gets alike, what is judged, and going on where it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import bench, plan as plans, protocol
from medmeta_jax.plan import Budget, Plan
from medmeta_jax.settings import ConfigError, TrainConfig

from .conftest import OF_MASKS, write_toy

BUDGET = Budget(4, 4, 2, 1, False, 4, 6)


@pytest.fixture(autouse=True)
def strict_promotion() -> None:
    """Not here: optax's schedules and Adam mix a float with an int count."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = write_toy(tmp_path_factory.mktemp("protocol") / "toy.npz")
    config = TrainConfig(data=str(path), image_size=8, ways=2, queries=3, augment=())
    return plans.make_plan(config, BUDGET, (3, 1))


@pytest.mark.slow
def test_all_are_those_that_take_the_labels_at_hand(plan: Plan) -> None:
    """Of classes, all but those that mark structures."""
    fit = protocol.that_fit(plan, plans.methods())
    assert set(plans.methods()) - set(fit) == {*OF_MASKS, plans.THRESHOLD}


def test_every_algorithm_is_a_method_and_maml_the_reference() -> None:
    everything = plans.chosen_methods(("all",))
    assert len(everything) == len(plans.methods()) == 27
    assert everything[0] == "maml"
    assert plans.chosen_methods(("anil", "protonet")) == ("anil", "protonet")
    with pytest.raises(ConfigError, match="methods: no 'protnet'; did you mean protonet"):
        plans.chosen_methods(("protnet",))


def test_an_episode_of_fewer_shots_is_the_same_with_fewer_images(plan: Plan) -> None:
    assert plan.shots == (1, 3)
    few, many = (plans.judged_at(plan, "test", shots) for shots in plan.shots)
    assert few.sampler is many.sampler is plans.judged_at(plan, "val", 1).sampler  # one program
    a, b = (jax.jit(of.sampler)(of.keys[0], of.pool) for of in (few, many))
    np.testing.assert_array_equal(a.query.x, b.query.x)
    np.testing.assert_array_equal(np.flatnonzero(a.support.mask), [0, 3])
    np.testing.assert_array_equal(a.support.x, b.support.x)
    counts = [jnp.bincount(e.support.y[e.support.mask], length=2).tolist() for e in (a, b)]
    assert counts == [[1, 1], [3, 3]]


def test_many_shots_cost_the_few_nothing(plan: Plan) -> None:
    """Beyond the few, each number of shots has as many slots as it needs."""
    more = plan._replace(shots=(1, 3, 8))
    spec = dataclasses.replace(plan.experiment.spec, shots=8)
    slots = [plans.judged_at(more, "test", shots).sampler.keywords for shots in more.shots]
    assert slots == [{"spec": spec, "slots": count} for count in (3, 3, 8)]


def test_settings_of_a_method(plan: Plan) -> None:
    """Seeds differ in nothing but the seed; phases counted in meta-steps follow the budget."""
    trainer = protocol.Trainer(plan)
    a, b = (trainer.made("pmf", seed) for seed in (0, 1))
    assert (a.config.seed, b.config.seed) == (0, 1)
    assert a.learner is b.learner
    assert a.config.hyper["pretrain_steps"] == BUDGET.meta_steps // 2
    assert trainer.made("maml", 0, inner_lr=0.5).config.hyper["inner_lr"] == 0.5


def test_settings_of_the_configuration_are_of_its_own_algorithm(plan: Plan) -> None:
    """And rows that were made with others are of another plan."""
    config = dataclasses.replace(plan.experiment.config, algorithm="anil", hyper={"steps": 2})
    own = plan._replace(experiment=plan.experiment._replace(config=config))
    assert protocol.for_method(own, "anil").config.hyper["steps"] == 2
    assert protocol.for_method(own, "maml").config.hyper["steps"] != 2
    facts, plain = bench.plan_facts(own)["config"], bench.plan_facts(plan)["config"]
    assert (facts["algorithm"], facts["hyper"]) == ("anil", {"steps": 2})
    assert not {"algorithm", "hyper"} & set(plain)


def test_raw_centroid_is_the_nearest_class_mean_of_pixels(plan: Plan) -> None:
    """By NumPy, on an episode of the plan: no network of the shared backbone is in it."""
    judged = plans.judged_at(plan, "test", 3)
    episode = jax.jit(judged.sampler)(judged.keys[0], judged.pool)
    learner = protocol.for_method(plan, "raw_centroid").learner
    key = jax.random.key(0)
    adapted = learner.adapt(learner.init(key, episode.support.x), episode.support, key)
    logits = np.asarray(learner.predict(adapted, episode.query.x, episode.query.mask))
    x, y = (np.asarray(part)[np.asarray(episode.support.mask)] for part in episode.support[:2])
    means = np.stack([x[y == way].reshape((y == way).sum(), -1).mean(0) for way in (0, 1)])
    query = np.asarray(episode.query.x).reshape(len(logits), -1)
    distance = ((query[:, None] - means) ** 2).sum(-1)
    there = np.asarray(episode.query.mask)
    np.testing.assert_array_equal(logits.argmax(-1)[there], distance.argmin(-1)[there])
    # Its logits are the negative squared distances but for a factor and a shift of both.
    gaps = [np.diff(of)[there, 0] for of in (logits, -distance)]
    np.testing.assert_allclose(gaps[0] / gaps[1], (gaps[0] / gaps[1])[0], rtol=1e-4)


def rows_of(folder: Path) -> dict[str, Any]:
    return {path.name: path.read_text(encoding="utf-8") for path in (folder / "rows").iterdir()}


@pytest.mark.slow
def test_the_folder_goes_on_where_it_was(plan: Plan, tmp_path: Path) -> None:
    """Stopped after a row and called again: the rows of one go, but for their seconds."""
    wanted = ("protonet", "nearest_centroid", "scratch")
    asked: list[int] = []

    def after_one() -> bool:
        asked.append(0)
        return len(asked) > 1

    part = bench.bench_methods(plan, wanted, tmp_path / "a", after_one)
    assert list(rows_of(tmp_path / "a")) == ["protonet-seed0.json"]
    assert len(part["results"]) == 2
    again = bench.bench_methods(plan, wanted, tmp_path / "a", lambda: False)
    whole = bench.bench_methods(plan, wanted, tmp_path / "b", lambda: False)

    def without_seconds(found: dict[str, Any]) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in found["results"]]

    assert without_seconds(again) == without_seconds(whole)
    names = [row["learner"] for row in whole["results"]]
    assert sorted(names) == sorted(2 * wanted)
    assert names[0] == "protonet"
    written = json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    assert written["results"] == json.loads(json.dumps(again["results"]))
    assert "| scratch |" in (tmp_path / "a" / "results.md").read_text(encoding="utf-8")


def test_rows_of_another_plan_are_refused(plan: Plan, tmp_path: Path) -> None:
    bench.open_folder(tmp_path, plan)
    other = plan._replace(shots=(1, 2))
    with pytest.raises(ConfigError, match=r"holds rows of another plan \(shots differ\)"):
        bench.open_folder(tmp_path, other)


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "maml-seed0.json").write_text("{", encoding="utf-8")
    with pytest.raises(bench.RunError, match=r"maml-seed0.json: cannot be read .* delete it"):
        bench.kept_rows(tmp_path)


def test_an_inner_rate_is_chosen_by_short_trainings_that_are_told(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where what they come to is given by hand."""
    fits: list[tuple[float, int]] = []

    def fit(self: protocol.Trainer, made: Any, steps: int) -> protocol.Trained:
        rate = made.config.hyper["inner_lr"]
        fits.append((round(rate, 4), steps))
        return protocol.Trained(made, None, 0.5 if len(fits) == 1 else 0.4, {})

    monkeypatch.setattr(protocol.Trainer, "fit", fit)
    budget = dataclasses.replace(plan.budget, searches=True, meta_steps=8)
    trainer = protocol.Trainer(plan._replace(budget=budget))
    settings = trainer.train("maml", 0).settings
    assert fits == [(0.0333, 2), (0.1, 2), (0.3, 2), (0.0333, 8)]
    assert settings["inner_lr"] == min(settings["of"]["inner_lr"])
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "tried      maml, inner_lr 0.0333: 50.0 on meta-validation"
    assert len(told) == 3


@pytest.mark.slow
def test_a_search_takes_the_best_on_meta_validation(plan: Plan) -> None:
    """Rates and steps of scratch at each shot, named with what they were chosen from."""
    searching = plan._replace(budget=dataclasses.replace(plan.budget, searches=True))
    trained = protocol.Trainer(searching).train("scratch", 0)
    scores, chosen = protocol.judge(searching, "scratch", trained, 3)
    rates, steps = protocol.AT_META_TEST["scratch"]
    assert chosen["inner_lr"] in rates
    assert chosen["steps"] in steps
    assert chosen["of"] == {"inner_lr": rates, "steps": steps}
    assert len(scores.per_episode["accuracy"]) == BUDGET.test_episodes
