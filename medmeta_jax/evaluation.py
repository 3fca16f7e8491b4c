"""Evaluation: a fixed list of episodes, predictions first, scores from them after."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medmeta_jax import parallel, processes
from medmeta_jax.labels import Kind, kind_of
from medmeta_jax.metrics.intervals import Estimate, over_classes, over_episodes
from medmeta_jax.metrics.pooled import over_blocks
from medmeta_jax.types import Array, Episode, Examples, MetaLearner, Params

# Episodes of one call, a device: lists of every length share one executable. The last call repeats
# some, which on a CPU, where one follows another, takes as long as others would.
BLOCK, BLOCK_ON_CPU = 25, 5


class Predictions(NamedTuple):
    """Query predictions of a list of episodes, on the host.

    logits: [E, n, ways]; y: [E, n], or [E, n, ways] of several labels, or [E, n] float of values,
    or [E, n, M, 2, axes] float of objects; mask: [E, n]; classes: [E, ways], the pool's labels.
    """

    logits: np.ndarray
    y: np.ndarray
    mask: np.ndarray
    classes: np.ndarray


class FixedEpisodes(NamedTuple):
    """A fixed list of episodes: keys [E] of a sampler over a pool; by the devices of a mesh.

    >>> import functools
    >>> from medmeta_jax.data.episodes import EpisodeSpec, sample
    >>> from medmeta_jax.data.pool import example_pool
    >>> sampler = functools.partial(sample, spec=EpisodeSpec(ways=3, queries=2))
    >>> len(FixedEpisodes(sampler, example_pool(), episode_keys(0, 5)).keys)
    5
    """

    sampler: Any
    pool: Any
    keys: Array
    mesh: Mesh | None = None


def episode_keys(seed: int, count: int) -> Array:
    """The keys of a fixed list of episodes; its first n are the same for every count.

    >>> bool((episode_keys(0, 5)[:3] == episode_keys(0, 3)).all())
    True
    """
    base = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(count))


def sample_key(key: Array) -> Array:
    """The part of an episode's key that its sampler gets; the rest is the learner's."""
    return jax.random.split(key)[0]


Family = Callable[..., MetaLearner]  # settings, numbers that may be traced -> a learner


@functools.lru_cache(maxsize=64)
def only(learner: MetaLearner) -> Family:
    """The family of one learner, which has no settings."""
    return lambda: learner


def block_size(mesh: Mesh | None) -> int:
    """Episodes of one call, on all devices."""
    on_cpu = jax.default_backend() == "cpu"
    return (BLOCK_ON_CPU if on_cpu else BLOCK) * (mesh.size if mesh is not None else 1)


def each(function: Callable[..., Any], of_episode: Any) -> Any:
    """A function of each episode's part of a tree: one after another, or on accelerators side by
    side."""
    chunk = parallel.default_chunk(len(jax.tree.leaves(of_episode)[0]))
    return jax.lax.map(function, of_episode, batch_size=chunk if chunk > 1 else None)


def jitted(run: Callable[..., Any], mesh: Mesh | None, by_task: tuple[bool, ...]) -> Any:
    """A function compiled, over the devices of a mesh if given; `by_task` says which of its
    arguments have an entry an episode, as what it returns."""
    if mesh is None:
        return jax.jit(run)
    specs = tuple(parallel.BY_TASK if one else parallel.EVERYWHERE for one in by_task)
    over = parallel.spread(run, mesh, specs, parallel.BY_TASK)
    return jax.jit(over, compiler_options=parallel.compiler_options(mesh))


@functools.lru_cache(maxsize=64)
def compiled_draw(sampler: Any, mesh: Mesh | None) -> Any:
    """The program that draws episodes: quick to compile anew for each pool and number of shots,
    where `compiled` is slow."""

    def run(pool: Any, keys: Array) -> Episode:
        drawn: Episode = each(lambda key: sampler(sample_key(key), pool), keys)
        return drawn

    return jitted(run, mesh, (False, True))


@functools.lru_cache(maxsize=64)
def compiled(family: Family, mesh: Mesh | None) -> Any:
    """The evaluation program of a family: one executable for all settings, step counts and pools
    whose episodes are of one shape."""

    def run(params: Params, drawn: Episode, keys: Array, steps: Array | None, settings: Any) -> Any:
        learner = family(*settings)

        def one(of_episode: tuple[Episode, Array]) -> Any:
            episode, key = of_episode
            adapted = learner.adapt(params, episode.support, jax.random.split(key)[1], steps)
            query: Examples = episode.query
            logits = learner.predict(adapted, query.x, query.mask)
            truth = query.y if episode.truth is None else episode.truth
            return logits, truth, query.mask, episode.classes

        return each(one, (drawn, keys))

    return jitted(run, mesh, (False, True, True, False, False))


def predict_episodes(
    learner: MetaLearner | Family,
    params: Params,
    episodes: FixedEpisodes,
    *,
    steps: int | None = None,
    settings: tuple[float, ...] = (),
) -> Predictions:
    """Adapt to each episode's support and predict its query set.

    Args:
      learner: a learner, or a family: a function from `settings` to one.
      steps: inner steps in place of the learner's own.

    >>> import functools
    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.backbones.pixels import pixels
    >>> from medmeta_jax.data.episodes import EpisodeSpec, sample
    >>> from medmeta_jax.data.pool import example_pool
    >>> sampler = functools.partial(sample, spec=EpisodeSpec(ways=3, queries=2))
    >>> episodes = FixedEpisodes(sampler, example_pool(), episode_keys(0, 5))
    >>> predict_episodes(protonet(pixels(), outputs=3), {"body": {}}, episodes).logits.shape
    (5, 6, 3)
    """
    family = only(learner) if isinstance(learner, MetaLearner) else learner
    draw = compiled_draw(episodes.sampler, episodes.mesh)
    run = compiled(family, episodes.mesh)
    count = None if steps is None else np.asarray(steps, np.int32)
    numbers = tuple(np.asarray(value, np.float32) for value in settings)
    total = episodes.keys.shape[0]
    block = block_size(episodes.mesh)
    places = np.arange(-(-total // block) * block) % total  # the last block repeats some
    every = (episodes.keys[places[i : i + block]] for i in range(0, len(places), block))
    blocks = [run(params, draw(episodes.pool, keys), keys, count, numbers) for keys in every]
    parts = zip(*processes.fetch(blocks), strict=True)
    return Predictions(*(np.concatenate(part)[:total] for part in parts))


class Scores(NamedTuple):
    """Scores of a learner on a list of episodes, and the predictions that they are of.

    per_episode: by name, [E] each. by_classes: the 95% interval of the first of `kind.columns` when
    classes are resampled. read: the predictions as `kind.read` has them.
    """

    kind: Kind
    per_episode: dict[str, np.ndarray]
    by_classes: tuple[float, float]
    predictions: Predictions
    read: tuple[Any, ...]

    def every(self) -> dict[str, np.ndarray]:
        """`per_episode`, and the scores that take longer."""
        return {**self.per_episode, **self.kind.more(*self.read[:3])}

    @property
    def main(self) -> np.ndarray:
        """The score [E] that rows are compared by."""
        return self.per_episode[self.kind.columns[0]]

    def estimate(self, name: str) -> Estimate:
        """Mean and 95% interval over episodes of a score of `per_episode`."""
        return over_episodes(self.per_episode[name])

    @property
    def headline(self) -> Estimate:
        """What is chosen by: accuracy of classes, AUROC of several labels, R² of values."""
        return self.estimate(self.kind.chosen_by)

    def pooled(self) -> dict[str, Estimate]:
        """The scores of all predictions together, with their intervals."""
        return over_blocks(self.kind.pooled, *self.read)


def score_predictions(predictions: Predictions) -> Scores:
    """The scores of an episode that follow from what its labels are (`labels.py`), and the
    bootstrap over classes.

    A prediction that is not finite (an adaptation that diverged) counts as wrong.
    """
    kind = kind_of(predictions.y, predictions.classes)
    read = kind.read(*predictions)
    by_classes = over_classes(*kind.each(*read))
    return Scores(kind, kind.by_episode(*read[:3]), by_classes, predictions, read)


def evaluate(
    learner: MetaLearner | Family,
    params: Params,
    episodes: FixedEpisodes,
    *,
    steps: int | None = None,
    settings: tuple[float, ...] = (),
) -> Scores:
    """`score_predictions` of `predict_episodes`.

    >>> import functools
    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.backbones.pixels import pixels
    >>> from medmeta_jax.data.episodes import EpisodeSpec, sample
    >>> from medmeta_jax.data.pool import example_pool
    >>> sampler = functools.partial(sample, spec=EpisodeSpec(ways=3, queries=2))
    >>> episodes = FixedEpisodes(sampler, example_pool(), episode_keys(0, 5))
    >>> evaluate(protonet(pixels(), outputs=3), {"body": {}}, episodes).estimate("accuracy")
    Estimate(mean=1.0, ci95=0.0)
    """
    return score_predictions(
        predict_episodes(learner, params, episodes, steps=steps, settings=settings)
    )
