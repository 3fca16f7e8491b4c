"""The configuration of a training run, from preset, file and flags; the last wins.

A configuration is valid when `check` returns it. What a learner, a backbone or a data source may
be told (`hyper`, `net`, `read`) is read from its factory's keyword arguments, so a new file in
`algorithms/`, `backbones/` or `data/` needs no line here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from medmeta_jax import registry
from medmeta_jax.hints import describe, fits, suggest
from medmeta_jax.settings import ConfigError, TrainConfig

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "anatomy"
# Algorithms whose meta-gradient does not reach the support, and ops without a derivative.
FIRST_ORDER = ("fomaml", "reptile")
# Those whose scalar to differentiate is another than the loss of the query set.
SURROGATES = ("reptile", "maml_plus_plus", "panet")
BY_CHANCE = ("flip", "drop_modalities", "recontrast")
# Set by other fields of the configuration, hence not hyper-parameters of a run.
BOUND = {"norm", "form", "pool_classes", "outputs"}
FIELDS = {field.name for field in dataclasses.fields(TrainConfig)}


def from_mapping(values: Mapping[str, Any], base: TrainConfig, where: str) -> TrainConfig:
    """`base` with the fields that `values` names; `where` names its origin in errors."""
    changes = dict(values)
    for name in changes.keys() - FIELDS:
        raise ConfigError(f"{where}: no field {name!r}{suggest(name, FIELDS)}")
    for name, kind in (("hyper", "algorithm"), ("net", "backbone"), ("read", "data")):
        given = changes.get(name, {})
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}: {name} must be a mapping, got {given!r}")
        # Arguments of one algorithm mean nothing to another: naming a new one drops them.
        same = changes.get(kind, getattr(base, kind)) == getattr(base, kind)
        changes[name] = {**(getattr(base, name) if same else {}), **given}
    if changes.get("data", base.data) != base.data:  # nor do the classes of one data set
        changes = {"val_classes": (), "test_classes": (), **changes}
    for name, value in changes.items():
        if isinstance(value, list):
            changes[name] = tuple(value)
    return dataclasses.replace(base, **changes)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; ConfigError naming the file where it does not."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of fields, got {type(values).__name__}")
    return values


def preset_names() -> tuple[str, ...]:
    """The presets that come with the package."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def names_data(preset: str) -> bool:
    """Whether a preset says what to train on."""
    return "data" in read_yaml(PRESETS / f"{preset}.yaml")


def load(preset: str | None, file: str | None) -> TrainConfig:
    """Defaults, then the preset, then the file."""
    config = TrainConfig()
    if preset is not None:
        if preset not in preset_names():
            raise ConfigError(f"preset: no {preset!r}; there are {', '.join(preset_names())}")
        config = from_mapping(read_yaml(PRESETS / f"{preset}.yaml"), config, f"preset {preset}")
    if file is not None:
        config = from_mapping(read_yaml(Path(file)), config, file)
    return config


def options(folder: str, name: str) -> dict[str, Any]:
    """What a configuration may tell a factory, with the factory's own defaults."""
    known = registry.names(folder)
    if name not in known:
        raise ConfigError(f"{folder}: no {name!r}{suggest(name, known)}")
    found = registry.defaults(folder, name)
    return {key: value for key, value in found.items() if key not in BOUND}


LEAST = {
    "image_size": 4, "ways": 2, "shots": 1, "queries": 1, "meta_steps": 1, "meta_batch": 1,
    "chunk": 1, "devices": 1, "validate_every": 1, "val_episodes": 2, "patience": 0, "dispatch": 1,
    "test_episodes": 2, "seed": 0, "clip": 0, "policy_copies": 1,
}  # fmt: skip


def check(config: TrainConfig) -> TrainConfig:
    """The configuration with `hyper` and `net` filled in, or ConfigError naming the field.

    Values of `hyper` and `net` are checked further by their factories; what can be seen
    without data or devices is checked here.
    """
    for name, hint in get_type_hints(TrainConfig).items():
        value = getattr(config, name)
        if not fits(value, hint):
            raise ConfigError(f"{name}: must be {describe(hint)}, got {value!r}")
        parts = value if isinstance(value, tuple) else (value,)
        if name in LEAST and any(part is not None and part < LEAST[name] for part in parts):
            raise ConfigError(f"{name}: must be >= {LEAST[name]}, got {value}")
    for name in ("ways", "shots"):
        value = getattr(config, name)
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ConfigError(f"{name}: must be lowest and highest, got {value}")
    if config.mixing and (len(config.mixing) != 1 + len(config.also) or min(config.mixing) <= 0):
        raise ConfigError(
            f"mixing: must be a number above 0 for data and each of also, got {config.mixing}"
        )
    if config.split is not None and (config.also or config.meta_val or config.meta_test):
        raise ConfigError("split: is of one data set; give it without also, meta_val and meta_test")
    check_modalities(config)
    if config.task == "lesions":
        check_lesions(config)
    if config.covariates:
        check_covariates(config)
    if config.task == "patient" and (config.also or config.split or config.rotate_classes):
        raise ConfigError(
            "task: patient splits the patients of one data set; give it without also, split and "
            "rotate_classes"
        )
    if config.val_classes or config.test_classes:
        check_held_out(config)
    if not 0 < config.shrink <= 1:
        raise ConfigError(f"shrink: must be > 0 and <= 1, got {config.shrink}")
    if config.outer_lr <= 0:
        raise ConfigError(f"outer_lr: must be > 0, got {config.outer_lr}")
    share = config.meta_batch
    if config.devices is not None:
        if config.meta_batch % config.devices:
            raise ConfigError(
                f"devices: must divide meta_batch {config.meta_batch}, got {config.devices}"
            )
        share //= config.devices
    if config.chunk is not None and share % config.chunk:
        raise ConfigError(f"chunk: must divide {share} episodes a device, got {config.chunk}")
    for name in ("augment", "policy"):
        for op in getattr(config, name):
            if op not in registry.names("augment"):
                raise ConfigError(f"{name}: no {op!r}{suggest(op, registry.names('augment'))}")
    check_policy(config)
    if config.augment and config.augment_on == "shot":
        for name in ("covariates", "modalities", "policy"):
            if getattr(config, name):
                raise ConfigError(f"augment_on: shot copies images; leave out {name}")
        if "recontrast" in config.augment:
            raise ConfigError("augment: recontrast is of meta-training; take another augment_on")
    config = dataclasses.replace(
        config,
        hyper=filled(
            "hyper", config.hyper, options("algorithms", config.algorithm), config.algorithm
        ),
        net=filled("net", config.net, options("backbones", config.backbone), config.backbone),
    )
    if config.mix != "none":
        check_mix(config)
    if config.teacher is not None and (config.mix != "none" or config.policy):
        other = "policy" if config.policy else "mix"
        raise ConfigError(f"teacher: answers episodes as they are; leave out {other}")
    return config


def check_modalities(config: TrainConfig) -> None:
    """ConfigError where what is said of modalities does not fit together."""
    if len(set(config.modalities)) < len(config.modalities):
        raise ConfigError(f"modalities: must differ, got {' '.join(config.modalities)}")
    if config.modalities and config.stream == "always":
        raise ConfigError("stream: images of several modalities are put together in memory")
    if config.modalities and config.task == "detection":
        raise ConfigError("modalities: objects are found in images of one modality")
    if config.modalities and config.standardise:
        raise ConfigError("standardise: is of images of one modality")
    if "drop_modalities" in config.augment and not config.modalities:
        raise ConfigError("augment: drop_modalities takes channels away; name modalities")


def check_lesions(config: TrainConfig) -> None:
    """ConfigError where tasks of lesions are asked for with what is not for them."""
    others = {
        "also": config.also, "meta_val": config.meta_val, "meta_test": config.meta_test,
        "split": config.split, "modalities": config.modalities,
        "rotate_classes": config.rotate_classes, "stream": config.stream == "always",
        "within": config.within == "domain",
    }  # fmt: skip
    given = [name for name, value in others.items() if value]
    if given:
        raise ConfigError(
            f"{given[0]}: task lesions is of one data set in memory, whose images without a lesion "
            "stand on every side; leave it out"
        )


def check_policy(config: TrainConfig) -> None:
    """ConfigError where an augmentation is to be learned that no gradient reaches, or is told of
    and not asked for."""
    if not config.policy:
        for name in ("policy_how", "policy_by", "policy_copies"):
            if getattr(config, name) != getattr(TrainConfig, name):
                raise ConfigError(f"{name}: is of a learned augmentation; name its ops by policy")
        return
    for op in config.policy:
        if op in BY_CHANCE:
            raise ConfigError(f"policy: {op} is drawn by chance, and has no magnitude to learn")
    if len(set(config.policy)) < len(config.policy):
        raise ConfigError(f"policy: ops must differ, got {' '.join(config.policy)}")
    if config.algorithm in FIRST_ORDER or config.hyper.get("order") == "first":
        raise ConfigError(
            f"policy: {config.algorithm} holds what the support does constant (a first-order "
            "gradient), which teaches an augmentation nothing; take a second-order method"
        )
    if config.covariates or config.modalities:
        raise ConfigError("policy: is of images; leave out covariates and modalities")
    if config.policy_by == "step" and not registry.takes("algorithms", config.algorithm, "view"):
        raise ConfigError(
            f"policy_by: step is of maml, whose inner steps look at the images again; "
            f"{config.algorithm} takes task"
        )


def check_mix(config: TrainConfig) -> None:
    """ConfigError where images or tasks are to be mixed that cannot be."""
    if config.mix_alpha <= 0:
        raise ConfigError(f"mix_alpha: must be > 0, got {config.mix_alpha:g}")
    if config.covariates or config.modalities:
        raise ConfigError("mix: is of images; leave out covariates and modalities")
    if "pool_classes" in registry.defaults("algorithms", config.algorithm):
        raise ConfigError(
            f"mix: {config.algorithm} pre-trains on the pool's own classes, and of two mixed there "
            "is none"
        )
    if config.mix == "mlti" and config.baselines == "all":
        raise ConfigError("mix: mlti would mix what baselines all pre-trains on; take some")
    if config.mix == "mlti" and config.stream == "always":
        raise ConfigError("mix: mlti draws two episodes from memory; leave out stream")
    if config.mix != "mlti" and config.algorithm in SURROGATES:
        raise ConfigError(
            f"mix: {config.algorithm}'s loss is not that of its queries after adapting alone; take "
            "mlti, or another method"
        )


def check_covariates(config: TrainConfig) -> None:
    """ConfigError where covariates are asked for with what they are not for."""
    if config.also or config.meta_val or config.meta_test:
        raise ConfigError(
            "covariates: are of the patients of one data set; leave out also, meta_val, meta_test"
        )
    if config.stream == "always" or config.task == "detection":
        raise ConfigError("covariates: are of images in memory, with their labels or masks")


def check_held_out(config: TrainConfig) -> None:
    """ConfigError where classes are named for a side that has its classes from elsewhere, or only
    for one of two."""
    if config.also or config.split is not None:
        raise ConfigError(
            "val_classes, test_classes: are of one data set without a split file; leave out "
            f"{'also' if config.also else 'split'}"
        )
    for side in ("val", "test"):
        named = getattr(config, f"{side}_classes")
        if bool(named) == bool(getattr(config, f"meta_{side}")):
            what = f"leave out it or meta_{side}" if named else "name one or more, as for the other"
            raise ConfigError(f"{side}_classes: {what}")


def filled(
    field: str, given: Mapping[str, Any], allowed: Mapping[str, Any], who: str
) -> dict[str, Any]:
    """The arguments that `who` may be told, each with its default, with the given values, each of
    its default's type (ConfigError)."""
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    for key, value in given.items():
        if key not in allowed:
            there = suggest(key, allowed) if allowed else ""
            raise ConfigError(f"{field}.{key}: {who} has no such argument{there}")
        if not fits(value, type(allowed[key])):
            wanted = describe(type(allowed[key]))
            raise ConfigError(f"{field}.{key}: must be {wanted}, got {value!r}")
    return {**allowed, **given}


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as YAML and JSON can hold it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(inside) for key, inside in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
