"""Meta-learning for medical images: `import medmeta_jax as mm`.

The public names, grouped. They are imported when first used, so that `medmeta --help`
does not wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import Any

from medmeta_jax import registry

__version__ = "0.1.0"

_PUBLIC = {
    # the four ideas
    "types": ("Examples", "Episode", "Backbone", "MetaLearner", "Info"),
    # building blocks
    "adapters": ("from_linen", "from_nnx"),
    "heads": ("with_head",),
    "inner": ("unrolled", "descent", "partition", "merge"),
    "ops.conv": ("conv", "conv_general_dilated"),
    "parallel": ("task_mesh", "replicate", "use_cpu_devices"),
    "losses": ("cross_entropy", "binary_cross_entropy", "squared_error", "accuracy"),
    "implicit": ("proximal",),
    # augmentation
    "augment._ops": ("augmented", "apply_ops"),
    # data
    "data.sources": ("load",),
    "data.splits": ("make_split",),
    "data.pool": ("Pool", "make_pool", "fit_scaling"),
    "data.episodes": ("EpisodeSpec", "sample", "sample_indices", "episodes_hash"),
    "data.samples": ("Samples", "DataError"),
    # training and evaluation
    "objectives": ("cvar", "tr_maml"),
    "metrics.calibration": ("Calibration",),
    "uncertainty": ("calibrate", "judged"),
    "train": ("init_state", "make_step", "start", "fit"),
    "evaluation": ("FixedEpisodes", "episode_keys", "predict_episodes", "evaluate"),
    "config": ("TrainConfig",),
    "experiment": ("build",),
    "running": ("train_run", "judge"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
# Backbones and algorithms: a file each, by its name.
for _folder in ("backbones", "algorithms"):
    _MODULE_OF |= {name: f"{_folder}.{name}" for name in registry.names(_folder)}
__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'medmeta_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medmeta_jax.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
