"""The threshold that parts a structure from the rest, found on the support."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax.losses import dice
from medmeta_jax.thresholding import threshold
from medmeta_jax.types import Examples

from .conftest import padded

KEY = jax.random.key(0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("fill", [None, jnp.nan])
def test_what_is_brighter_or_darker_is_found(sign: int, fill: float | None) -> None:
    rng = np.random.default_rng(0)
    y = rng.random((3, 6, 6)) < 0.3
    x = jnp.asarray(sign * (2.0 * y + rng.random((3, 6, 6)))[..., None], jnp.float32)
    support = Examples(x, jnp.asarray(y, jnp.int32), jnp.ones(3, bool))
    given = support if fill is None else padded(support, 2, fill)
    learner = threshold()
    logits = learner.predict(learner.adapt({}, given, KEY), x, support.mask)
    assert float(dice(logits, support.y, support.mask)) > 0.99
