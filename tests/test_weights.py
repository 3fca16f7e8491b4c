"""`--init-from`: by name, checked, and without any pickle."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import weights
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.algorithms.nearest_centroid import nearest_centroid
from medmeta_jax.weights import WeightsError

from .conftest import WAYS, make_episode, tiny_backbone


def params_of(make: Any, seed: int) -> Any:
    learner = make(tiny_backbone(), outputs=WAYS)
    return learner.init(jax.random.key(seed), make_episode().support.x)


@pytest.fixture(scope="module")
def classifier() -> dict[str, np.ndarray]:
    return weights.named(params_of(nearest_centroid, 1))


def test_a_pretrained_body_starts_another_method(
    classifier: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Through a file: what has the same name is taken, what the file lacks stays."""
    np.savez(tmp_path / "w.npz", **{n: a for n, a in classifier.items() if n.startswith("body")})
    given = weights.read(tmp_path / "w.npz")
    before = params_of(maml, 0)
    names = weights.taken(before, given, "w.npz")
    assert names
    assert all(name.startswith("body/") for name in names)
    after = weights.put(before, {name: given[name] for name in names})
    assert jax.tree.structure(after) == jax.tree.structure(before)
    found = weights.named(after)
    for name in names:
        np.testing.assert_array_equal(found[name], classifier[name])
    np.testing.assert_array_equal(after["head"]["kernel"], before["head"]["kernel"])
    assert (after["body"]["ConvNormPool_0"]["conv"]["kernel"] !=
            before["body"]["ConvNormPool_0"]["conv"]["kernel"]).any()  # fmt: skip


def test_what_does_not_fit_is_refused_by_name(classifier: dict[str, np.ndarray]) -> None:
    params = params_of(maml, 0)
    kernel = "body/ConvNormPool_0/conv/kernel"
    with pytest.raises(WeightsError, match=rf"F: {kernel} is \(2, 2\), the learner's is \(3, 3, 1"):
        weights.taken(params, {kernel: np.ones((2, 2))}, "F")
    with pytest.raises(WeightsError, match="holds float32 that are not finite"):
        weights.taken(params, {kernel: np.full((3, 3, 1, 4), np.nan, np.float32)}, "F")
    with pytest.raises(WeightsError, match="names none of the learner's parameters; it has other"):
        weights.taken(params, {"other": np.ones(1)}, "F")


def test_damaged_missing_and_pickled_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        weights.read(tmp_path / "none.npz")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        weights.read(damaged)
    evil = tmp_path / "evil.npz"
    np.savez(evil, w=np.array([pickle.dumps], dtype=object))
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        weights.read(evil)


def test_safetensors_where_it_is_installed(
    classifier: dict[str, np.ndarray], tmp_path: Path
) -> None:
    numpy_io = pytest.importorskip("safetensors.numpy")
    numpy_io.save_file(classifier, tmp_path / "w.safetensors")
    found = weights.read(tmp_path / "w.safetensors")
    assert found.keys() == classifier.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(found), classifier)


def test_put_keeps_the_precision_of_the_learner() -> None:
    params = {"w": jnp.zeros(2, jnp.float32)}
    assert weights.put(params, {"w": np.ones(2, np.float64)})["w"].dtype == jnp.float32
