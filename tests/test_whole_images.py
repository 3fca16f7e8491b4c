"""A learner of classes that is told by maps does as it does when it is told classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import registry
from medmeta_jax.types import Episode, Examples, MetaLearner
from medmeta_jax.whole_images import of_whole_images

from .conftest import SIZE, WAYS, make_episode, tiny_backbone

KEY, STEP = jax.random.key(0), jnp.zeros((), jnp.int32)


def as_maps(examples: Examples) -> Examples:
    """A pixel of each image is marked by its way, the first as 1; of the last way, none is."""
    value = jnp.where(examples.y == WAYS - 1, 0, examples.y + 1)
    maps = jnp.zeros((len(examples.y), SIZE, SIZE), jnp.int32)
    return examples._replace(y=maps.at[:, 2, 3].set(value))


@pytest.fixture(scope="module")
def episode() -> Episode:
    return make_episode()


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_told_by_maps_as_by_classes(name: str, episode: Episode) -> None:
    arguments = {"steps": 1} if name == "maml" else {}
    plain: MetaLearner = registry.factory("algorithms", name)(
        tiny_backbone("support"), outputs=WAYS, **arguments
    )
    told = of_whole_images(plain, WAYS)
    maps = episode._replace(support=as_maps(episode.support), query=as_maps(episode.query))
    theta = plain.init(KEY, episode.support.x)

    def outcome(learner: MetaLearner, of: Episode) -> tuple[jax.Array, jax.Array, jax.Array]:
        adapted = learner.adapt(theta, of.support, KEY)
        value, info = learner.loss(theta, of, KEY, STEP)
        return learner.predict(adapted, of.query.x, of.query.mask), value, info.logits

    by_class = jax.jit(lambda of: outcome(plain, of))(episode)
    by_map = jax.jit(lambda of: outcome(told, of))(maps)
    np.testing.assert_allclose(by_map[1], by_class[1], rtol=1e-6)
    for ours, theirs in ((by_map[0], by_class[0]), (by_map[2], by_class[2])):
        # None, the last of the ways, is the first of the logits.
        np.testing.assert_allclose(ours[:, 0], theirs[:, -1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours[:, 1:], theirs[:, :-1], rtol=1e-5, atol=1e-6)
