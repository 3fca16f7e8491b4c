"""Configuration: the last source wins, and nothing invalid gets through."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from medmeta_jax import config as configs, parsing
from medmeta_jax.config import check, from_mapping, load
from medmeta_jax.settings import ConfigError, TrainConfig


def test_preset_then_file_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("meta_steps: 7\nshots: [1, 5]\nhyper: {inner_lr: 0.3}\n")
    config, flags = parsing.parse_train(
        ["--preset", "anatomy", "--config", str(file), "--meta-steps", "9", "--hyper.steps", "2"]
    )
    assert config.augment == load("anatomy", None).augment  # from the preset
    assert config.shots == (1, 5)  # from the file
    assert config.hyper["inner_lr"] == 0.3
    assert config.meta_steps == 9  # from the flags
    assert config.hyper["steps"] == 2
    assert not flags.json


def test_no_flag_is_the_default_preset() -> None:
    assert parsing.parse_train([])[0] == check(load("anatomy", None))
    assert parsing.parse_train(["--data", "x"])[0].augment != parsing.parse_train([])[0].augment


def test_classes_are_of_the_data_that_they_were_named_with() -> None:
    """What a preset holds out is not looked for in other data."""
    preset = load("case-study", None)
    assert preset.test_classes
    assert preset.val_classes
    own = from_mapping({"data": "elsewhere"}, preset, "test")
    assert (own.test_classes, own.val_classes) == ((), ())
    assert from_mapping({"data": preset.data}, preset, "test").test_classes == preset.test_classes
    given = from_mapping({"data": "elsewhere", "test_classes": ["a"]}, preset, "test")
    assert (given.test_classes, given.val_classes) == (("a",), ())


def test_another_algorithm_has_its_own_arguments() -> None:
    config, _ = parsing.parse_train(["--algorithm", "protonet"])
    assert config.hyper == {}
    with pytest.raises(SystemExit) as error:
        parsing.parse_train(["--algorithm", "protonet", "--hyper.steps", "3"])
    assert error.value.code == 2


@pytest.mark.parametrize("name", configs.preset_names())
def test_presets_are_valid(name: str) -> None:
    text = (configs.PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# medmeta train"), "the head says the command, its time and score"
    check(load(name, None))


BAD = {
    "meta_stepz": (1, "no field 'meta_stepz'; did you mean meta_steps"),
    "meta_steps": (0, "meta_steps: must be >= 1, got 0"),
    "ways": (1, "ways: must be >= 2, got 1"),
    "shots": ([3, 1], "shots: must be lowest and highest"),
    "hyper": ({"stepz": 1}, r"hyper\.stepz: maml has no such argument; did you mean steps"),
    "net": ({"width": "wide"}, r"net\.width: must be a whole number, got 'wide'"),
    "norm": ("layer", "norm: must be one of batch, support, group, none, got 'layer'"),
    "augment": (["spin"], "augment: no 'spin'"),
    "algorithm": ("mamal", "algorithms: no 'mamal'"),
    "outer_lr": (float("nan"), "outer_lr: must be a number, got nan"),
    "clip": (-1.0, "clip: must be >= 0, got -1.0"),
    "chunk": (3, "chunk: must divide 4 episodes a device"),
    "seed": (True, "seed: must be a whole number, got True"),
    "disjoint": ("patient", "disjoint: must be one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_by_field(name: str) -> None:
    value, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        check(from_mapping({name: value}, TrainConfig(), "test"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("covariates", "t.csv"), ("modalities", ["t1", "t2"]), ("policy", ["noise"])],
)
def test_more_shots_are_of_images_alone(field: str, value: object) -> None:
    given = {"augment": ["rotate"], "augment_on": "shot", field: value}
    with pytest.raises(ConfigError, match=f"augment_on: shot copies images; leave out {field}"):
        check(from_mapping(given, TrainConfig(), "test"))


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    for text, message in (("[1, 2]", "must hold a mapping"), ("a: [", "not YAML")):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError, match=rf"c\.yaml: .*{message}"):
            load(None, str(tmp_path / "c.yaml"))
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load(None, str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match="preset: no 'x'; there are"):
        load("x", None)


JUNK: Any = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.floats(), st.text(max_size=5),
    st.lists(st.integers(-2, 9), max_size=3), st.dictionaries(st.text(max_size=3), st.integers()),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f.name for f in dataclasses.fields(TrainConfig)]), JUNK, max_size=4
    )
)
def test_junk_is_refused_or_valid(values: dict[str, Any]) -> None:
    """Either ConfigError, or a configuration that survives being written and read again."""
    try:
        config = check(from_mapping(values, TrainConfig(), "test"))
    except ConfigError:
        return
    again = check(from_mapping(configs.to_plain(config), TrainConfig(), "again"))
    assert again == config
