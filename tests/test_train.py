"""Training: what the mean is, what is traced, what a resume and a NaN do."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax import train
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.checkpoint import (
    CheckpointError,
    Checkpoints,
    SaveError,
    packed,
    to_raw,
    unpacked,
)
from medmeta_jax.evaluation import FixedEpisodes, episode_keys, evaluate
from medmeta_jax.losses import accuracy
from medmeta_jax.meta_gradient import make_episode_loss, of_the_mean
from medmeta_jax.metrics.intervals import over_episodes
from medmeta_jax.types import Episode, Examples, MetaLearner

from .conftest import WAYS, tiny_backbone


def sampler(key: jax.Array, pool: jax.Array) -> Episode:
    """Classes are the pool's images [K, 8, 8, 1] plus noise."""
    order_key, support_key, query_key = jax.random.split(key, 3)
    chosen = jax.random.permutation(order_key, pool.shape[0])[:WAYS]

    def side(side_key: jax.Array, per_class: int) -> Examples:
        y = jnp.repeat(jnp.arange(WAYS), per_class)
        x = pool[chosen][y]
        x = x + 0.5 * jax.random.normal(side_key, x.shape)
        return Examples(x, y, jnp.ones(y.shape, bool))

    return Episode(side(support_key, 1), side(query_key, 3), chosen)


POOL = jax.random.normal(jax.random.key(9), (10, 8, 8, 1))
EXAMPLE = jnp.zeros((WAYS, 8, 8, 1))
# Clipped: without, training is so unstable that rounding decides what is learnt.
OPTIMISER = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.05, momentum=0.9))


@pytest.fixture(scope="module")
def learner() -> MetaLearner:
    return maml(tiny_backbone(), outputs=WAYS, steps=2)


@pytest.fixture(scope="module")
def step(learner: MetaLearner) -> train.Step:
    made = train.make_step(learner, sampler, OPTIMISER, accuracy, meta_batch=4, dispatch=4)
    return made


@pytest.fixture
def progress(learner: MetaLearner) -> train.Progress:
    return train.start(train.init_state(learner, OPTIMISER, jax.random.key(0), EXAMPLE))


def finish(step: train.Step, progress: train.Progress, steps: int, **options) -> train.Report:
    *_, last = train.fit(step, progress, POOL, steps=steps, dispatch=4, **options)
    return last


@pytest.mark.parametrize("chunk", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_gradient_is_the_mean_over_episodes(learner: MetaLearner, chunk: int) -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    params = learner.init(jax.random.key(0), EXAMPLE)
    one = jnp.zeros((), jnp.int32)

    def mean_loss(theta):
        def loss(key):
            a, b = jax.random.split(key)
            return learner.loss(theta, sampler(a, POOL), b, one)[0]

        return jnp.stack([loss(keys[i]) for i in range(2)]).mean()

    value, expected = jax.jit(jax.value_and_grad(mean_loss))(params)
    episode_loss = make_episode_loss(learner, sampler, accuracy)
    gradient = jax.jit(of_the_mean(episode_loss, chunk, None))
    found, loss, _, _ = gradient(params, (), POOL, keys, one)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss, value, rtol=1e-5)


class Sized:
    """A compiled program that says it needs so many bytes, half of them aliased."""

    def __init__(self, needed: int) -> None:
        self.sizes = SimpleNamespace(
            temp_size_in_bytes=needed, argument_size_in_bytes=10,
            output_size_in_bytes=10, alias_size_in_bytes=20,
        )  # fmt: skip

    def memory_analysis(self) -> SimpleNamespace:
        return self.sizes


@pytest.mark.parametrize(
    ("limit", "chosen", "tried"),
    [(None, 8, [8]), (800, 8, [8]), (799, 4, [8, 4]), (50, 1, [8, 4, 2, 1])],
)
def test_the_chunk_is_the_largest_that_fits(
    limit: int | None, chosen: int, tried: list[int]
) -> None:
    compiled = []

    def compile_at(chunk: int) -> Sized:
        compiled.append(chunk)
        return Sized(100 * chunk)

    chunk, program = train.first_that_fits(compile_at, [8, 4, 2, 1], limit)
    assert (chunk, compiled) == (chosen, tried)
    assert program.sizes.temp_size_in_bytes == 100 * chosen


def test_training_learns(learner: MetaLearner, step: train.Step, progress: train.Progress) -> None:
    test = FixedEpisodes(sampler, POOL, episode_keys(1, 100))
    before = evaluate(learner, progress.state.params, test)
    last = finish(step, progress, 60)
    after = evaluate(learner, last.progress.state.params, test)
    gain = over_episodes(after.per_episode["accuracy"] - before.per_episode["accuracy"])
    assert gain.mean - gain.ci95 > 0.08


def test_one_trace_for_a_whole_run(learner: MetaLearner) -> None:
    """Dispatches of different lengths, a resume and the end of a run compile nothing new."""
    traced = chex.assert_max_traces(n=1)(sampler)
    step = train.make_step(learner, traced, OPTIMISER, accuracy, meta_batch=2, dispatch=4)
    state = train.init_state(learner, OPTIMISER, jax.random.key(0), EXAMPLE)
    last = finish(step, train.start(state), 10, validate=lambda p: 0.0, validate_every=3)
    assert finish(step, last.progress, 13).step == 13
    assert step._cache_size() == 1


def test_dispatches_end_where_they_should(step: train.Step, progress: train.Progress) -> None:
    scores = iter([0.3, 0.9, 0.5, 0.6])
    reports = list(
        train.fit(
            step, progress, POOL, steps=10, dispatch=4, validate=lambda p: next(scores),
            validate_every=3,
        )
    )  # fmt: skip
    assert [r.step for r in reports] == [3, 4, 6, 8, 9, 10]
    assert [r.valid for r in reports] == [0.3, None, 0.9, None, 0.5, 0.6]
    assert [r.progress is not None for r in reports] == [True, False, True, False, True, True]
    assert [len(r.metrics.loss) for r in reports] == [3, 1, 2, 2, 1, 1]
    last = reports[-1].progress
    assert (float(last.best_score), int(last.best_step), int(last.stale)) == (
        pytest.approx(0.9), 6, 2,
    )  # fmt: skip


def test_best_parameters_are_kept(step: train.Step, progress: train.Progress) -> None:
    seen = []

    def validate(params):
        seen.append(jax.tree.map(np.asarray, params))
        return [0.5, 0.7, 0.6][len(seen) - 1]

    last = finish(step, progress, 12, validate=validate, validate_every=4)
    chex.assert_trees_all_equal(last.progress.best_params, seen[1])


def test_early_stop(step: train.Step, progress: train.Progress) -> None:
    scores = iter([0.5, 0.4, 0.4, 0.9])
    last = finish(step, progress, 16, validate=lambda p: next(scores), validate_every=4, patience=2)
    assert last.step == 12
    assert int(last.progress.best_step) == 4


def test_told_to_stop(step: train.Step, progress: train.Progress) -> None:
    last = finish(step, progress, 16, told_to_stop=lambda: True)
    assert last.step == 4
    assert int(last.progress.state.step) == 4


def test_resume_is_bit_equal(
    learner: MetaLearner, step: train.Step, progress: train.Progress, tmp_path: Path
) -> None:
    """100 steps equal 50, a stop, a restore from disk, and 50 more."""
    like = train.start(train.init_state(learner, OPTIMISER, jax.random.key(5), EXAMPLE))
    half = finish(step, train.start(jax.tree.map(jnp.copy, progress.state)), 50).progress
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(50, half)
    checkpoints.close()
    straight = finish(step, progress, 100).progress
    at, restored = Checkpoints(tmp_path / "checkpoints").restore(like)
    assert at == 50
    resumed = finish(step, restored, 100).progress
    key_data = [jax.random.key_data(p.state.key) for p in (resumed, straight)]
    np.testing.assert_array_equal(*key_data)
    chex.assert_trees_all_equal(resumed.state._replace(key=0), straight.state._replace(key=0))


def test_a_disk_without_room_is_a_clear_error(progress: train.Progress, tmp_path: Path) -> None:
    """A file size limit stands for it: the save fails, and the earlier one is named."""
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, progress)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(SaveError, match=r"step 2 cannot be written .*whole ones: \[1\]"):
            checkpoints.save(2, progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_checkpoints_are_checked(progress: train.Progress, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoints.restore(progress)
    for at in (1, 2, 3):
        checkpoints.save(at, progress)
    assert checkpoints.steps() == [2, 3]
    other = progress._replace(stale=jnp.zeros((2,), jnp.int32))
    with pytest.raises(CheckpointError, match=r"\.stale is int32\(\), the configuration wants"):
        checkpoints.restore(other)
    other = progress._replace(best_params={"elsewhere": jnp.zeros(1)})
    with pytest.raises(CheckpointError, match="does not fit the configuration, differs in"):
        checkpoints.restore(other)
    half = jax.tree.map(lambda leaf: leaf, progress)._replace(best_score=jnp.zeros((), jnp.float16))
    with pytest.raises(CheckpointError, match=r"\.best_score is float32"):
        checkpoints.restore(half)
    checkpoints.close()
    for file in sorted((folder / "3").rglob("*")):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"c/3: damaged .*go on from step 2"):
        Checkpoints(folder).restore(progress)


def test_many_arrays_are_kept_as_few() -> None:
    """Of every dtype and shape, in whatever order."""
    raw = {
        ".a": np.arange(6.0, dtype=np.float32).reshape(2, 3), ".n": np.asarray(-3, np.int32),
        ".key": np.asarray([7, 2**32 - 1], np.uint32), ".b": np.full((1, 1, 2), np.nan, np.float32),
        ".none": np.zeros((0, 4), np.float32), ".yes": np.asarray(True),
        ".last": np.asarray([9.0], np.float32),
        ".half": np.asarray(jnp.ones(3, jnp.bfloat16)),
    }  # fmt: skip
    saved = packed(raw)
    assert sorted(saved) == ["bfloat16", "bool", "float32", "index", "int32", "uint32"]
    assert saved["float32"].shape == (9,)
    again = unpacked(saved)
    assert list(again) == list(raw)
    for name, array in raw.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


def test_a_checkpoint_with_an_array_a_path_is_read_too(
    progress: train.Progress, tmp_path: Path
) -> None:
    """As they were written before."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints._orbax.save(1, to_raw(progress))
    at, found = checkpoints.restore(progress)
    assert at == 1
    for one, other in zip(to_raw(found).values(), to_raw(progress).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_index_that_does_not_fit_is_damage(progress: train.Progress, tmp_path: Path) -> None:
    saved = packed(to_raw(progress))
    checkpoints = Checkpoints(tmp_path)
    for step, text in ((1, "{"), (2, '[[".a", "float8", [1]]]'), (3, '[[".a", "int32", [99]]]')):
        index = np.frombuffer(text.encode(), np.uint8)
        checkpoints._orbax.save(step, {**saved, "index": index})
        with pytest.raises(CheckpointError, match=f"{step}: damaged"):
            checkpoints.restore(progress)


def test_a_nan_stops_the_run(learner: MetaLearner, progress: train.Progress) -> None:
    """A class that turns to NaN: the step is named, and no progress comes after it."""
    poisoned = POOL.at[4].set(jnp.nan)
    step = train.make_step(learner, sampler, OPTIMISER, accuracy, meta_batch=1, dispatch=2)
    seen = []

    def train_until_it_stops():
        options = {"steps": 50, "dispatch": 2, "validate": lambda p: 0.0, "validate_every": 2}
        for report in train.fit(step, progress, poisoned, **options):
            seen.append(report)
            chex.assert_tree_all_finite(report.metrics._asdict())
            if report.progress is not None:
                chex.assert_tree_all_finite(report.progress.state.params)

    with pytest.raises(train.NonFiniteError, match="at step") as error:
        train_until_it_stops()
    assert error.value.step >= (seen[-1].step if seen else 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"meta_batch": 0}, "meta_batch must be >= 1"),
        ({"meta_batch": 4, "chunk": 3}, "chunk must divide 4 episodes a device, got 3"),
        ({"meta_batch": 4, "dispatch": 0}, "dispatch must be >= 1"),
    ],
)
def test_make_step_refuses_nonsense(learner: MetaLearner, bad, message) -> None:
    with pytest.raises(ValueError, match=message):
        train.make_step(learner, sampler, OPTIMISER, accuracy, **bad)
