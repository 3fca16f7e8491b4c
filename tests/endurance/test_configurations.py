"""Ten thousand random configurations: each is refused by a message that names its field, or works.

Those that are accepted are built, and two hundred of them traced as `--dry-run` does: the whole
training step is lowered, and nothing is compiled, which would take hours.
"""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import pytest

from medmeta_jax import config as configs, experiment as experiments, registry, running
from medmeta_jax.data.samples import DataError
from medmeta_jax.runs import RunError
from medmeta_jax.settings import ConfigError, TrainConfig

from ..test_cli import archive  # noqa: F401  (a fixture)

pytestmark = pytest.mark.endurance
VALIDATED, TRACED = 10_000, 200
JUNK = (None, True, -1, 0, 3, 1e9, float("nan"), "x", (), (1, 2), ("x",), {})
# What a field of these types may sensibly be, junk apart.
NUMBERS: dict[str, tuple[Any, ...]] = {
    "ways": (2, 3, (2, 3)), "shots": (1, 2, (1, 2)), "queries": (1, 2, 5), "image_size": (8, 12),
    "meta_batch": (2, 4, 6), "devices": (1, 2, 3), "chunk": (1, 2), "dispatch": (1, 5),
    "validate_every": (1, 7), "val_episodes": (2,), "test_episodes": (2,), "meta_steps": (3, 20),
    "patience": (0, 2), "mix_alpha": (0.5, 1.0), "outer_lr": (1e-3,), "clip": (0.0, 1.0),
    "worst_share": (0.25, 0.5, 1.0), "domain_rate": (0.1,), "shrink": (0.5,), "seed": (0, 7),
    "augment": ((), ("flip",), ("rotate", "noise")), "policy": ((), ("noise",), ("flip",)),
    "mixing": ((), (1.0,), (1.0, 2.0)), "modalities": ((), ("t1", "t2")),
    "val_classes": ((), ("class0", "class1", "class2")),
    "test_classes": ((), ("class3", "class4", "class5")),
}  # fmt: skip
LEFT = {
    "data", "read", "also", "meta_val", "meta_test", "covariates", "split", "init_from", "hyper",
    "net", "algorithm", "backbone", "tensorboard", "on_error",
}  # fmt: skip
FIELDS = {field.name for field in dataclasses.fields(TrainConfig)}
ARGUMENTS = {
    name
    for folder in ("algorithms", "backbones")
    for file in registry.names(folder)
    for name in registry.defaults(folder, file)
}


def draw(rng: random.Random, data: str) -> dict[str, Any]:
    """A configuration: most fields as they are, some another sensible value, few rubbish."""
    algorithm = rng.choice([*registry.names("algorithms")])
    backbone = rng.choice(["conv4"] * 6 + [*registry.names("backbones"), "conv5"])
    values: dict[str, Any] = {
        "data": data, "algorithm": algorithm, "backbone": backbone, "image_size": 8, "queries": 2,
        "meta_steps": 3, "val_episodes": 2, "test_episodes": 2, "baselines": "none", "augment": (),
        "net": {"width": 4, "depth": 2} if backbone == "conv4" else {},
    }  # fmt: skip
    hints = get_type_hints(TrainConfig)
    for name in sorted(FIELDS - LEFT):
        chance = rng.random()
        if chance < 0.1:
            choices = NUMBERS.get(name) or get_args(hints[name]) or (True, False)
            values[name] = rng.choice(choices)
        elif chance < 0.11:
            values[name] = rng.choice(JUNK)
    known = registry.defaults("algorithms", algorithm)
    if known and rng.random() < 0.3:
        name = rng.choice(list(known))
        values["hyper"] = {name: rng.choice((known[name], 1, 2, 0.1, -1, "x"))}
    return values


def require_named(error: Exception, drawn: Any) -> None:
    """Its message names a field, an argument of the algorithm or the backbone, or a side of the
    data."""
    words = set(re.findall(r"[a-z_0-9]+", str(error)))
    if not words & (FIELDS | ARGUMENTS | {"algorithms", "backbones", "meta"}):
        raise AssertionError(f"{error!r} names no field of {drawn}")


@pytest.mark.filterwarnings("ignore")
def test_each_is_refused_by_field_or_works(archive: Path) -> None:  # noqa: F811
    rng, refused, accepted, traced = random.Random(0), 0, [], 0
    for _ in range(VALIDATED):
        values = draw(rng, str(archive))
        try:
            accepted.append(configs.check(configs.from_mapping(values, TrainConfig(), "drawn")))
        except ConfigError as error:
            refused += 1
            require_named(error, values)
    assert len(accepted) > VALIDATED / 10
    late = 0
    for config in rng.sample(accepted, len(accepted)):
        if traced == TRACED:
            break
        try:
            made = experiments.build(config)
            experiments.check_fits(made)
        except (ConfigError, DataError, RunError) as error:
            late += 1
            require_named(error, config)
            continue
        lower(made)
        traced += 1
    assert traced == TRACED
    print(f"{VALIDATED} drawn: {refused} refused at once, of the others {late} by their data or by "
          f"tracing before {TRACED} were lowered")  # fmt: skip


def lower(made: experiments.Experiment) -> None:
    """The training step, to the program that would be compiled."""
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(lambda: running.initial_progress(made, made.training).state)
        step = running.make_step(made, made.training, made.config.chunk or 1)
        step.lower(state, made.feed.like, jax.ShapeDtypeStruct((), jnp.int32))
