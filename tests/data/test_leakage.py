"""Labels drawn at random can be told by nobody who has not seen the patient before."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import tasks
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.backbones.pixels import pixels
from medmeta_jax.data.episodes import sample
from medmeta_jax.data.splits import Split
from medmeta_jax.evaluation import FixedEpisodes, Scores, episode_keys, evaluate
from medmeta_jax.settings import TrainConfig

SLICES, PATIENTS, CLASSES = 10, 10, 60


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients for each of sixty labels that mean nothing; their slices resemble each other."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(PATIENTS * CLASSES), SLICES)
    own = rng.integers(40, 216, (PATIENTS * CLASSES, 8, 8))
    images = own[patient] + rng.integers(-40, 40, (len(patient), 8, 8))
    path = tmp_path_factory.mktemp("leakage") / "scans.npz"
    label = rng.permutation(np.repeat(np.arange(CLASSES), PATIENTS))[patient]
    np.savez(path, images=images.astype(np.uint8), labels=label, groups=patient.astype(str))
    return path


def score(scans: Path, **how: str) -> Scores:
    """Nearest class mean of the pixels, on episodes as `train` would draw them."""
    config = TrainConfig(data=str(scans), image_size=8, ways=2, shots=10, queries=10, **how)
    split: Split = tasks.load_split(config)
    spec = tasks.episode_spec(config, split)
    episodes = FixedEpisodes(
        functools.partial(sample, spec=spec), split.pools["test"], episode_keys(0, 400)
    )
    learner = protonet(pixels(), outputs=2)
    return evaluate(learner, learner.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))), episodes)


def test_random_labels_are_told_by_leaking_slices_alone(scans: Path) -> None:
    """Slices dealt out freely: far above chance. As the loader deals them by itself: chance.

    The intervals are over resampled classes: by luck a few patients of one differ from another's.
    """
    low, high = score(scans, disjoint="image").by_classes
    assert low > 0.65, (low, high)
    low, high = score(scans).by_classes
    assert low < 0.5 < high, (low, high)
    assert high - low < 0.15
