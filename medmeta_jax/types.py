"""The four ideas of the engine, as values, and the shape contracts between them.

Everything here describes **one** episode. A batch of episodes is a `jax.vmap`
outside (`train.py`, `evaluation.py`), never an axis inside an algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any
Params = PyTree
Loss = Callable[[Array, Array, Array], Array]  # (logits, y, mask) -> scalar


class Examples(NamedTuple):
    """A set of labelled examples, padded to a fixed length.

    x: [n, *spatial, C] float32, or a tree of arrays that share the axis n.
    y: [n] class index | [n, L] multi-label | [n, *spatial] segmentation.
    mask: [n] bool; False marks padding, which must change nothing.

    >>> Examples(jnp.zeros((3, 8, 8, 1)), jnp.array([0, 1, 0]), jnp.array([True, True, False])).y
    Array([0, 1, 0], dtype=int32)
    """

    x: PyTree
    y: Array
    mask: Array


# (meta-parameters, support, key, inner step) -> the support that the step descends on.
View = Callable[[Params, Examples, Array, Array], Examples]


class Episode(NamedTuple):
    """One task: adapt on `support`, be judged on `query`.

    classes: [ways] int32, the pool's own label of each way, -1 where a way is absent.
    domain: int32, where the task comes from, for objectives over domains; or not known.
    truth: what the query is judged by, where that is not its y: of objects [n, M, 2, axes] float32,
        the corners of each, NaN beyond an image's own.

    >>> side = Examples(jnp.zeros((2, 8, 8, 1)), jnp.array([0, 1]), jnp.ones(2, bool))
    >>> check_episode(Episode(side, side, classes=jnp.array([7, 3]), domain=jnp.array(0)))
    """

    support: Examples
    query: Examples
    classes: Array
    domain: Array | None = None
    truth: Array | None = None


class Backbone(NamedTuple):
    """A pure pair that maps examples to features.

    init: (key, x) -> params.
    apply: (params, x, mask, stats=None) -> (out, stats). `out` is [n, F] or
        [n, *spatial, F]. `stats` are the norm statistics of this call; given
        back in, they are used in place of those of `x` (the `support` policy).
    norm: which statistics the normalisation uses, named so that tables can say it:
        "batch" (of the set at hand: transductive on a query set), "support",
        "group" or "none".

    >>> mean = Backbone(lambda key, x: {}, lambda params, x, mask, stats=None: (x.mean((1, 2)), {}))
    >>> mean.apply({}, jnp.ones((2, 4, 4, 3)), jnp.ones(2, bool))[0].shape
    (2, 3)
    """

    init: Callable[[Array, PyTree], Params]
    apply: Callable[..., tuple[Array, PyTree]]
    norm: str = "none"


class Info(NamedTuple):
    """What a learner's loss reports beside the scalar to differentiate.

    loss: scalar, the honest loss on the query set, whatever was differentiated.
    logits: query predictions, [n, ways] for a classifier.

    >>> Info(loss=jnp.array(0.5), logits=jnp.zeros((6, 3))).logits.shape
    (6, 3)
    """

    loss: Array
    logits: Array


class MetaLearner(NamedTuple):
    """A learning algorithm as four pure functions of one episode.

    init: (key, example_x) -> meta_params, `example_x` shaped like `Examples.x`.
    adapt: (meta_params, support, key, steps=None) -> adapted, arrays only. A traced
        `steps` is allowed (one executable for every number of steps), but is then
        not reverse-differentiable.
    predict: (adapted, x, mask) -> logits.
    loss: (meta_params, episode, key, step) -> (scalar to differentiate, Info).
    norm: the backbone's norm policy, for the tables.

    >>> from medmeta_jax.algorithms.maml import maml
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> maml(conv4(norm="support"), outputs=5).norm
    'support'
    """

    init: Callable[[Array, PyTree], Params]
    adapt: Callable[..., PyTree]
    predict: Callable[[PyTree, PyTree, Array], Array]
    loss: Callable[[Params, Episode, Array, Array], tuple[Array, Info]]
    norm: str = "none"


def check_examples(examples: Examples, name: str) -> None:
    """Refuse examples whose axes disagree, naming the field and the axis.

    Raises ValueError. Costs nothing at run time: shapes are known when tracing.
    """
    n = examples.mask.shape[0] if examples.mask.ndim else 0
    try:
        chex.assert_rank(examples.mask, 1)
    except AssertionError:
        raise ValueError(f"{name}.mask must be [n], got shape {examples.mask.shape}") from None
    if examples.mask.dtype != jnp.bool_:
        raise ValueError(f"{name}.mask must be bool, got {examples.mask.dtype}")
    leaves = [("y", examples.y)] + [
        ("x" + jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(examples.x)
    ]
    for field, leaf in leaves:
        try:
            chex.assert_axis_dimension(leaf, 0, n)
        except (AssertionError, ValueError):
            raise ValueError(
                f"{name}.{field} must have n={n} examples on axis 0 (the length of "
                f"{name}.mask), got shape {leaf.shape}"
            ) from None


def check_episode(episode: Episode) -> None:
    """Refuse an episode whose support and query do not fit each other (ValueError)."""
    check_examples(episode.support, "support")
    check_examples(episode.query, "query")
    if episode.classes.ndim != 1:
        raise ValueError(f"classes must be [ways], got shape {episode.classes.shape}")
    support_x, query_x = (jax.tree.leaves(side.x) for side in (episode.support, episode.query))
    if len(support_x) != len(query_x):
        raise ValueError(
            f"support.x and query.x must be the same tree, got {len(support_x)} and "
            f"{len(query_x)} arrays"
        )
    for s, q in zip(support_x, query_x, strict=True):
        try:
            chex.assert_equal_shape_suffix([s, q], max(s.ndim - 1, 0))
        except (AssertionError, ValueError):
            raise ValueError(
                "support.x and query.x must agree on every axis after n "
                f"([n, *spatial, C]), got {s.shape} and {q.shape}"
            ) from None


def path_names(path: Any) -> tuple[str, ...]:
    """A leaf's path in a tree as names: dictionary keys, fields, places in a list.

    >>> [path_names(path) for path, _ in jax.tree.leaves_with_path({"head": [1, 2]})]
    [('head', '0'), ('head', '1')]
    """
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def select(values: Array, mask: Array) -> Array:
    """`values` [n, ...] with zeros in place of padding, in values and in gradients.

    To be done before a function that could meet a NaN, not after: the gradient of a
    selection passes through what was not selected.
    """
    wide = mask.reshape(mask.shape + (1,) * (values.ndim - 1))
    return jnp.where(wide, values, jnp.zeros_like(values))


def clear_padding(x: PyTree, mask: Array) -> PyTree:
    """Inputs with zeros in place of padding, which may have held anything, even NaN.

    Masked losses alone would not do: a weight gradient multiplies the padding's zero
    cotangent with its input, and 0 * NaN is NaN.
    """

    return jax.tree.map(lambda leaf: select(leaf, mask), x)


def checked(learner: MetaLearner) -> MetaLearner:
    """The same learner behind the contracts: shapes are checked, padding is cleared."""

    def clear(examples: Examples) -> Examples:
        return examples._replace(x=clear_padding(examples.x, examples.mask))

    def adapt(meta_params: Params, support: Examples, key: Array, steps: Any = None) -> PyTree:
        check_examples(support, "support")
        return learner.adapt(meta_params, clear(support), key, steps)

    def predict(adapted: PyTree, x: PyTree, mask: Array) -> Array:
        check_examples(Examples(x, mask, mask), "query")
        return learner.predict(adapted, clear_padding(x, mask), mask)

    def loss(meta_params: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        check_episode(episode)
        episode = episode._replace(support=clear(episode.support), query=clear(episode.query))
        value, info = learner.loss(meta_params, episode, key, step)
        chex.assert_rank([value, info.loss], 0)
        return value, info

    return learner._replace(adapt=adapt, predict=predict, loss=loss)
