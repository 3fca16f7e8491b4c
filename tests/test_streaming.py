"""Streaming: the same numbers as of a pool on the device, from images that stay in their files."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from medmeta_jax import (
    experiment as experiments,
    launch,
    parallel,
    running,
    tasks,
    train,
    uncertainty,
    verbs,
)
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.data import prepare as preparing, prepared, sources, stored as stored_images
from medmeta_jax.data.episodes import EpisodeSpec, episodes_hash, sample, sample_indices
from medmeta_jax.data.pool import Pool, fit_scaling, pool_hash
from medmeta_jax.data.prepare import prepare
from medmeta_jax.data.samples import DataError, Samples, to_channels
from medmeta_jax.data.splits import SIDES, Split, make_split
from medmeta_jax.data.stored import BLOCK, StoredImages, as_stored
from medmeta_jax.data.structures import structures
from medmeta_jax.evaluation import episode_keys, sample_key
from medmeta_jax.feed import Resident, spans
from medmeta_jax.losses import accuracy
from medmeta_jax.meta_gradient import step_keys
from medmeta_jax.plan import Judged, first_shots
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.streaming import Judging, Stream, images_of

from .conftest import tiny_backbone

ROOT = Path(__file__).parent.parent
META_BATCH, DISPATCH, STEPS, EVERY = 4, 4, 10, 3
COUNT = 9 * 60
SPEC = EpisodeSpec(ways=3, shots=1, queries=2)


def write_archive(path: Path, **more: np.ndarray | None) -> Path:
    """Nine classes of sixty 8-pixel images, in no order; each its own but for some copies."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(9), 60)
    images = rng.integers(0, 200, (9, 8, 8))[labels] + rng.integers(0, 55, (COUNT, 8, 8))
    images[1:40:4] = images[0:40:4]
    images[50] = images[70] = 7
    order = rng.permutation(COUNT)
    arrays = {"images": images.astype(np.uint8)[order], "labels": labels[order]} | more
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prepared folders by what is special to them, each of several files."""
    root = tmp_path_factory.mktemp("streaming")
    rng = np.random.default_rng(1)
    # Copies are of one group, and classes share none.
    groups = np.asarray([f"p{i}" for i in rng.integers(0, 200, COUNT)])
    several = rng.random((COUNT, 9)) < 0.15
    archives = {
        "plain": write_archive(root / "plain.npz"),
        "groups": write_archive(root / "groups.npz", groups=groups),
        "several": write_archive(
            root / "several.npz",
            labels=several,
            images=rng.integers(0, 256, (COUNT, 8, 8), np.uint8),
        ),
        "values": write_archive(
            root / "values.npz",
            labels=None,
            values=rng.normal(size=(COUNT, 9)).astype(np.float32),
            images=rng.integers(0, 256, (COUNT, 8, 8), np.uint8),
        ),
    }
    volumes = rng.integers(0, 256, (COUNT, 8, 8, 8), np.uint8)
    archives["volumes"] = write_archive(root / "volumes.npz", images=volumes)
    archives["masks"] = root / "with masks"
    write_masks(archives["masks"])
    whole = {"volumes": {"whole": True}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "SHARD_BYTES", 40_000)
        for name, archive in archives.items():
            prepare(str(archive), root / name, options=whole.get(name))
    return {name: str(root / name) for name in archives}


def write_masks(root: Path) -> None:
    """Images of ten pixels, each with a mask of two structures, or of one, or of none."""
    rng = np.random.default_rng(3)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(150):
        mask = rng.integers(0, 3 if i % 5 else 1 + i % 2, (10, 10), np.uint8)
        image = rng.integers(0, 150, (10, 10), np.uint8) + 50 * mask
        Image.fromarray(image).save(root / "images" / f"{i:03}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:03}.png")


def both(source: str, size: int = 8) -> tuple[Samples, Samples]:
    """A folder's samples in memory, and with their images in files."""
    masks = Path(source).name == "masks"
    stored, resident = (
        how(source, image_size=size, masks=masks) for how in (prepared.open_samples, sources.load)
    )
    assert isinstance(stored.images, StoredImages)
    return (structures(resident), structures(stored)) if masks else (resident, stored)


@functools.lru_cache
def splits(source: str) -> tuple[Split, Split]:
    memory, stored = both(source)
    return make_split(memory), make_split(stored)


def check_same_split(resident: Split, stored: Split) -> None:
    """All that a pool knows of its images, and the images."""
    np.testing.assert_array_equal(resident.scaling.shift, stored.scaling.shift)
    np.testing.assert_array_equal(resident.scaling.scale, stored.scaling.scale)
    assert not resident.stored
    for side in SIDES:
        one, other = resident.pools[side], stored.pools[side]
        assert pool_hash(one) == pool_hash(other)
        assert other.x.shape == (0, *one.x.shape[1:])
        for name, images in stored.stored[side].items():
            rows = getattr(one, name)
            np.testing.assert_array_equal(images.read().reshape(rows.shape), rows)
        assert set(stored.stored[side]) == {"x"} | ({"masks"} if one.masks is not None else set())
        left = dict.fromkeys((*stored.stored[side], "identity"))
        jax.tree.map(np.testing.assert_array_equal, one._replace(**left), other._replace(**left))


@pytest.mark.parametrize("kind", ["plain", "groups", "several", "values", "volumes", "masks"])
def test_a_split_of_stored_images_is_the_one_of_images_in_memory(folders, kind: str) -> None:
    resident, stored = splits(folders[kind])
    check_same_split(resident, stored)
    assert (resident.copies > 5) == (kind in ("plain", "groups"))
    same = resident._replace(pools={}, stored={}, scaling=None)
    assert same == stored._replace(pools={}, stored={}, scaling=None)


def test_several_sets_of_different_sizes_and_channels_on_one_scale(folders, tmp_path: Path) -> None:
    """Colour beside grey in a folder, another folder, and an archive in memory; standardised."""
    rng = np.random.default_rng(2)
    for i in range(24):
        (tmp_path / "raw" / "abcdef"[i % 6]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (9 + i % 3, 12, 3)[: 2 + i % 2], np.uint8)
        Image.fromarray(pixels).save(tmp_path / "raw" / "abcdef"[i % 6] / f"{i}.png")
    prepare(str(tmp_path / "raw"), tmp_path / "mixed")
    other = sources.load(str(write_archive(tmp_path / "c.npz")), image_size=8)
    other.images[:] = 255 - other.images
    mixed = both(str(tmp_path / "mixed"))
    plain = both(folders["plain"])
    judged = mixed[0]._replace(images=255 - mixed[0].images)
    resident, stored = (
        make_split(
            {"mixed": mixed[i], "other": other}, val=plain[i], test=judged, standardised=True
        )
        for i in range(2)
    )
    for side in ("train", "val"):
        assert pool_hash(resident.pools[side]) == pool_hash(stored.pools[side])
        np.testing.assert_array_equal(stored.stored[side]["x"].read(), resident.pools[side].x)
        assert resident.pools[side].x.shape[-1] == 3
    # What was in memory stays there.
    assert set(stored.stored) == {"train", "val"}
    assert len(stored.pools["test"].x) == 24
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(to_channels(to_channels(grey, 3), 1), grey)


def test_the_scaling_is_that_of_all_values_together() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 9, 7, 3), np.uint8) // np.asarray([1, 2, 9], np.uint8)
    images[..., 2] = 5
    values = images.reshape(-1, 3) / 255
    for given in (images, as_stored(images)[np.arange(300)]):
        scaling = fit_scaling(given)
        np.testing.assert_array_equal(scaling.shift, values.mean(0).astype(np.float32))
        expected = 1 / np.maximum(values.std(0), 1e-3)
        np.testing.assert_array_equal(scaling.scale, expected.astype(np.float32))


def test_images_are_read_by_place_and_not_before(folders) -> None:
    memory, stored = both(folders["plain"])
    read = []
    images = stored.images
    reader = images.readers[0]
    places = np.random.default_rng(0).permutation(COUNT)[: BLOCK + 5]

    class Counting:
        def read(self, places: np.ndarray) -> Any:
            read.extend(places.tolist())
            return reader.read(places)

    watched = StoredImages((Counting(),), images.part, images.place, images.shape[1:])
    some = watched[places][3:]
    assert (some.shape, len(some), read) == ((BLOCK + 2, 8, 8, 1), BLOCK + 2, [])
    np.testing.assert_array_equal(some.read(), memory.images[places[3:]])
    assert sorted(read) == sorted(places[3:].tolist())
    np.testing.assert_array_equal(np.asarray(some[:2]), memory.images[places[3:5]])


SPECS = {
    "plain": SPEC,
    "groups": dataclasses.replace(SPEC, shots=(1, 3), disjoint="group"),
    "several": SPEC,
    "values": dataclasses.replace(SPEC, ways=1, shots=5),
    "volumes": SPEC,
    "masks": dataclasses.replace(SPEC, ways=1, shots=2),
    "turned": dataclasses.replace(SPEC, ways=(2, 4), rotate=True),
    "proportional": dataclasses.replace(SPEC, balance="proportional"),
}


def mesh_of(devices: int) -> Any:
    return parallel.task_mesh(jax.devices()[:devices])


def stream_of(split: Split, spec: EpisodeSpec, mesh: Any, dispatch: int = DISPATCH) -> Stream:
    pool = parallel.replicate(split.pools["train"], mesh)
    return Stream(
        pool, split.stored["train"], spec, meta_batch=META_BATCH, dispatch=dispatch, mesh=mesh
    )


@pytest.mark.parametrize("name", SPECS)
def test_every_episode_is_the_one_of_the_pool_on_the_device(folders, name: str) -> None:
    """Spans of several lengths, begun at a step that no run begins at; a key of none is NaN."""
    resident, stored = splits(folders.get(name, folders["plain"]))
    spec, run = SPECS[name], jax.random.key(5)
    stream = stream_of(stored, spec, mesh_of(1))
    draw = jax.jit(functools.partial(sample, spec=spec))
    pools = stream.pools(run, iter([(7, 8), (8, 12), (12, 15)]))
    for first, last in ((7, 8), (8, 12), (12, 15)):
        pool = next(pools)
        assert pool.x.shape == (stream.count, *resident.pools["train"].x.shape[1:])
        for step in range(first, last):
            for key in step_keys(run, jnp.asarray(step), META_BATCH)[:: 1 + 2 * (step > 8)]:
                found, expected = (
                    draw(sample_key(key), p) for p in (pool, resident.pools["train"])
                )
                jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert next(pools, None) is None
    assert np.isnan(draw(run, pool).support.x).all()


def make_step(mesh: Any, stream: Any) -> tuple[Any, train.Progress]:
    """A compiled step of a tiny learner, and a fresh progress."""
    learner = protonet(tiny_backbone("support", "auto"), outputs=3)  # as users have it
    optimiser = optax.sgd(0.05, momentum=0.9)
    step = train.make_step(
        learner, functools.partial(sample, spec=SPEC), optimiser, accuracy, meta_batch=META_BATCH,
        dispatch=DISPATCH, mesh=mesh, held=stream.held,
    )  # fmt: skip
    state = train.init_state(learner, optimiser, jax.random.key(0), jnp.zeros((3, 8, 8, 1)))
    progress = parallel.replicate(train.start(state), mesh)
    like = jax.eval_shape(lambda: progress.state)
    return step.lower(like, stream.like, np.asarray(1, np.int32)).compile(), progress


@functools.lru_cache
def made(source: str, devices: int, streams: bool) -> tuple[Any, train.Progress, Any]:
    """Step, progress and pool of a run; the progress is to be copied."""
    resident, stored = splits(source)
    mesh = mesh_of(devices)
    feed: Any = Resident(parallel.replicate(resident.pools["train"], mesh))
    if streams:
        feed = stream_of(stored, SPEC, mesh)
    return *make_step(mesh, feed), feed


def finish(step: Any, progress: train.Progress, feed: Any, steps: int = STEPS, **more: Any) -> Any:
    """The reports of a run from a copy of `progress`, with copies of theirs."""
    options = {"validate": lambda params: 0.0, "validate_every": EVERY} | more
    copy = functools.partial(jax.tree.map, jnp.copy)
    return [
        report._replace(progress=copy(report.progress))
        for report in train.fit(
            step, copy(progress), feed, steps=steps, dispatch=DISPATCH, **options
        )
    ]


def numbers(report: train.Report) -> Any:
    state = report.progress.state
    return jax.tree.map(np.asarray, (state.params, state.opt_state, state.step))


GIVEN_OPTIONS = parallel.compiler_options


def as_users_compile(mesh: Any) -> dict[str, Any]:
    """What is streamed and what is not are two programs, of which XLA promises no equal bits: they
    are compiled by the emitters that users have, and not by those of the other tests."""
    return GIVEN_OPTIONS(mesh) | {"xla_cpu_use_fusion_emitters": True}


@pytest.fixture
def emitters_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "compiler_options", as_users_compile)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_streamed_run_is_bit_equal(folders, devices: int, emitters_of_users: None) -> None:
    """With dispatches that end at validations too, and taken up again half-way."""
    runs = []
    for streams in (False, True):
        step, progress, feed = made(folders["plain"], devices, streams)
        runs.append(finish(step, progress, feed))
        runs.append(finish(step, runs[-1][2].progress, feed))
    straight, _, streamed, resumed = runs
    assert [report.step for report in straight] == [3, 4, 6, 8, 9, 10]
    assert [report.step for report in resumed] == [8, 9, 10]
    for one, other in zip(straight, streamed, strict=True):
        assert one.step == other.step
        jax.tree.map(np.testing.assert_array_equal, one.metrics, other.metrics)
    for run in (streamed, resumed):
        jax.tree.map(np.testing.assert_array_equal, numbers(straight[-1]), numbers(run[-1]))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), numbers(straight[0]), numbers(run[-1]))
    assert max(jax.tree.leaves(moved[0])) > 1e-4


def test_devices_hold_the_images_of_their_own_episodes_twice_at_most(folders) -> None:
    """Counted while a run goes on: rows on each device, in what runs and what comes next."""
    step, progress, feed = made(folders["plain"], 4, True)
    most = DISPATCH * META_BATCH // 4 * 9
    assert feed.count == most < len(splits(folders["plain"])[1].stored["train"]["x"])
    assert feed.ahead == most * 64
    seen = []

    def counted(state: Any, pool: Pool, count: Any) -> Any:
        assert pool.x.sharding.spec == parallel.BY_TASK
        images = [a for a in jax.live_arrays() if a.dtype == jnp.uint8 and a.shape[1:] == (8, 8, 1)]
        # Beside them are the pools of other tests, none of which is spread.
        spread = [a for a in images if a.sharding == pool.x.sharding]
        assert all(len(part.data) == most for a in spread for part in a.addressable_shards)
        seen.append(sum(map(len, spread)))
        return step(state, pool, count)

    finish(counted, progress, feed, steps=30)
    assert len(seen) == 15
    assert set(seen) <= {4 * most, 8 * most}

    drawn = feed.draw(np.asarray(jax.random.key_data(jax.random.key(3))), np.int32(5), feed.pool)
    reading = feed.read(drawn, 2, threading.Event())
    keys = [step_keys(jax.random.key(3), jnp.asarray(at), META_BATCH) for at in (5, 6)]
    images = splits(folders["plain"])[0].pools["train"].x
    for place, device in enumerate(jax.devices()[:4]):
        indices = [sample_indices(sample_key(of[place]), feed.pool, SPEC) for of in keys]
        own = images_of(jax.tree.map(lambda *parts: np.stack(parts), *indices))
        rows = reading.rows["x"][device]
        np.testing.assert_array_equal(rows[: len(own)], np.asarray(images)[own])
        assert not rows[len(own) :].any()


def test_the_mean_of_the_gradient_is_the_only_communication(folders) -> None:
    text = made(folders["plain"], 4, True)[0].as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1
    for other in ("all-gather", "collective-permute", "all-to-all"):
        assert f" {other}(" not in text


def no_threads() -> bool:
    """Whether all threads of streaming end soon."""
    for _ in range(100):
        names = [thread.name for thread in threading.enumerate()]
        if not any(name.startswith(("medmeta-stream", "grain-prefetch")) for name in names):
            return True
        time.sleep(0.05)
    return False


class Slow:
    """A reader that takes a while over each block, and may fail at a place."""

    def __init__(self, reader: Any, seconds: float, fails_at: int = -1) -> None:
        self.reader, self.seconds, self.fails_at = reader, seconds, fails_at
        self.blocks = 0

    def read(self, places: np.ndarray) -> Any:
        time.sleep(self.seconds)
        self.blocks += 1
        if self.fails_at in places:
            raise DataError(f"a.bin: image {self.fails_at} cannot be read")
        return self.reader.read(places)


def slowed(source: str, seconds: float, fails_at: int = -1) -> tuple[Any, Any, Any, Slow]:
    """`made` with a slow reader."""
    step, progress, feed = made(source, 1, True)
    images = feed.stored["x"]
    slow = Slow(images.readers[0], seconds, fails_at)
    other = StoredImages((slow,), images.part, images.place, images.shape[1:])
    split = splits(source)[1]
    feed = stream_of(split._replace(stored={"train": {"x": other}}), SPEC, mesh_of(1))
    return step, progress, feed, slow


def test_a_run_that_is_left_ends_its_threads_at_once(
    folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was being read for the next dispatch is not read to its end."""
    step, progress, feed, slow = slowed(folders["plain"], 0.05)
    monkeypatch.setattr(stored_images, "BLOCK", 8)
    monkeypatch.setattr(stored_images, "threads", lambda: 1)
    blocks, read = [], feed.read

    def noted(*given: Any) -> Any:
        before = slow.blocks
        found = read(*given)
        blocks.append(slow.blocks - before)
        return found

    monkeypatch.setattr(feed, "read", noted)
    fit = train.fit(step, jax.tree.map(jnp.copy, progress), feed, steps=1000, dispatch=DISPATCH)
    next(fit)
    fit.close()
    assert len(blocks) == 3
    assert blocks[2] < 0.8 * min(blocks[:2])
    assert no_threads()
    seen = slow.blocks
    time.sleep(0.3)
    assert slow.blocks == seen


def test_an_image_that_cannot_be_read_ends_the_run_by_its_file(folders) -> None:
    images = splits(folders["plain"])[1].stored["train"]["x"]
    step, progress, feed, _ = slowed(folders["plain"], 0, int(images.place[11]))
    with pytest.raises(DataError, match=r"a\.bin: image \d+ cannot be read"):
        finish(step, progress, feed, steps=1000)
    assert no_threads()


def test_a_file_damaged_after_it_was_opened_is_named(folders, tmp_path: Path) -> None:
    """Also the image: the one whose bytes were changed, and no other."""
    archive = write_archive(tmp_path / "plain.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "SHARD_BYTES", 40_000)
        prepare(str(archive), tmp_path / "out")
    images = prepared.open_samples(str(tmp_path / "out"), image_size=8).images
    assert isinstance(images, StoredImages)
    file = sorted((tmp_path / "out").rglob("*.array_record-*"))[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 4 : len(content) // 4 + 40] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"out: {file.name}: image \d+ cannot be read .*again"):
        images.read()
    with pytest.raises(DataError, match=rf"{file.name}: not as it was written"):
        prepared.open_samples(str(tmp_path / "out"), image_size=8)
    # A large file's sum is not taken when it is opened: then its damaged blocks are left out.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "CHECKED_WHOLE", 0)
        patch.setattr(prepared, "BLOCK", 5)
        left, stored = (
            read(str(tmp_path / "out"), image_size=8, on_error="skip")
            for read in (sources.load, prepared.open_samples)
        )
    assert 500 < len(left.images) < COUNT
    np.testing.assert_array_equal(stored.images.read(), left.images)
    np.testing.assert_equal(stored._replace(images=0), left._replace(images=0))


def test_lists_of_episodes_hold_the_images_that_they_show(folders) -> None:
    """The hash of a list is that of the pool in memory, and so is each of its episodes."""
    resident, stored = (split.pools["test"] for split in splits(folders["plain"]))
    images = splits(folders["plain"])[1].stored["test"]["x"]
    judging = Judging(stored, {"x": images}, mesh_of(2))
    keys, wide = episode_keys(3, 6), dataclasses.replace(SPEC, shots=3, queries=1)
    draw = jax.jit(jax.vmap(sample, (0, None, None)), static_argnums=2)
    index = jax.jit(jax.vmap(sample_indices, (0, None, None)), static_argnums=2)
    own = jax.vmap(sample_key)(keys)
    for spec in (SPEC, wide):
        pool = judging.pool_of(keys, spec)
        drawn, again = index(own, resident, spec), index(own, pool, spec)
        assert episodes_hash(pool, again) == episodes_hash(resident, drawn)
        shown = images_of(jax.tree.map(np.asarray, drawn))
        assert len(shown) <= len(pool.x) < min(2 * len(shown), len(images))
        found, expected = draw(own, pool, spec), draw(own, resident, spec)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    first = jax.jit(functools.partial(first_shots, spec=wide, slots=2))
    found, expected = (first(own[0], Judged(p, jnp.asarray(1))) for p in (pool, resident))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert judging.pool_of(keys, SPEC) is judging.pool_of(episode_keys(3, 6), SPEC)


CONFIG = TrainConfig(
    image_size=8, algorithm="protonet", net={"width": 4, "depth": 2}, meta_steps=6, meta_batch=2,
    val_episodes=4, test_episodes=4, queries=2, augment=(), validate_every=4, dispatch=3,
    devices=2,
)  # fmt: skip


def built(**changes: Any) -> experiments.Experiment:
    return experiments.build(dataclasses.replace(CONFIG, **changes))


def outcome(made: experiments.Experiment) -> Any:
    """The parameters, scores, predictions on other tasks, and facts of a whole run."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with an int count
        step = running.compile_step(made, made.training).step
        progress = running.fit_quietly(made, step)
    told = uncertainty.validation_tasks(made, progress.best_params, 5, 4)
    facts = running.facts(made, running.task_of(made))
    return jax.tree.map(np.asarray, (progress.state.params, progress.best_score)), told, facts


@pytest.mark.slow
def test_an_experiment_is_the_same_from_end_to_end(
    folders, capsys, monkeypatch: pytest.MonkeyPatch, emitters_of_users: None
) -> None:
    with jax.numpy_dtype_promotion("standard"):
        one, other = (built(data=folders["groups"], stream=how) for how in ("never", "always"))
    jax.tree.map(np.testing.assert_array_equal, outcome(one), outcome(other))
    assert experiments.identity(one) == experiments.identity(other)
    assert isinstance(other.feed, Stream)
    assert other.config.stream == "always"
    assert {side: len(pool.x) for side, pool in other.split.pools.items()} == dict.fromkeys(
        SIDES, 0
    )
    verbs.describe(other)
    said = capsys.readouterr().err
    assert "images     stay in their files; a device holds 0.0 MB twice" in said
    assert "meta-train 3 classes 180 images" in said
    verbs.describe(one)
    assert "images     stay" not in capsys.readouterr().err

    # A device's memory has room for the next dispatch's images beside the program.
    limits = []
    monkeypatch.setattr(parallel, "memory_limit", lambda device: 10**6)
    monkeypatch.setattr(train, "first_that_fits", lambda *a: (1, limits.append(a[-1])))
    for each in (one, other):
        running.compile_step(each, each.training)
    assert limits == [10**6, 10**6 - other.feed.ahead]


def test_which_images_stay_in_their_files(folders, tmp_path: Path) -> None:
    """All images count; those that another source gives are in memory whatever is said."""
    archive = str(write_archive(tmp_path / "c.npz"))
    plain = dataclasses.replace(CONFIG, data=folders["plain"])
    bytes_ = COUNT * 64
    assert prepared.image_bytes(folders["plain"], 8) == bytes_
    for room, expected in ((4 * bytes_, False), (4 * bytes_ - 4, True)):
        assert tasks.streamed(plain, room) is expected
    both_ = dataclasses.replace(plain, meta_test=folders["groups"])
    assert tasks.streamed(both_, 8 * bytes_ - 8)
    assert not tasks.streamed(both_, 8 * bytes_)
    assert not tasks.streamed(dataclasses.replace(plain, stream="never"), 0)
    assert tasks.streamed(dataclasses.replace(plain, stream="always"), 2**40)
    assert tasks.streamed(dataclasses.replace(plain, stream="always", meta_val=archive), 0)
    assert not tasks.streamed(dataclasses.replace(plain, also=(archive,)), 0)
    for changes in ({"data": archive}, {"also": (archive,)}):
        asked = dataclasses.replace(plain, stream="always", **changes)
        with pytest.raises(ConfigError, match=r"stream: .*`medmeta data prepare`, and .*c\.npz is"):
            tasks.streamed(asked, 0)
    assert 2**20 < parallel.room(mesh_of(8)) < 0.2 * parallel.room(mesh_of(1)) < 2**50


def test_masks_stay_with_their_images(folders) -> None:
    """As the configuration has it; they count as images do."""
    config = dataclasses.replace(CONFIG, data=folders["masks"], task="segmentation", ways=None)
    check_same_split(
        *(tasks.load_split(dataclasses.replace(config, stream=how)) for how in ("never", "always"))
    )
    bytes_ = 2 * 150 * 64
    assert not tasks.streamed(config, 4 * bytes_)
    assert tasks.streamed(config, 4 * bytes_ - 4)
    assert not tasks.streamed(dataclasses.replace(config, task="auto"), 2 * bytes_)
    with pytest.raises(DataError, match=r"plain.*: .* has no mask, which is to be learned"):
        prepared.open_samples(folders["plain"], image_size=8, masks=True)


WORKER = """
import sys
import jax, numpy as np
from medmeta_jax import processes
processes.join()
from tests import test_streaming as tests
tests.parallel.compiler_options = tests.as_users_compile
jax.config.update("jax_num_cpu_devices", 2)
assert (jax.process_count(), len(jax.devices())) == (2, 4)
tests.parallel.connect(tests.mesh_of(4))  # one may compile half a minute longer than the other
*compiled, feed = tests.made(sys.argv[2], 4, True)
read, block = set(), feed.stored["x"].block
def noted(which):
    read.update(which.tolist())
    return block(which)
feed.stored["x"].block = noted
last = [tests.finish(*run)[-1] for run in ((*compiled, feed), tests.made(sys.argv[2], 4, False))]
jax.tree.map(np.testing.assert_array_equal, *map(tests.numbers, last))
_, stored = tests.splits(sys.argv[2])
mesh = tests.mesh_of(4)
pool, keys = tests.parallel.replicate((stored.pools["test"], tests.episode_keys(3, 6)), mesh)
judged = tests.Judging(pool, stored.stored["test"], mesh).pool_of(keys, tests.SPEC)
assert (np.asarray(judged.x)[:9].sum((1, 2)) > 0).all()
np.save(sys.argv[1] + str(jax.process_index()), sorted(read))
"""


@pytest.mark.slow
def test_two_processes_get_the_numbers_of_one(folders, tmp_path: Path) -> None:
    """2 processes x 2 devices: as with the images on the devices; each reads its own alone."""
    address = f"127.0.0.1:{launch.free_port()}"
    command = [sys.executable, "-c", WORKER, str(tmp_path / "of"), folders["plain"]]
    children = [
        launch.start(2, index, address, command, cwd=ROOT, stderr=subprocess.PIPE)
        for index in range(2)
    ]
    errors = [child.communicate(timeout=600)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    _, progress, feed = made(folders["plain"], 4, True)
    run = np.asarray(jax.random.key_data(progress.state.key))
    own: list[set[int]] = [set(), set()]
    for first, last in spans(0, STEPS, [DISPATCH, EVERY]):
        drawn = feed.draw(run, np.int32(first), feed.pool).indices
        for part in (drawn.support, drawn.query):
            for place, device in enumerate(jax.devices()[:4]):
                own[place // 2] |= set(parallel.by_device(part)[device][: last - first].ravel())
    for index in range(2):
        assert set(np.load(tmp_path / f"of{index}.npy").tolist()) == own[index] - {-1}
    assert own[0] != own[1]


MEMORY = """
import resource, sys
import grain, tensorflow_datasets
import numpy as np
from pathlib import Path
from medmeta_jax.data import prepare, prepared, sources
from medmeta_jax.data.records import Catalogue, Record, Unit
from medmeta_jax.data.splits import make_split
def unit(number):
    def read():
        images = np.random.default_rng(number).integers(0, 256, (20, 256, 256, 3), np.uint8)
        return [Record(image, f"c{(number + i) % 9}", str(i)) for i, image in enumerate(images)]
    return Unit(str(number), read)
sources.find = lambda source: "folder"
sources.catalogue = lambda source: Catalogue([unit(number) for number in range(250)], "made")
prepare.prepare("made", Path("out"))
if sys.argv[1] == "make":
    sys.exit()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
split = make_split(prepared.open_samples("out", image_size=256))
split.stored["train"]["x"].read(np.arange(300))
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """5,000 images of 197 KB each, 1 GB in all, split and some read in less than 400 MB more."""
    for what in ("make", "open"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, what], cwd=tmp_path, check=True, capture_output=True,
            timeout=600,
        )  # fmt: skip
    shutil.rmtree(tmp_path / "out")  # not to be kept with the rest of the test's folder
    assert float(done.stdout.split()[-1]) < 400
