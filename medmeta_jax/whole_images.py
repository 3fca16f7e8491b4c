"""A learner of classes put to a task of maps: it is told which lesion each image shows, not where.

A map [n, *spatial] becomes the way of its image: k - 1 where it shows the k-th type, the last way
where it shows none. Logits [n, ways] come back with none first, as logits of maps have it.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from medmeta_jax.types import Array, Episode, Examples, Info, MetaLearner, Params, PyTree


def of_whole_images(learner: MetaLearner, ways: int) -> MetaLearner:
    """The learner, told by maps of `ways` - 1 types and of nothing.

    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.backbones.pixels import pixels
    >>> told = of_whole_images(protonet(pixels(), outputs=2), 2)
    >>> maps = jnp.asarray([[[1, 0]], [[0, 0]]])
    >>> support = Examples(maps[..., None] * 1.0, maps, jnp.ones(2, bool))
    >>> adapted = told.adapt({"body": {}}, support, None)
    >>> told.predict(adapted, support.x, support.mask).argmax(-1)
    Array([1, 0], dtype=int32)
    """

    def told(examples: Examples) -> Examples:
        most = examples.y.max(tuple(range(1, examples.y.ndim)))
        return examples._replace(y=jnp.where(most > 0, most - 1, ways - 1))

    def none_first(logits: Array) -> Array:
        return jnp.roll(logits, 1, axis=-1)

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> PyTree:
        return learner.adapt(theta, told(support), key, steps)

    def predict(adapted: PyTree, x: PyTree, mask: Array) -> Array:
        return none_first(learner.predict(adapted, x, mask))

    def loss(theta: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        episode = episode._replace(support=told(episode.support), query=told(episode.query))
        value, info = learner.loss(theta, episode, key, step)
        return value, info._replace(logits=none_first(info.logits))

    return learner._replace(adapt=adapt, predict=predict, loss=loss)
