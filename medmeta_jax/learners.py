"""The learner that a configuration asks for: its backbone, and how it is trained."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import config as configs, registry, weights
from medmeta_jax.augment._mixing import with_mixed_queries
from medmeta_jax.augment._ops import Op, augmented, with_more_shots
from medmeta_jax.augment._policy import Choice, by_step, with_policy
from medmeta_jax.checkpoint import Checkpoints
from medmeta_jax.compress.distil import distilled
from medmeta_jax.data.splits import Split
from medmeta_jax.labels import CLASSES, GRADES, MASKS, OF_LESIONS, OF_PIXELS, SEVERAL, VALUES, Kind
from medmeta_jax.losses import dice_and_cross_entropy
from medmeta_jax.ops.conv import Form
from medmeta_jax.runs import Run, RunError, existing, read_facts
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Array, Backbone, MetaLearner, Params


def make_backbone(config: TrainConfig, form: Form = "auto") -> Backbone:
    """The configured backbone (ConfigError for a refused argument); form: of `ops.conv`."""
    make = registry.factory("backbones", config.backbone)
    if registry.takes("backbones", config.backbone, "form"):
        make = functools.partial(make, form=form)
    elif form != "auto":
        raise ConfigError(f"backbone: {config.backbone} has no convolutions of form {form}")
    try:
        return make(norm=config.norm, **config.net)
    except ValueError as error:
        raise ConfigError(f"net: {error}") from None


def make_learner(
    config: TrainConfig, backbone: Backbone, outputs: int, classes: int, kind: Kind
) -> MetaLearner:
    """The configured algorithm over a backbone (ConfigError for a refused argument)."""
    factory = registry.factory("algorithms", config.algorithm)
    arguments = dict(config.hyper)
    if registry.takes("algorithms", config.algorithm, "loss"):
        arguments["loss"] = kind.loss
    if "pool_classes" in registry.defaults("algorithms", config.algorithm):
        if kind in (SEVERAL, VALUES):
            raise ConfigError(
                f"algorithm: {config.algorithm} pre-trains a classifier of one class an image, and "
                f"these images have {kind.name}; take another, such as anil or maml"
            )
        arguments["pool_classes"] = classes
    make = functools.partial(factory, backbone, outputs=outputs, **arguments)
    ops, how, copies = policy_ops(config), config.policy_how, config.policy_copies
    if ops and how == "sum" and kind in OF_PIXELS:
        raise ConfigError("policy_how: label maps have no sum; take draw")
    try:
        if ops and config.policy_by == "step":
            steps = config.hyper["steps"]
            return kind.told(by_step(make, ops, steps=steps, copies=copies, how=how), outputs)
        learner = kind.told(make(), outputs)
        if config.augment and config.augment_on == "shot":
            learner = with_more_shots(learner, augment_ops(config))
    except ValueError as error:
        raise ConfigError(f"hyper: {error}") from None
    return with_policy(learner, ops, copies=copies, how=how) if ops else learner


def augment_ops(config: TrainConfig) -> list[Op]:
    """The ops of the configured augmentation, at their own magnitudes."""
    return [registry.factory("augment", name)() for name in config.augment]


def policy_ops(config: TrainConfig) -> dict[str, Choice]:
    """The ops of the configured policy."""
    return {
        name: Choice(
            registry.factory("augment", name), registry.defaults("augment", name)["magnitude"]
        )
        for name in config.policy
    }


def with_augmentation(config: TrainConfig, split: Split, learner: MetaLearner) -> MetaLearner:
    """The learner as it is trained: on episodes whose images are augmented as configured."""
    ops = augment_ops(config)
    if not ops or config.augment_on == "shot":  # which is a part of adapting
        return learner
    alike = [op for op in ops if op.alike]
    each = [op for op in ops if not op.alike]
    sides = ("support", "query") if config.augment_on == "both" else (config.augment_on,)
    channels = len(split.scaling.scale) if split.covariates else None
    return augmented(learner, **dict.fromkeys(sides, each), episode=alike, channels=channels)


def mixing(config: TrainConfig, kind: Kind, learner: MetaLearner) -> MetaLearner:
    """The learner as it is trained, its queries mixed as configured (ConfigError)."""
    if config.mix == "none":
        return learner
    allowed = (CLASSES, GRADES, MASKS) if config.mix == "cutmix" else (CLASSES, GRADES)
    if kind not in allowed:
        names = ", ".join(one.name for one in allowed)
        raise ConfigError(f"mix: {config.mix} is of {names}, and these images have {kind.name}")
    if config.mix == "mlti":
        return learner
    return with_mixed_queries(learner, kind.loss, how=config.mix, alpha=config.mix_alpha)


def as_trained(config: TrainConfig, split: Split, kind: Kind, learner: MetaLearner) -> MetaLearner:
    """The learner as meta-training takes it: mixed and augmented as configured (ConfigError)."""
    for name, op in zip(config.augment, augment_ops(config), strict=True):
        if op.marked is not None and kind not in (*OF_PIXELS, *OF_LESIONS):
            raise ConfigError(
                f"augment: {name} changes what is marked, and these images have {kind.name}"
            )
    return with_augmentation(config, split, mixing(config, kind, learner))


def of_masks_alone(algorithm: str) -> bool:
    """Whether an algorithm marks structures and takes no other labels, told by the loss that it has
    unasked.

    >>> of_masks_alone("panet"), of_masks_alone("maml")
    (True, False)
    """
    factory = registry.factory("algorithms", algorithm)
    loss = inspect.signature(factory).parameters.get("loss")
    return loss is not None and loss.default is dice_and_cross_entropy


def start_weights(
    source: str | None, learner: MetaLearner, example_x: Array
) -> dict[str, np.ndarray]:
    """The weights of a run or a file that the learner takes, by name (WeightsError)."""
    if source is None:
        return {}
    path = Path(source)
    given = run_weights(existing(source, "init_from")) if path.is_dir() else weights.read(path)
    like = jax.eval_shape(learner.init, jax.random.key(0), example_x)
    return {name: given[name] for name in weights.taken(like, given, source)}


def run_weights(run: Run) -> dict[str, np.ndarray]:
    """The best parameters of a run, by name, from its latest checkpoint (CheckpointError)."""
    checkpoints = Checkpoints(run.checkpoints, read_only=True)
    try:
        saved = checkpoints.load()[1]
    finally:
        checkpoints.close()
    return {
        "/".join(re.findall(r"\['?([^\]']+)'?\]", path)): array
        for path, array in saved.items()
        if path.startswith(".best_params")
    }


def whole_params(run: Run, like: Params, given: weights.Named) -> Params:
    """All parameters of a learner, shaped as `like`, of the weights of a run (RunError where one is
    not among them)."""
    names = [weights.name_of(path) for path, _ in jax.tree.leaves_with_path(like)]
    missing = [name for name in names if name not in given]
    if missing:
        raise RunError(f"{run.folder}: its checkpoint lacks {missing[0]}; train again")
    return weights.put(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like), given)


def with_teacher(
    config: TrainConfig, split: Split, kind: Kind, learner: MetaLearner, outputs: int, x: Array
) -> MetaLearner:
    """The learner drawn to the answers of the configured run (ConfigError where that is of other
    images or labels)."""
    if config.teacher is None:
        return learner
    if kind in (SEVERAL, VALUES):
        raise ConfigError(f"teacher: answers are of classes or masks, and these are {kind.name}")
    run = existing(config.teacher, "teacher")
    there = read_facts(run)
    of = configs.check(configs.load(None, str(run.config)))
    there["image_size"] = of.image_size
    here = {
        "image_size": config.image_size, "labels": kind.name, "outputs": outputs,
        "spatial": x.ndim - 2, "pool_classes": len(split.class_names),
        **{name: np.asarray(getattr(split.scaling, name)).tolist() for name in ("shift", "scale")},
    }  # fmt: skip
    for name, value in here.items():
        if there.get(name) != value:
            raise ConfigError(
                f"teacher: {name} of {config.teacher} is {there.get(name)!r}, here {value!r}; take "
                "a run on the same data"
            )
    teacher = make_learner(of, make_backbone(of), outputs, there["pool_classes"], kind)
    like = jax.eval_shape(teacher.init, jax.random.key(0), x)
    return distilled(learner, teacher, whole_params(run, like, run_weights(run)))
