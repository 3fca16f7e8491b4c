"""A learned augmentation from a configuration to a table, and what it is refused with."""

from __future__ import annotations

import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import chex
import jax
import pytest

from medmeta_jax import experiment as experiments, learners, registry, running, tables
from medmeta_jax.augment._policy import by_step, with_policy
from medmeta_jax.config import check
from medmeta_jax.labels import CLASSES
from medmeta_jax.settings import ConfigError, TrainConfig

from .conftest import make_episode, write_toy

CONFIG = TrainConfig(
    image_size=8, ways=3, queries=3, algorithm="anil", hyper={"steps": 1},
    net={"width": 4, "depth": 2}, augment=(), policy=("noise", "brighten"), meta_steps=4,
    meta_batch=2, validate_every=4, dispatch=4, val_episodes=4, test_episodes=4,
    baselines="none",
)  # fmt: skip


BY: dict[str, tuple[dict[str, Any], list[str]]] = {
    "task": ({}, ["noise", "brighten"]),
    "step": (
        {"algorithm": "maml", "hyper": {"steps": 2}, "policy_by": "step"},
        ["noise 1", "noise 2", "brighten 1", "brighten 2"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("by", BY)
def test_from_a_configuration_to_a_table(by: str, tmp_path: Path) -> None:
    changes, names = BY[by]
    config = dataclasses.replace(CONFIG, data=str(write_toy(tmp_path / "toy.npz")), **changes)
    made = experiments.build(config)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with an int count
        step = running.compile_step(made, made.training).step
        before = running.initial_progress(made, made.training).state.params
        after = running.fit_quietly(made, step).state.params
        assert [row.learner for row in running.judge(made, after)] == [config.algorithm]
    old, new = (running.by_policy(made, params) for params in (before, after))
    assert new["default"] == {name: 0.1 if "noise" in name else 0.3 for name in names}
    assert sum(new["share"].values()) == pytest.approx(len(names) / 2)
    assert list(new["magnitude"]) == names
    for name in names:
        assert new["magnitude"][name] != old["magnitude"][name], "they are learned"
    assert running.by_policy(made._replace(config=dataclasses.replace(config, policy=())), {}) == {}
    out = io.StringIO()
    print("\n".join(tables.policy_lines(new)), file=out)
    assert all(name in out.getvalue() for name in (*names, "none"))


@pytest.mark.parametrize("by", BY)
def test_each_image_has_so_many_copies(by: str) -> None:
    """The configured learner is the very one with three copies, and not that with one."""
    plain = {"backbone": "pixels", "norm": "none", "net": {}, "policy_copies": 3}
    config = check(dataclasses.replace(CONFIG, **plain, **BY[by][0]))
    backbone, ops = learners.make_backbone(config), learners.policy_ops(config)
    made = learners.make_learner(config, backbone, outputs=3, classes=9, kind=CLASSES)
    make = functools.partial(
        registry.factory("algorithms", config.algorithm), backbone, outputs=3, **config.hyper
    )
    support, key = make_episode().support, jax.random.key(0)
    params = made.init(key, support.x)

    def adapted(copies: int) -> Any:
        if by == "step":
            return by_step(make, ops, steps=2, copies=copies).adapt(params, support, key)
        return with_policy(make(), ops, copies=copies).adapt(params, support, key)

    found = made.adapt(params, support, key)
    chex.assert_trees_all_close(found, adapted(3), rtol=1e-5)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(found, adapted(1), rtol=1e-3)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"policy": ("spin",)}, "policy: no 'spin'"),
    "chance": ({"policy": ("flip",)}, "policy: flip is drawn by chance"),
    "twice": ({"policy": ("noise", "noise")}, "policy: ops must differ"),
    "reptile": ({"algorithm": "reptile", "hyper": {}}, "policy: reptile holds"),
    "first": ({"algorithm": "maml", "hyper": {"order": "first"}}, "policy: maml holds"),
    "alone": ({"policy": (), "policy_by": "step"}, "policy_by: is of a learned augmentation"),
    "copies": ({"policy_copies": 0}, "policy_copies: must be >= 1, got 0"),
    "step": ({"policy_by": "step"}, "policy_by: step is of maml.*anil takes task"),
    "covariates": ({"covariates": "t.csv"}, "policy: is of images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_is_refused(name: str) -> None:
    change, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        check(dataclasses.replace(CONFIG, **change))
