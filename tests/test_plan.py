"""What a comparison gives every method alike, and which rows it makes: nothing is trained."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import pytest

from medmeta_jax import plan as plans, protocol
from medmeta_jax.data.samples import DataError
from medmeta_jax.plan import BUDGETS, Budget, Plan
from medmeta_jax.settings import ConfigError, TrainConfig

from .conftest import write_toy

BUDGET = Budget(4, 40, 2, 2, False, 4, 6)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    path = write_toy(tmp_path_factory.mktemp("plan") / "toy.npz")
    return TrainConfig(data=str(path), image_size=8, ways=2, queries=3, augment=())


@pytest.fixture(scope="module")
def plan(toy: TrainConfig) -> Plan:
    return plans.make_plan(toy, BUDGET, (3, 1, 3))


def test_budgets_are_those_that_the_help_tells_of() -> None:
    """Channels, training episodes, seeds, searches, episodes judged."""
    told = {"small": (8, 160, 1, False, 100), "medium": (16, 1600, 3, True, 200),
            "full": (64, 8000, 3, True, 600)}  # fmt: skip
    for name, expected in told.items():
        b = BUDGETS[name]
        found = (b.width, b.meta_steps * b.meta_batch, b.seeds, b.searches, b.test_episodes)
        assert found == expected
    assert plans.budget_of("medium", None) == BUDGETS["medium"]
    assert plans.budget_of("medium", 5) == dataclasses.replace(BUDGETS["medium"], seeds=5)
    with pytest.raises(ConfigError, match="seeds: must be >= 1, got 0"):
        plans.budget_of("small", 0)


def test_the_reference_goes_first_and_no_method_twice() -> None:
    chosen = plans.chosen_methods(("protonet", "maml", "protonet"))
    assert chosen == ("maml", "protonet")


def test_the_experiment_is_the_budgets(plan: Plan) -> None:
    config = plan.experiment.config
    assert plan.shots == (1, 3)
    assert config.shots == (1, 3)
    assert (config.meta_steps, config.meta_batch) == (40, 2)
    assert (config.validate_every, config.dispatch) == (10, 25)
    assert (config.val_episodes, config.test_episodes) == (4, 6)
    assert config.net["width"] == 4


@pytest.mark.parametrize(
    ("asked", "trained"), [((1, 9), (1, 5)), ((7,), 7), ((2,), 2), ((7, 9), 7), ((5, 2), (2, 5))]
)
def test_training_draws_from_the_shots_that_are_judged(
    toy: TrainConfig, monkeypatch: pytest.MonkeyPatch, asked: Any, trained: Any
) -> None:
    seen: list[TrainConfig] = []

    class Seen(Exception): ...

    def build(config: TrainConfig) -> None:
        seen.append(config)
        raise Seen

    monkeypatch.setattr(plans.experiments, "build", build)
    wide = dataclasses.replace(toy, net={"width": 6})
    with pytest.raises(Seen):
        plans.make_plan(wide, dataclasses.replace(BUDGET, meta_steps=3), asked)
    assert seen[0].shots == trained
    assert (seen[0].dispatch, seen[0].validate_every) == (3, 1), "of no more steps than there are"
    assert seen[0].net == {"width": 6}, "as asked, over the budget's"


@pytest.mark.parametrize("shots", [(), (0,), (1, -1)])
def test_shots_are_checked(toy: TrainConfig, shots: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="shots: must be one or more numbers >= 1"):
        plans.make_plan(toy, BUDGET, shots)


def test_more_shots_than_a_side_has_are_refused(
    toy: TrainConfig, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the most that are judged, of both sides that are; training needs the few alone."""
    with pytest.raises(DataError, match=r"meta-val: class .* has too few images: 12"):
        plans.make_plan(toy, BUDGET, (1, 12))
    pools = plan.experiment.split.pools
    few = pools["test"]._replace(rows=pools["test"].rows[:, :3])
    split = plan.experiment.split._replace(pools={**pools, "test": few})
    monkeypatch.setattr(plans.experiments, "build", lambda _: plan.experiment._replace(split=split))
    with pytest.raises(DataError, match=r"meta-test: class .* has too few images: 3"):
        plans.make_plan(toy, BUDGET, (1, 3))


def test_each_side_is_judged_on_its_own_images(plan: Plan) -> None:
    for side, of in (("val", plan.experiment.val), ("test", plan.experiment.test)):
        judged = plans.judged_at(plan, side, 3)
        assert judged.pool.pool is of.pool
        assert judged.keys is of.keys


def test_methods_get_the_shared_backbone_and_their_phases(plan: Plan) -> None:
    made = {name: protocol.for_method(plan, name) for name in ("scratch", "raw_centroid", "pmf")}
    assert made["scratch"].config.algorithm == "finetune"
    assert made["scratch"].backbone is plan.experiment.backbone
    assert made["raw_centroid"].backbone is not plan.experiment.backbone
    assert made["pmf"].config.hyper["pretrain_steps"] == 20
    assert protocol.for_method(plan, "maml_plus_plus").config.hyper["multi_step"] == 13
    assert protocol.for_method(plan, "pmf", pretrain_steps=3).config.hyper["pretrain_steps"] == 3


class Fits:
    """In place of training: what was asked for, and a score of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, float | None, int, int]] = []
        self.compiled: list[Any] = []
        monkeypatch.setattr(protocol.running, "compile_step", self.compile_step)
        monkeypatch.setattr(protocol.running, "fit_quietly", self.fit)

    def compile_step(self, made: Any, learner: Any) -> Any:
        self.compiled.append(learner)
        return types.SimpleNamespace(step=("step of", learner))

    def fit(self, made: Any, step: Any, *, meta_steps: int, inner_steps: int | None) -> Any:
        assert step == ("step of", made.training)
        assert inner_steps == made.config.hyper.get("steps")
        rate = made.config.hyper.get("inner_lr")
        self.calls.append((made.config.algorithm, rate, made.config.seed, meta_steps))
        score = 1 - abs((rate or 0) - 0.3)  # best at three times maml's rate of 0.1
        return types.SimpleNamespace(best_params=("best", len(self.calls)), best_score=score)


def searching(plan: Plan) -> Plan:
    return plan._replace(budget=dataclasses.replace(plan.budget, searches=True))


def test_a_rate_is_chosen_once_by_a_quarter_of_the_budget(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = Fits(monkeypatch)
    trainer = protocol.Trainer(searching(plan))
    found = [trainer.train("maml", seed) for seed in (0, 1)]
    rates = [pytest.approx(rate) for rate in (0.1 / 3, 0.1, 0.3)]
    assert fits.calls == [
        *(("maml", rate, 0, 10) for rate in rates),
        ("maml", rates[2], 0, 40), ("maml", rates[2], 1, 40),
    ]  # fmt: skip
    assert len(fits.compiled) == 3, "one program for all seeds, and for what was tried last"
    assert [one.params for one in found] == [("best", 4), ("best", 5)]
    assert found[0].score == pytest.approx(1)
    assert found[1].settings == {"inner_lr": rates[2], "of": {"inner_lr": rates}}
    assert [one.experiment.config.seed for one in found] == [0, 1]


@pytest.mark.parametrize("method", ["pmf", "baseline_plus_plus", "protonet"])
def test_what_is_chosen_at_meta_test_or_has_no_rate_is_trained_once(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fits = Fits(monkeypatch)
    assert protocol.Trainer(searching(plan)).train(method, 1).settings == {}
    assert [(name, seed, steps) for name, _, seed, steps in fits.calls] == [(method, 1, 40)]


def test_without_a_search_defaults_are_trained(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(monkeypatch)
    protocol.Trainer(plan).train("maml", 0)
    assert fits.calls == [("maml", 0.1, 0, 40)]


def test_a_classifier_is_trained_once_a_seed(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(monkeypatch)
    trainer = protocol.Trainer(plan)
    for seed in (0, 1):
        found = [trainer.train(method, seed) for method in protocol.CLASSIFIER]
        assert [one.experiment.config.algorithm for one in found] == list(protocol.CLASSIFIER)
        assert {one.experiment.config.seed for one in found} == {seed}
        assert {one.params for one in found} == {("best", seed + 1)}
    assert [call[2:] for call in fits.calls] == [(0, 40), (1, 40)]


@pytest.mark.parametrize("searches", [False, True])
def test_settings_are_chosen_on_meta_validation_where_the_budget_searches(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, searches: bool
) -> None:
    plan = searching(plan) if searches else plan
    made = protocol.for_method(plan, "pmf")
    trained = protocol.Trained(made, "params", 0.5, {"of": "training"})
    asked: list[Any] = []

    def searched(family: Any, params: Any, val: Any, test: Any, rates: Any, steps: Any) -> Any:
        asked.append((params, val.pool.pool, test.pool.pool, rates, steps))
        return "scores", {"inner_lr": 7.0}

    def evaluate(learner: Any, params: Any, test: Any, *, steps: Any) -> str:
        assert learner is made.learner
        assert test.pool.pool is plan.experiment.test.pool
        assert steps == made.config.hyper.get("steps")
        return "scores"

    monkeypatch.setattr(protocol.baselines, "searched", searched)
    monkeypatch.setattr(protocol, "evaluate", evaluate)
    scores, settings = protocol.judge(plan, "pmf", trained, 3)
    assert scores == "scores"
    pools = plan.experiment.val.pool, plan.experiment.test.pool
    if searches:
        assert asked == [("params", *pools, (0.001, 0.01, 0.1), (5, 10))]
        assert settings == {**made.config.hyper, "inner_lr": 7.0}
        protocol.judge(plan, "pmf", trained, 3, counts=(5,))
        assert asked[1:] == [("params", *pools, (0.001, 0.01, 0.1), (5,))]
    else:
        assert asked == []
        assert settings == {**made.config.hyper, "of": "training"}


@pytest.mark.slow
def test_rows_are_of_every_method_and_seed_that_is_not_done(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = protocol.for_method(plan, "maml")
    judged: list[tuple[str, int]] = []

    def train(self: Any, method: str, seed: int) -> protocol.Trained:
        score = float("nan") if method == "scratch" else 0.5 + seed
        return protocol.Trained(made, None, score, {})

    def judge(plan: Plan, method: str, trained: Any, shots: int) -> Any:
        judged.append((method, shots))
        scores = types.SimpleNamespace(
            every=lambda: {"accuracy": [shots]}, by_classes=(0.0, 1.0), pooled=dict
        )
        return scores, {"shots": shots}

    monkeypatch.setattr(protocol.Trainer, "train", train)
    monkeypatch.setattr(protocol, "judge", judge)
    found = dict(protocol.rows(plan, ("maml", "scratch"), {"maml-seed0"}))
    assert list(found) == ["maml-seed1", "scratch-seed0", "scratch-seed1"]
    assert judged == [
        (method, shots) for method in ("maml", "scratch", "scratch") for shots in (1, 3)
    ]
    assert [row["meta_validation"] for row in found.values()] == [1.5, None, None]
    assert [(row["method"], row["seed"]) for row in found.values()] == [
        ("maml", 1), ("scratch", 0), ("scratch", 1),
    ]  # fmt: skip
    for count, of in found["maml-seed1"]["shots"].items():
        assert of["scores"] == {"accuracy": [int(count)]}
        assert of["chosen"] == {"shots": int(count)}
    assert protocol.facts(plan)["shots"] == 3
