"""What is marked gets another contrast, by its kind, and all else stays as it is."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import config as configs, experiment as experiments
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.augment._ops import apply_ops, augmented
from medmeta_jax.augment.recontrast import LEAST, MOST, recontrast
from medmeta_jax.backbones.pixels import pixels
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Episode, Examples

# Of an image, and the greys of its channels around the thing and in it.
SIZE, EVEN, THING = 20, 0.5, 2.0
INSIDE = (slice(9, 12), slice(9, 12))


def marked() -> tuple[jax.Array, jax.Array]:
    """An even image [S, S, 3] with a bright square in it, and its map."""
    square = jnp.zeros((SIZE, SIZE), jnp.int32).at[8:13, 8:13].set(1)
    return EVEN + (THING - EVEN) * jnp.stack([square] * 3, -1).astype(jnp.float32), square


def test_the_contrast_is_multiplied_by_a_factor_a_channel() -> None:
    x, y = marked()
    op, factors = recontrast(magnitude=1.0), []
    for k in range(40):
        out, kept = apply_ops([op], jax.random.key(k), x, y)
        np.testing.assert_array_equal(kept, y)
        inside = np.asarray(out[INSIDE])
        np.testing.assert_allclose(inside, np.broadcast_to(inside[:1, :1], inside.shape), atol=1e-3)
        factors.append((inside[0, 0] - EVEN) / (THING - EVEN))
        # A pixel around the mark, and two of its soft border.
        far = np.ones((SIZE, SIZE), bool)
        far[5:16, 5:16] = False
        np.testing.assert_array_equal(out[far], x[far])
    size = np.abs(factors)
    assert LEAST - 0.01 <= size.min() < LEAST + 0.1
    assert MOST - 0.1 < size.max() <= MOST + 0.01
    assert 0.3 < (np.asarray(factors) < 0).mean() < 0.7
    assert np.ptp(factors, axis=1).min() > 0  # channels differ


def test_a_kind_is_changed_alike_in_all_images_and_another_one_otherwise() -> None:
    """Seen by a learner that gives back what it is given."""
    seen = protonet(pixels(), outputs=2)._replace(
        loss=lambda params, episode, key, step: (episode, None)
    )
    x, y = marked()
    side = Examples(jnp.stack([x] * 4), jnp.stack([y, 2 * y, 2 * y, y]), jnp.ones(4, bool))
    learner = augmented(seen, episode=[recontrast(magnitude=1.0)])
    step = jnp.zeros((), jnp.int32)
    one, two = learner.loss({}, Episode(side, side, jnp.arange(2)), jax.random.key(0), step)[0][:2]
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.x[0], one.x[3])
    np.testing.assert_array_equal(one.x[1], one.x[2])
    assert np.abs(one.x[0] - one.x[1]).max() > 0.1


def test_so_many_kinds_are_changed_and_images_without_any_never() -> None:
    x, y = marked()
    keys = jax.random.split(jax.random.key(1), 300)
    op = recontrast(magnitude=0.3)
    out = jax.vmap(lambda key: apply_ops([op], key, x, y)[0])(keys)
    np.testing.assert_allclose((out != x).any((1, 2, 3)).mean(), 0.3, atol=0.08)
    none = jax.vmap(lambda key: apply_ops([op], key, x, 0 * y)[0])(keys)
    np.testing.assert_array_equal(none, np.broadcast_to(x, none.shape))


def test_what_is_absent_stays_absent_and_a_full_image_is_finite() -> None:
    x, y = marked()
    out, _ = apply_ops([recontrast(magnitude=1.0)], jax.random.key(0), x.at[..., 1].set(jnp.nan), y)
    np.testing.assert_array_equal(np.isnan(out).all((0, 1)), [False, True, False])
    assert not np.isnan(out[..., ::2]).any()
    full, _ = apply_ops([recontrast(magnitude=1.0)], jax.random.key(0), x, jnp.ones_like(y))
    assert np.isfinite(full).all()


def test_without_a_map_it_is_refused() -> None:
    with pytest.raises(ValueError, match="changes what is marked, and there is no label map"):
        apply_ops([recontrast()], jax.random.key(0), marked()[0])
    small = TrainConfig(image_size=12, net={"width": 2, "depth": 1}, augment=("recontrast",))
    with pytest.raises(ConfigError, match=r"augment: recontrast .* these images have classes"):
        experiments.build(small)
    with pytest.raises(ConfigError, match="augment: recontrast is of meta-training"):
        configs.check(dataclasses.replace(small, augment_on="shot"))
