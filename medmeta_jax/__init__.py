"""Meta-learning for medical images: `import medmeta_jax as mm`.

The public names, grouped. They are imported when first used, so that `medmeta --help`
does not wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    # the four ideas
    "types": ("Examples", "Episode", "Backbone", "MetaLearner", "Info"),
    # building blocks
    "adapters": ("from_linen", "from_nnx"),
    "heads": ("with_head",),
    "inner": ("unrolled", "partition", "merge"),
    "ops.conv": ("conv", "conv_general_dilated"),
    "parallel": ("task_mesh", "replicate", "use_cpu_devices"),
    "losses": ("cross_entropy", "binary_cross_entropy", "squared_error", "accuracy"),
    # backbones
    "backbones.conv4": ("conv4",),
    "backbones.resnet12": ("resnet12",),
    "backbones.pixels": ("pixels",),
    # algorithms
    "algorithms.maml": ("maml",),
    "algorithms.anil": ("anil",),
    "algorithms.protonet": ("protonet",),
    "algorithms.finetune": ("finetune",),
    "algorithms.linear_probe": ("linear_probe",),
    "algorithms.nearest_centroid": ("nearest_centroid",),
    # augmentation
    "augment._ops": ("augmented", "apply_ops"),
    # data
    "data.sources": ("load",),
    "data.splits": ("make_split",),
    "data.pool": ("Pool", "make_pool", "fit_scaling"),
    "data.episodes": ("EpisodeSpec", "sample", "sample_indices", "episodes_hash"),
    "data.samples": ("Samples", "DataError"),
    # training and evaluation
    "train": ("init_state", "make_step", "start", "fit"),
    "evaluation": ("FixedEpisodes", "episode_keys", "predict_episodes", "evaluate"),
    "config": ("TrainConfig",),
    "experiment": ("build", "train_run", "judge"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'medmeta_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medmeta_jax.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
