"""The configuration of a training run: dataclass, preset, file, flags; the last wins.

A configuration is valid when `check` returns it. What a learner, a backbone or a data source may
be told (`hyper`, `net`, `read`) is read from its factory's keyword arguments, so a new file in
`algorithms/`, `backbones/` or `data/` needs no line here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

from medmeta_jax import registry
from medmeta_jax.hints import describe, fits, suggest

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "anatomy"
BASELINES = ("untrained", "scratch", "raw-centroid")
PRETRAINED = ("pretrained-centroid", "pretrained-probe", "pretrained-finetune")
# Set by other fields of the configuration, hence not hyper-parameters of a run.
BOUND = {"norm", "form", "pool_classes", "outputs"}


class ConfigError(ValueError):
    """A configuration that cannot be run. The message names the field and the remedy."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Meta-train a learner, judge it on classes it has never seen, write a run directory.

    Defaults are shown as they are with the options before --help: the built-in data, which is
    small, has its own; medmeta train --data PATH --help shows those of any other.
    """

    data: str = "anatomy"
    """What to train on: "anatomy" (built in), or a folder or file (medmeta data list)."""
    read: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the source that reads `data`."""
    also: tuple[str, ...] = ()
    """More data sets to meta-train on, each a domain of its own."""
    mixing: tuple[float, ...] = ()
    """How often an episode comes from `data` and each of `also`. Default: alike."""
    meta_val: str | None = None
    """Another data set to validate on, with all its classes, in place of a part of `data`."""
    meta_test: str | None = None
    """Another data set to be judged on, with all its classes, in place of a part of `data`."""
    val_classes: tuple[str, ...] = ()
    """Classes of `data` that are meta-validation's, in place of the rule that deals them out."""
    test_classes: tuple[str, ...] = ()
    """Classes of `data` that are meta-test's; those that are in neither list are meta-train's."""
    task: Literal["auto", "segmentation", "detection", "lesions", "patient"] = "auto"
    """What is learned: by "auto" what images are labelled by, classes, several labels or values;
    "segmentation" is to mark the structures of their masks; "detection" is to find objects by their
    boxes, a kind of them an episode, or where there are masks and no boxes their separate parts;
    "lesions" is to tell which lesion an image shows, if any, and to mark it; "patient" takes
    patients as tasks, what was seen earlier as support, and later as query."""
    shrink: float = 0.5
    """Of detection: an object is marked by an ellipse so much as wide and as high as its box, so
    that neighbours stay apart."""
    modalities: tuple[str, ...] = ()
    """The images of these modalities of a patient are one, and its channels; some may be absent
    (backbone multimodal). Default: an image is of one."""
    covariates: str | None = None
    """A table (CSV) with a column "group" (patient): each other column, such as an age or a gene's
    value, is one more channel of that patient's images (backbone multimodal where some is missing).
    """
    split: str | None = None
    """A file by `medmeta data split`: which side each image of `data` is on."""
    image_size: int = 28
    """Images are scaled to this many pixels a side, padded to a square."""
    standardise: bool = False
    """Each domain's intensities are brought onto one scale by the landmarks of its histogram."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Images stay in their files and are read as they are needed, which takes a folder by `medmeta
    data prepare`. "auto": where all of them would not fit into a quarter of a device's memory."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a file that cannot be read does: "skip" leaves it out, up to 5% of the files, and the
    table says so."""
    ways: int | tuple[int, int] | None = None
    """Classes an episode, or lowest and highest. Default: 5, or all of the smallest split."""
    shots: int | tuple[int, int] = 1
    """Support images a class, or lowest and highest."""
    queries: int = 15
    """Query images a class."""
    disjoint: Literal["auto", "image", "group", "time"] = "auto"
    """What support and query never share. "auto": groups where the data has them."""
    balance: Literal["balanced", "proportional"] = "balanced"
    """Queries the same for each class, or in the classes' true proportions."""
    within: Literal["auto", "any", "domain"] = "auto"
    """An episode's classes are of any domain, or all of one. "auto": of one where `also` is."""
    ordered: bool = False
    """Classes are grades, in the data set's order: they keep it in every episode, and the loss
    counts how far off a prediction is."""
    shuffle_labels: bool = True
    """Classes stand in random order in each episode; else always in the data set's own."""
    rotate_classes: bool = False
    """In meta-training a class turned by a quarter is another class. Not for anatomy."""
    algorithm: str = "maml"
    """A file of medmeta_jax/algorithms; its own arguments are the `hyper` options."""
    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the algorithm."""
    backbone: str = "conv4"
    """A file of medmeta_jax/backbones; its own arguments are the `net` options."""
    net: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the backbone."""
    init_from: str | None = None
    """A run, or a .npz or .safetensors file: parameters of the same names start from it."""
    norm: Literal["batch", "support", "group", "none"] = "support"
    """Where normalisation statistics come from. "batch" is transductive on the query set."""
    augment: tuple[str, ...] = ("rotate", "scale", "crop")
    """Files of medmeta_jax/augment, applied to the episodes of meta-training."""
    augment_on: Literal["support", "query", "both"] = "both"
    """Which side of an episode is augmented."""
    meta_steps: int = 600
    """Outer steps."""
    meta_batch: int = 4
    """Episodes an outer step."""
    devices: int | None = None
    """Devices to spread a meta-batch over. Default: as many as there are (on a CPU, cores)
    and divide it. Each holds the data set, where it is not streamed."""
    chunk: int | None = None
    """Episodes that a device runs side by side. Default: 1 on a CPU, elsewhere as many of its
    share as its memory holds."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """What the operands of matrix products are rounded to on a GPU or TPU; sums, parameters,
    statistics and losses stay float32. A CPU computes in float32 alone."""
    objective: Literal["mean", "cvar", "tr_maml", "mldg"] = "mean"
    """What of a meta-batch's losses is lowered: their mean, the mean of the worst (cvar), that of
    the worst domain (tr_maml), or that of pairs, a step towards whose first domain is to help on
    the second (mldg)."""
    worst_share: float = 0.5
    """Of the episodes of a meta-batch, for objective cvar."""
    domain_rate: float = 0.01
    """Of the ascent on the domains' weights, for objective tr_maml; of the step on the first of two
    domains, for mldg."""
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    """The outer optimiser; sgd has momentum 0.9."""
    outer_lr: float = 3e-3
    """Learning rate of the outer optimiser."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the outer rate falls over `meta_steps`."""
    clip: float = 10.0
    """Largest norm of the meta-gradient; 0 leaves it as it is."""
    validate_every: int = 100
    """Outer steps between meta-validations, which also write a checkpoint."""
    val_episodes: int = 200
    """Episodes of a meta-validation."""
    patience: int = 0
    """Stop after so many meta-validations without a better one; 0 never stops."""
    dispatch: int = 25
    """Outer steps of one dispatch to the device."""
    test_episodes: int = 600
    """Episodes of the final evaluation."""
    baselines: Literal["none", "some", "all"] = "some"
    """Rows beside the learner's. "some": untrained, scratch, raw-centroid. "all": also
    those that pre-train an ordinary classifier on the meta-train classes."""
    seed: int = 0
    """Seed of initialisation and episodes."""


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
    "test_episodes": 2, "seed": 0, "clip": 0,
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
    for op in config.augment:
        if op not in registry.names("augment"):
            raise ConfigError(f"augment: no {op!r}{suggest(op, registry.names('augment'))}")
    return dataclasses.replace(
        config,
        hyper=filled(
            "hyper", config.hyper, options("algorithms", config.algorithm), config.algorithm
        ),
        net=filled("net", config.net, options("backbones", config.backbone), config.backbone),
    )


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
            return dict(value)
        return list(value) if isinstance(value, tuple) else value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
