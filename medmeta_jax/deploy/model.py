"""A run put to use: its learner and best parameters, without the data that it was trained on.

`model_facts` is what a run keeps of its data for that (`model.json`): how intensities are scaled,
how many channels and outputs there are, what labels are.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmeta_jax import config as configs, weights
from medmeta_jax.data.pool import Scaling
from medmeta_jax.experiment import Experiment
from medmeta_jax.labels import CLASSES, GRADES, MASKS, Kind
from medmeta_jax.learners import make_backbone, make_learner, run_weights, whole_params
from medmeta_jax.metrics.calibration import Calibration
from medmeta_jax.ops.conv import Form
from medmeta_jax.runs import Run, RunError, read_facts
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Array, Backbone, MetaLearner, Params

KINDS = {kind.name: kind for kind in (CLASSES, GRADES, MASKS)}


class Model(NamedTuple):
    """What adapts and predicts.

    spatial: the axes of an image, all of `config.image_size`. tasks: what it was calibrated on, as
    {"ways", "shots"}. calibration: None where the run has none. kind: of its labels; of masks, the
    outputs are not marked and marked.
    """

    config: TrainConfig
    learner: MetaLearner
    backbone: Backbone
    params: Params
    scaling: Scaling
    spatial: int
    outputs: int
    calibration: Calibration | None
    tasks: dict[str, Any]
    kind: Kind = CLASSES


def model_facts(experiment: Experiment) -> dict[str, Any]:
    """What a run keeps, as JSON can hold it."""
    split, spec = experiment.split, experiment.spec
    return {
        "labels": experiment.kind.name,
        "outputs": experiment.outputs,
        "pool_classes": len(split.class_names),
        "spatial": experiment.example_x.ndim - 2,
        "shift": np.asarray(split.scaling.shift).tolist(),
        "scale": np.asarray(split.scaling.scale).tolist(),
        "covariates": list(split.covariates),
        "modalities": list(experiment.config.modalities),
        "tasks": {"ways": spec.ways, "shots": spec.shots},
    }


def load(run: Run, ways: int, form: Form = "auto") -> Model:
    """A run's model, for tasks of so many ways; 0: as many as it was trained for. form: of its
    convolutions (`ops.conv`).

    Raises RunError where the run does not hold what is needed, and ConfigError where it is of what
    cannot be deployed, or its head has fewer ways.
    """
    found = read_facts(run)
    kind = kind_of_run(run, found)
    if found["covariates"] or found["modalities"]:
        raise ConfigError(f"{run.folder}: takes more than an image (covariates, modalities)")
    config = configs.check(configs.load(None, str(run.config)))
    backbone = make_backbone(config, form)
    scaling = Scaling(*(np.asarray(found[name], np.float32) for name in ("shift", "scale")))
    x = example(config.image_size, found["spatial"], len(scaling.shift), 1)
    given = run_weights(run)

    def of(outputs: int) -> tuple[MetaLearner, Params]:
        learner = make_learner(config, backbone, outputs, found["pool_classes"], kind)
        return learner, jax.eval_shape(learner.init, jax.random.key(0), x)

    outputs = found["outputs"]
    learner, like = of(outputs)
    if ways > outputs:  # which a head that is built from the support does not mind
        learner, like = of(ways)
        shapes = {weights.name_of(path): leaf.shape for path, leaf in leaves(like)}
        other = [name for name in shapes if name in given and given[name].shape != shapes[name]]
        if other:
            raise ConfigError(
                f"{run.folder}: {config.algorithm} was trained for {outputs} ways, and its head "
                f"has no more; the support has {ways} classes"
            )
        outputs = ways
    params = whole_params(run, like, given)
    return Model(
        config, learner, backbone, params, scaling, found["spatial"], outputs,
        read_calibration(run), found["tasks"], kind,
    )  # fmt: skip


def kind_of_run(run: Run, found: dict[str, Any]) -> Kind:
    """What the labels of a run are, by its facts (ConfigError where it cannot be put to use)."""
    kind = KINDS.get(found["labels"])
    if kind is None:
        raise ConfigError(
            f"{run.folder}: learned {found['labels']}; adapt takes runs of {', '.join(KINDS)}"
        )
    return kind


def lowest(value: Any) -> int:
    """The least of a number, or of a range's two."""
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def highest(value: Any) -> int:
    """The greatest of a number, or of a range's two."""
    return int(value[-1] if isinstance(value, (list, tuple)) else value)


def image_shape(model: Model) -> tuple[int, ...]:
    """The shape [*spatial, C] of an image that a model takes."""
    return (*(model.config.image_size,) * model.spatial, len(model.scaling.shift))


def leaves(tree: Any) -> list[tuple[Any, Any]]:
    """The leaves of a tree with their paths."""
    return list(jax.tree.leaves_with_path(tree))


def example(size: int, spatial: int, channels: int, count: int) -> Array:
    """So many images of zeros."""
    return jnp.zeros((count, *(size,) * spatial, channels), jnp.float32)


def read_calibration(run: Run) -> Calibration | None:
    """A run's temperature and quantile; None where it has none (RunError where it is damaged)."""
    if not run.calibration.exists():
        return None
    try:
        found = json.loads(run.calibration.read_text(encoding="utf-8"))
        if "temperature" not in found:
            return None
        quantile = float("inf") if found["quantile"] is None else float(found["quantile"])
        return Calibration(
            float(found["temperature"]), quantile, float(found["coverage"]), tuple(found["tasks"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run.calibration}: cannot be read ({error}); train again") from None
