"""Reduced precision: refused where it would do nothing, and small in the meta-gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from medmeta_jax import experiment as experiments
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.ops import winograd
from medmeta_jax.settings import ConfigError, TrainConfig

from .conftest import WAYS, make_episode, tiny_backbone


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_cpu_refuses_what_it_would_ignore(precision: str) -> None:
    config = dataclasses.replace(TrainConfig(), precision=precision)
    with pytest.raises(ConfigError, match=f"precision: {precision} is for GPUs and TPUs"):
        experiments.build(config)


@pytest.mark.slow
def test_bf16_operands_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands of the convolutions' products rounded to bfloat16, sums in float32, as a GPU
    would: the second-order meta-gradient keeps its direction."""
    learner = maml(tiny_backbone("support", "auto"), outputs=WAYS, steps=2)
    episode = make_episode()
    params = learner.init(jax.random.key(0), episode.support.x)

    def meta_gradient() -> Any:
        def loss(theta):
            return learner.loss(theta, episode, jax.random.key(1), jnp.zeros((), jnp.int32))[0]

        return np.asarray(ravel_pytree(jax.jit(jax.grad(loss))(params))[0])

    exact, product = meta_gradient(), winograd.product

    def rounded(a: jax.Array, matrix: jax.Array) -> jax.Array:
        a, matrix = (v.astype(jnp.bfloat16).astype(v.dtype) for v in (a, matrix))
        return product(a, matrix)

    monkeypatch.setattr(winograd, "product", rounded)
    found = meta_gradient()
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    cosine = found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.1  # rounded, and not by much
    assert cosine > 0.995
