"""What an augmentation op is, and how a chain of them is applied in one resampling.

Geometric ops give a matrix and not an image: a chain multiplies its matrices and reads
the image once, so four ops blur no more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from medmeta_jax.ops.draws import normal
from medmeta_jax.types import (
    Array,
    Episode,
    Examples,
    Info,
    MetaLearner,
    Params,
    PyTree,
    check_examples,
    select,
)


class Op(NamedTuple):
    """One random change of one image, of which exactly one kind is given.

    affine: key -> [3, 3], from output to input coordinates (row, column, 1), the image
        spanning [-1, 1] along each axis. Moves label maps with the image, and every slice of a
        volume alike.
    displacement: (key, height, width) -> [2, height, width], added to those coordinates (row,
        column) of each output pixel. Moves label maps too.
    intensity: (key, image [H, W, C] or [D, H, W, C]) -> image. Leaves label maps alone.
    marked: (key, image, label map [H, W] or [D, H, W]) -> image, changed where things are marked.
        Of images that have label maps.

    alike: whether it changes how a whole task was taken, and so is drawn once for an episode.

    All are differentiable in the magnitude that they were made with, which may be traced, but for
    what is drawn by chance (`flip`, `drop_modalities`, `recontrast`).
    """

    affine: Callable[[Array], Array] | None = None
    displacement: Callable[[Array, int, int], Array] | None = None
    intensity: Callable[[Array, Array], Array] | None = None
    marked: Callable[[Array, Array, Array], Array] | None = None
    alike: bool = False


def require_magnitude(magnitude: float | Array, most: float, unit: str = "") -> None:
    """ValueError where a magnitude is not from 0 to `most`; one that is traced is taken."""
    if not isinstance(magnitude, jax.core.Tracer) and not 0 <= magnitude <= most:
        raise ValueError(f"magnitude must be in [0, {most:g}]{unit}, got {magnitude}")


def spatial_axes(image: Array) -> tuple[int, ...]:
    """All axes of an image [..., C] but its channels."""
    return tuple(range(image.ndim - 1))


def smooth_field(key: Array, knots: tuple[int, ...], size: tuple[int, int]) -> Array:
    """Normal values at knots [..., a, b], and a smooth surface through them: [..., *size]."""
    values = normal(key, knots)
    return jax.image.resize(values, (*knots[:-2], *size), "cubic")


def blurred(image: Array, spread: Array | float, reach: int) -> Array:
    """An image [..., H, W, C] under a Gaussian of so many pixels that is cut off after `reach`, in
    the plane; edges are repeated."""
    away = jnp.arange(-reach, reach + 1, dtype=image.dtype)
    weights = jnp.exp(-0.5 * (away / jnp.maximum(spread, 0.05)) ** 2)
    weights /= weights.sum()
    for axis in (-3, -2):
        ends = [(0, 0)] * image.ndim
        ends[axis] = (reach, reach)
        wide = jnp.pad(image, ends, mode="edge")
        size = image.shape[axis]
        parts = [
            jax.lax.slice_in_dim(wide, i, i + size, axis=axis % image.ndim)
            for i in range(2 * reach + 1)
        ]
        image = jnp.tensordot(weights, jnp.stack(parts), 1)
    return image


def affine(rows: Sequence[Sequence[Array | float]]) -> Array:
    """A [3, 3] matrix from its first two rows, in JAX's default float type."""
    return jnp.asarray([*map(list, rows), [0.0, 0.0, 1.0]], float)


def apply_ops(
    ops: Sequence[Op], key: Array, image: Array, label_map: Array | None = None
) -> tuple[Array, Array | None]:
    """Apply a chain to image [H, W, C] and, where given, its label map [H, W] int; or to a volume
    [D, H, W, C] and [D, H, W], in the plane of its slices, by one matrix for all of them.

    Images are read bilinearly, label maps at the nearest pixel, edges are repeated. Raises
    ValueError where an op changes what is marked and there is no label map.

    >>> from medmeta_jax.augment.rotate import rotate
    >>> image, label_map = jnp.ones((8, 8, 1)), jnp.zeros((8, 8), jnp.int32)
    >>> image, label_map = apply_ops([rotate()], jax.random.key(0), image, label_map)
    >>> image.shape, label_map.shape, round(float(image.min()), 4)
    ((8, 8, 1), (8, 8), 1.0)
    """
    keys = jax.random.split(key, len(ops))
    height, width = image.shape[-3:-1]
    matrix, moves = jnp.eye(3, dtype=image.dtype), None
    for op, op_key in zip(ops, keys, strict=True):
        if op.affine is not None:
            matrix = matrix @ op.affine(op_key).astype(image.dtype)
        if op.displacement is not None:
            move = op.displacement(op_key, height, width).astype(image.dtype)
            moves = move if moves is None else moves + move
    if any(op.affine is not None or op.displacement is not None for op in ops):
        places = source_places(matrix, moves, height, width)
        planes = jnp.moveaxis(image, -1, 0)  # [C, H, W] or [C, D, H, W]
        moved = jax.vmap(lambda plane: map_coordinates(plane, places, order=1, mode="nearest"))(
            planes.reshape(-1, *planes.shape[-2:])
        )
        image = jnp.moveaxis(moved.reshape(planes.shape), 0, -1)
        if label_map is not None:
            rows, columns = (jnp.round(place).astype(jnp.int32) for place in places)
            label_map = label_map.at[..., rows, columns].get(mode="clip")
    for op, op_key in zip(ops, keys, strict=True):
        if op.intensity is not None:
            image = op.intensity(op_key, image)
        if op.marked is not None:
            if label_map is None:
                raise ValueError("an op changes what is marked, and there is no label map")
            image = op.marked(op_key, image, label_map)
    return image, label_map


def source_places(matrix: Array, moves: Array | None, height: int, width: int) -> list[Array]:
    """Where each output pixel [height, width] is read from, in pixels (rows, columns).

    moves: [2, height, width], added to where the matrix says, in its units.
    """
    dtype = matrix.dtype
    half = jnp.asarray([(height - 1) / 2, (width - 1) / 2], dtype)
    rows, columns = jnp.meshgrid(
        jnp.arange(height, dtype=dtype), jnp.arange(width, dtype=dtype), indexing="ij"
    )
    # In units of the larger half, so that a rotation of an oblong image does not shear it.
    unit = jnp.maximum(half.max(), 1.0)
    grid = jnp.stack([(rows - half[0]) / unit, (columns - half[1]) / unit, jnp.ones_like(rows)])
    moved = jnp.einsum("ij,jhw->ihw", matrix[:2], grid)
    moved = moved if moves is None else moved + moves
    return [moved[0] * unit + half[0], moved[1] * unit + half[1]]


def augment_examples(
    ops: Sequence[Op], key: Array, examples: Examples, channels: int | None = None
) -> Examples:
    """Every example with its own draw of the chain, from a key for all or from one for each [n];
    label maps [n, H, W] or [n, D, H, W] move along. Of its channels the first so many are the
    image's, and any others stay as they are."""
    keys = key if key.ndim else jax.random.split(key, examples.mask.shape[0])
    label_maps = examples.y if examples.y.ndim == examples.x.ndim - 1 else None
    images = examples.x[..., :channels]
    x, moved = jax.vmap(lambda *each: apply_ops(ops, *each))(keys, images, label_maps)
    if channels is not None:
        x = jnp.concatenate([x, examples.x[..., channels:]], -1)
    return examples._replace(x=x, y=examples.y if moved is None else moved)


def augmented(
    learner: MetaLearner,
    *,
    support: Sequence[Op] = (),
    query: Sequence[Op] = (),
    task: Sequence[Op] = (),
    episode: Sequence[Op] = (),
    channels: int | None = None,
) -> MetaLearner:
    """The learner meta-trained on augmented episodes; `adapt` and `predict` see clean ones.

    Args:
      support, query: the ops of either side, drawn for each image.
      task: ops drawn once for each way of an episode, and applied to all its images on both sides,
        so that it becomes another class (Ni et al., 2021, arXiv 2010.07092); where labels are no
        classes, once for the episode.
      episode: ops drawn once for an episode, and applied to all its images on both sides.
      channels: how many of an example's are the image's, where others are of covariates.

    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.augment.flip import flip
    >>> from medmeta_jax.backbones.pixels import pixels
    >>> learner = protonet(pixels(), outputs=2)
    >>> augmented(learner, query=[flip()]).adapt is learner.adapt
    True
    """

    def loss(params: Params, drawn: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        one, other = drawn.support, drawn.query
        if task:
            task_key, key = jax.random.split(key)
            one, other = (augment_ways(task, task_key, side, channels) for side in (one, other))
        support_key, query_key, key = jax.random.split(key, 3)
        if support:
            one = augment_examples(support, support_key, one, channels)
        if query:
            other = augment_examples(query, query_key, other, channels)
        if episode:
            episode_key, key = jax.random.split(key)
            one, other = (augment_alike(episode, episode_key, s, channels) for s in (one, other))
        return learner.loss(params, drawn._replace(support=one, query=other), key, step)

    return learner._replace(loss=loss)


def augment_ways(
    ops: Sequence[Op], key: Array, examples: Examples, channels: int | None = None
) -> Examples:
    """Every example changed as all others of its way; where y is no class, all alike."""
    of_classes = examples.y.ndim == 1 and jnp.issubdtype(examples.y.dtype, jnp.integer)
    ways = examples.y if of_classes else jnp.zeros(examples.mask.shape, jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ways)
    return augment_examples(ops, keys, examples, channels)


def augment_alike(
    ops: Sequence[Op], key: Array, examples: Examples, channels: int | None = None
) -> Examples:
    """Every example changed as all others."""
    keys = jnp.broadcast_to(key, examples.mask.shape)
    return augment_examples(ops, keys, examples, channels)


def with_more_shots(learner: MetaLearner, ops: Sequence[Op]) -> MetaLearner:
    """The learner, adapting to its support and to a changed copy of each of its examples, at
    meta-test as in meta-training.

    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.augment.flip import flip
    >>> from medmeta_jax.backbones.pixels import pixels
    >>> learner = protonet(pixels(), outputs=2)
    >>> with_more_shots(learner, [flip()]).predict is learner.predict
    True
    """

    def more(params: Params, key: Array, support: Examples) -> Examples:
        clean = support._replace(x=select(support.x, support.mask))
        copies = augment_examples(ops, key, clean)
        return jax.tree.map(lambda *sides: jnp.concatenate(sides), clean, copies)

    return adapting_to(learner, more)


def adapting_to(
    learner: MetaLearner,
    more: Callable[[Params, Array, Examples], Examples],
    own: Callable[[Params], Params] = lambda params: params,
) -> MetaLearner:
    """The learner, adapting to what `more` makes of a support: (meta_params, key, support) -> it.

    own: of these meta-parameters the learner's.
    """

    def made(params: Params, key: Array, support: Examples) -> Examples:
        check_examples(support, "support")
        return more(params, key, support)

    def adapt(params: Params, support: Examples, key: Array, steps: Any = None) -> PyTree:
        more_key, key = jax.random.split(key)
        return learner.adapt(own(params), made(params, more_key, support), key, steps)

    def loss(params: Params, episode: Episode, key: Array, step: Array) -> tuple[Array, Info]:
        more_key, key = jax.random.split(key)
        episode = episode._replace(support=made(params, more_key, episode.support))
        return learner.loss(own(params), episode, key, step)

    return learner._replace(adapt=adapt, loss=loss)
