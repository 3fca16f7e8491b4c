"""Numbers drawn as a vector are those drawn with their axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from medmeta_jax.ops import draws

PAIRS = ((draws.normal, jax.random.normal), (draws.he_normal, jax.nn.initializers.he_normal()))


@pytest.mark.parametrize("shape", [(4, 2), (1, 1, 5, 3), (3, 3, 3, 1, 8)])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["normal", "he_normal"])
def test_each_place_has_its_number(
    ours: Callable[..., Any], theirs: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    drawn = jax.jit(jax.vmap(lambda key: ours(key, shape)))(keys)
    assert drawn.shape == (2, *shape)
    np.testing.assert_array_equal(drawn[1], theirs(keys[1], shape))
