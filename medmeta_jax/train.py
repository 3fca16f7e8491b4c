"""Meta-training: the compiled step, and the loop around it.

This module knows neither algorithms nor data sets: a learner, a sampler and an optimiser
are values that it puts together.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from medmeta_jax import parallel
from medmeta_jax.feed import Feed, Resident, spans
from medmeta_jax.meta_gradient import (
    EpisodeLoss,
    Sampler,
    Score,
    make_episode_loss,
    of_an_objective,
    of_the_mean,
    step_keys,
)
from medmeta_jax.objectives import Objective
from medmeta_jax.types import Array, MetaLearner, Params, PyTree

Step = Any  # a compiled (state, pool, count) -> (state, metrics), see `make_step`


class TrainState(NamedTuple):
    """All that a training step changes. Everything random follows from (key, step).

    objective: what an objective carries from step to step; nothing for the mean.
    """

    params: Params
    opt_state: PyTree
    key: Array
    step: Array
    objective: PyTree = ()


class StepMetrics(NamedTuple):
    """Means over a step's episodes, and the gradient's norm; [dispatch] each when stacked."""

    loss: Any
    score: Any
    grad_norm: Any


@functools.partial(jax.jit, static_argnames=("learner", "optimiser"))
def init_state(
    learner: MetaLearner,
    optimiser: optax.GradientTransformation,
    key: Array,
    example_x: PyTree,
    objective: PyTree = (),
) -> TrainState:
    """A fresh state; `example_x` is shaped like one episode's `support.x`, `objective` is what
    `Objective.init` gave.

    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner, x = protonet(conv4(width=2, depth=1), outputs=3), jnp.zeros((3, 8, 8, 1))
    >>> int(init_state(learner, optax.adam(1e-3), jax.random.key(0), x).step)
    0
    """
    init_key, run_key = jax.random.split(key)
    params = learner.init(init_key, example_x)
    start = jnp.zeros((), jnp.int32)
    return TrainState(params, optimiser.init(params), run_key, start, objective)


def first_that_fits(
    compile_at: Callable[[int], Any], chunks: Sequence[int], limit: int | None
) -> tuple[int, Any]:
    """The first chunk whose compiled step needs at most `limit` bytes, and that step.

    The last one is taken whatever it needs; without a limit, the first.
    """
    for chunk in chunks[:-1]:
        compiled = compile_at(chunk)
        if limit is None or parallel.needed_bytes(compiled) <= limit:
            return chunk, compiled
    return chunks[-1], compile_at(chunks[-1])


def make_step(
    learner: MetaLearner,
    sampler: Sampler,
    optimiser: optax.GradientTransformation,
    score: Score,
    *,
    meta_batch: int,
    chunk: int = 1,
    dispatch: int = 1,
    mesh: Mesh | None = None,
    objective: Objective | None = None,
    through: Callable[[EpisodeLoss], EpisodeLoss] | None = None,
    held: Any = parallel.EVERYWHERE,
) -> Step:
    """One compiled, donated program: sampling, meta-gradient, optimiser update.

    Args:
      meta_batch: episodes a step.
      chunk: episodes run side by side, a divisor of `meta_batch`; see `parallel.default_chunk`.
      dispatch: the most steps that one call may take.
      mesh: devices to spread the episodes over, from `parallel.task_mesh`; the result is
        the same up to the order of one sum. `state` and `pool` are then on all of them.
      objective: of the episodes' losses; None is their mean.
      through: a transformation of an episode's loss, such as `mldg`.
      held: how the pool lies on the mesh, a spec or a tree of them; see `Feed`.

    Returns:
      step(state, pool, count) -> (state, metrics): `count` <= `dispatch` steps in one
      dispatch, by one executable for every count. Metrics are [dispatch] each, of which
      the first `count` hold. `state` is donated: use the returned one.

    >>> import functools
    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> from medmeta_jax.data.episodes import EpisodeSpec, sample
    >>> from medmeta_jax.data.pool import example_pool
    >>> from medmeta_jax.losses import accuracy
    >>> learner, optimiser = protonet(conv4(width=2, depth=1), outputs=3), optax.adam(1e-3)
    >>> sampler = functools.partial(sample, spec=EpisodeSpec(ways=3, queries=2))
    >>> step = make_step(learner, sampler, optimiser, accuracy, meta_batch=2)
    >>> state = init_state(learner, optimiser, jax.random.key(0), jnp.zeros((3, 8, 8, 1)))
    >>> state, metrics = step(state, example_pool(), 1)
    >>> int(state.step), metrics.loss.shape
    (1, (1,))
    """
    if meta_batch < 1:
        raise ValueError(f"meta_batch must be >= 1, got {meta_batch}")
    share = meta_batch
    if mesh is not None:
        if meta_batch % mesh.size:
            raise ValueError(
                f"meta_batch must be a multiple of the {mesh.size} devices, got {meta_batch}"
            )
        share = meta_batch // mesh.size
    if chunk < 1 or share % chunk:
        raise ValueError(f"chunk must divide {share} episodes a device, got {chunk}")
    if dispatch < 1:
        raise ValueError(f"dispatch must be >= 1, got {dispatch}")

    episode_loss = make_episode_loss(learner, sampler, score)
    if through is not None:
        episode_loss = through(episode_loss)
    if objective is None:
        gradient = of_the_mean(episode_loss, chunk, mesh, held)
    else:
        gradient = of_an_objective(episode_loss, objective, chunk, mesh, held)

    def one(pool: Any, state: TrainState) -> tuple[TrainState, StepMetrics]:
        keys = step_keys(state.key, state.step, meta_batch)
        grads, loss, judged, objective_state = gradient(
            state.params, state.objective, pool, keys, state.step
        )
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(loss, judged, optax.tree.norm(grads).astype(float))
        done = TrainState(params, opt_state, state.key, state.step + 1, objective_state)
        return done, metrics

    def several(state: TrainState, pool: Any, count: Array) -> tuple[TrainState, StepMetrics]:
        def body(i: Array, carry: tuple[TrainState, StepMetrics]) -> Any:
            state, kept = carry
            state, metrics = one(pool, state)
            return state, jax.tree.map(lambda all_, new: all_.at[i].set(new), kept, metrics)

        empty = StepMetrics(*(jnp.zeros((dispatch,)) for _ in StepMetrics._fields))
        return jax.lax.fori_loop(0, count, body, (state, empty))

    if mesh is None:
        return jax.jit(several, donate_argnums=0)
    every = parallel.everywhere(mesh)
    return jax.jit(
        several,
        donate_argnums=0,
        in_shardings=(every, parallel.shardings(held, mesh), every),
        out_shardings=every,
        compiler_options=parallel.compiler_options(mesh),
    )


class NonFiniteError(Exception):
    """Training met a loss or gradient that is not a finite number."""

    def __init__(self, step: int) -> None:
        super().__init__(f"loss or gradient is not finite at step {step}")
        self.step = step


class Progress(NamedTuple):
    """Training so far: what a checkpoint holds, and what a resume starts from.

    best_params are those of the highest meta-validation score, `stale` the number of
    validations since.
    """

    state: TrainState
    best_params: Params
    best_score: Array
    best_step: Array
    stale: Array


def start(state: TrainState) -> Progress:
    """Progress before the first step; the best so far is the initialisation, unscored.

    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner, x = protonet(conv4(width=2, depth=1), outputs=3), jnp.zeros((3, 8, 8, 1))
    >>> int(start(init_state(learner, optax.adam(1e-3), jax.random.key(0), x)).best_step)
    0
    """
    copy = jax.tree.map(jnp.copy, state.params)
    return Progress(
        state, copy, jnp.asarray(-jnp.inf), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    )


class Report(NamedTuple):
    """What `fit` yields after each dispatch.

    step: steps done. metrics: of this dispatch's steps. valid: meta-validation score,
    where one was due. seconds: of the dispatch, validation apart. progress: where training is at
    rest (at a validation, at the end, when told to stop) all there is to save; else None.
    """

    step: int
    metrics: StepMetrics
    valid: float | None
    seconds: float
    progress: Progress | None


def fit(
    step: Step,
    progress: Progress,
    pool: Feed | Any,
    *,
    steps: int,
    dispatch: int = 1,
    validate: Callable[[Params], float] | None = None,
    validate_every: int = 0,
    patience: int = 0,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Report]:
    """Train to `steps` steps in all, yielding after each dispatch.

    Dispatches end at multiples of `dispatch` and of `validate_every`, wherever training
    was resumed, so that a resumed run takes the same steps. The metrics of a dispatch
    are fetched while the next one runs.

    Args:
      step: from `make_step`, with the same `dispatch`.
      pool: on the device, or a `Feed`.
      validate: params -> score on meta-validation, higher is better; run every
        `validate_every` steps and at the end.
      patience: stop after so many validations without a better score; 0 never stops.
      told_to_stop: asked after each dispatch; when True, the last report holds progress.

    Raises NonFiniteError with the first bad step. No progress is ever yielded whose
    steps have not all been seen to be finite.

    >>> import functools
    >>> from medmeta_jax.algorithms.protonet import protonet
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> from medmeta_jax.data.episodes import EpisodeSpec, sample
    >>> from medmeta_jax.data.pool import example_pool
    >>> from medmeta_jax.losses import accuracy
    >>> learner, optimiser = protonet(conv4(width=2, depth=1), outputs=3), optax.adam(1e-3)
    >>> sampler = functools.partial(sample, spec=EpisodeSpec(ways=3, queries=2))
    >>> step = make_step(learner, sampler, optimiser, accuracy, meta_batch=2)
    >>> state = init_state(learner, optimiser, jax.random.key(0), jnp.zeros((3, 8, 8, 1)))
    >>> reports = list(fit(step, start(state), example_pool(), steps=2))
    >>> [report.step for report in reports]
    [1, 2]
    """
    began = time.perf_counter()
    behind: tuple[int, int, StepMetrics] | None = None
    marks = [dispatch, validate_every] if validate_every else [dispatch]

    def finished(dispatched: tuple[int, int, StepMetrics]) -> tuple[int, StepMetrics, float]:
        nonlocal began
        metrics = fetch(*dispatched)
        now = time.perf_counter()
        seconds, began = now - began, now
        return dispatched[1], metrics, seconds

    feed = pool if isinstance(pool, Feed) else Resident(pool)
    at = int(progress.state.step)
    with contextlib.closing(feed.pools(progress.state.key, spans(at, steps, marks))) as pools:
        for first, done in spans(at, steps, marks):
            if patience and int(progress.stale) >= patience:
                return
            count = np.asarray(done - first, np.int32)
            state, metrics = step(progress.state, next(pools), count)
            progress = progress._replace(state=state)
            if behind is not None:
                last, seen, seconds = finished(behind)
                yield Report(last, seen, None, seconds, None)
            behind = (first, done, metrics)
            due = bool(validate_every) and done % validate_every == 0
            if not (due or done == steps or told_to_stop()):
                continue
            last, seen, seconds = finished(behind)
            valid = None
            if validate is not None and (due or done == steps):
                valid = validate(state.params)
                progress = keep_best(progress, valid)
            yield Report(last, seen, valid, seconds, progress)
            behind, began = None, time.perf_counter()
            if told_to_stop():
                return


def fetch(first: int, last: int, device_metrics: StepMetrics) -> StepMetrics:
    """Metrics of steps `first` to `last` on the host, or NonFiniteError."""
    metrics = StepMetrics(*(np.asarray(m)[: last - first] for m in device_metrics))
    finite = np.isfinite(metrics.loss) & np.isfinite(metrics.grad_norm)
    if not finite.all():
        raise NonFiniteError(first + int(np.argmin(finite)))
    return metrics


def keep_best(progress: Progress, score: float) -> Progress:
    """Progress after a meta-validation score."""
    if score > float(progress.best_score):
        state = progress.state
        copy = jax.tree.map(jnp.copy, state.params)  # the state itself is donated away
        return progress._replace(
            best_params=copy,
            best_score=jnp.asarray(score, jnp.float32),
            best_step=jnp.copy(state.step),
            stale=jnp.zeros((), jnp.int32),
        )
    return progress._replace(stale=progress.stale + 1)
