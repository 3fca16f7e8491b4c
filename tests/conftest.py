"""What every test shares: strict promotion, a compilation cache, tiny episodes.

Episodes are 8 pixels and networks 4 channels wide, since compiling is what costs here.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before JAX is touched: tests of parallel code need several (pretended) devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MEDMETA_SALT", "of the tests")  # the user's own is not touched
# Compiling is what these tests wait for. Code that is not optimised saves a third of it, and of
# what is left code that is not made by way of MLIR another third.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_enable_concurrency_optimized_scheduler=false",
)

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from platformdirs import user_cache_dir

from medmeta_jax import baselines, registry, running
from medmeta_jax.backbones.conv4 import conv4
from medmeta_jax.experiment import Experiment
from medmeta_jax.learners import of_masks_alone
from medmeta_jax.ops.conv import Form
from medmeta_jax.types import Backbone, Episode, Examples

# Tracing leaves many small objects that live on; to look through them often takes a tenth longer.
gc.set_threshold(200_000, 50, 50)

SIZE, WAYS = 8, 3
OF_MASKS = tuple(name for name in registry.names("algorithms") if of_masks_alone(name))

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(Path(user_cache_dir("medmeta_jax")) / "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
# Nobody reads where in the source each operation of a compiled program came from.
jax.config.update("jax_traceback_in_locations_limit", 0)


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data set is built anew for a test run, into a folder of its own."""
    folder = tmp_path_factory.mktemp("data")
    os.environ["MEDMETA_DATA"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of a few steps, for tests that leave it as it is, or copy it."""
    from .tiny_run import train  # which imports this module

    return train(tmp_path_factory.mktemp("trained"))


MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Compiled programs are let go before they near the 65,530 memory maps that Linux allows a
    process, beyond which it crashes."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def strict_promotion() -> Iterator[None]:
    """Implicit mixing of dtypes is an error: it is how float64 and int slip into a program."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision, for tests against closed forms and differences."""
    with jax.enable_x64(True):
        yield


def make_episode(
    key: int = 0,
    *,
    ways: int = WAYS,
    shots: int = 2,
    queries: int = 4,
    size: int = SIZE,
    channels: int = 1,
    noise: float = 0.3,
) -> Episode:
    """A task that can be learnt: each class is a random image, its examples add noise."""
    keys = jax.random.split(jax.random.key(key), 3)
    prototypes = jax.random.normal(keys[0], (ways, size, size, channels))

    def side(side_key: jax.Array, per_class: int) -> Examples:
        y = jnp.repeat(jnp.arange(ways), per_class)
        x = prototypes[y]
        x = x + noise * jax.random.normal(side_key, x.shape, x.dtype)
        return Examples(x, y, jnp.ones(y.shape, bool))

    return Episode(side(keys[1], shots), side(keys[2], queries), jnp.arange(ways))


def make_mask_episode(
    key: int = 0, *, shots: int = 2, queries: int = 4, size: tuple[int, ...] = (SIZE, SIZE)
) -> Episode:
    """A task that can be learnt: to mark the boxes of one of two brightnesses, among noise."""
    rng = np.random.default_rng(key)
    own, other = rng.permutation([1.5, -1.5])

    def side(n: int) -> Examples:
        x, y = 0.3 * rng.normal(size=(n, *size)), np.zeros((n, *size), np.int32)
        for image, truth in zip(x, y, strict=True):
            for value, marked in ((other, 0), (own, 1)):
                corner = [int(rng.integers(0, edge - 3)) for edge in size]
                box = tuple(slice(first, first + 3) for first in corner)
                image[box] += value - image[box].round()
                truth[box] = marked
        return Examples(jnp.asarray(x[..., None], jnp.float32), jnp.asarray(y), jnp.ones(n, bool))

    return Episode(side(shots), side(queries), jnp.zeros(1, jnp.int32))


def judged_rows(made: Experiment) -> dict[str, baselines.Row]:
    """An experiment trained, and its rows by learner."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with an int count
        step = running.compile_step(made, made.training).step
        params = running.fit_quietly(made, step).best_params
        return {row.learner: row for row in running.judge(made, params)}


def padded(examples: Examples, extra: int, fill: float = jnp.nan) -> Examples:
    """The same examples followed by `extra` slots of padding that hold rubbish."""
    x = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.full((extra, *leaf.shape[1:]), fill, leaf.dtype)]),
        examples.x,
    )
    y = jnp.concatenate([examples.y, jnp.full((extra, *examples.y.shape[1:]), 0, examples.y.dtype)])
    return Examples(x, y, jnp.concatenate([examples.mask, jnp.zeros(extra, bool)]))


def double(tree: Any) -> Any:
    """The same tree in float64, its whole numbers as they are."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        tree,
    )


def write_toy(path: Path) -> Path:
    """An archive of nine classes of twelve 8-pixel images that can be told apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(9), 12)
    images = rng.integers(0, 200, (9, 8, 8))[labels] + rng.integers(0, 55, (108, 8, 8))
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def write_cells(where: Path, count: int = 18) -> Path:
    """A Pascal VOC folder of pictures of 24 x 16 pixels, each with a bright square of 6 ("wbc"),
    two dark ones of 4 ("rbc") and a bright dot of 2 ("platelet"), apart from one another."""
    rng = np.random.default_rng(0)
    kinds = (("wbc", 6, 250), ("rbc", 4, 10), ("rbc", 4, 10), ("platelet", 2, 250))
    for name in ("JPEGImages", "Annotations"):
        (where / name).mkdir(parents=True)
    for i in range(count):
        pixels, objects = rng.integers(90, 140, (16, 24), np.uint8), ""
        cells = rng.permutation(6)[: len(kinds)]  # of 8 x 8 pixels, two rows of three
        for (label, size, value), cell in zip(kinds, cells, strict=True):
            y, x = np.asarray([cell // 3, cell % 3]) * 8 + rng.integers(0, 8 - size, 2)
            pixels[y : y + size, x : x + size] = value
            corners = zip(
                ("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + size, y + size), strict=True
            )
            box = "".join(f"<{key}>{place}</{key}>" for key, place in corners)
            objects += f"<object><name>{label}</name><bndbox>{box}</bndbox></object>"
        text = f"<annotation>{objects}</annotation>"
        (where / "Annotations" / f"{i:02d}.xml").write_text(text, encoding="utf-8")
        Image.fromarray(pixels).save(where / "JPEGImages" / f"{i:02d}.png")
    return where


def tiny_backbone(norm: str = "batch", form: Form = "patches") -> Backbone:
    """Two blocks of four channels: 8 pixels -> 2 pixels.

    Of the form whose program is least to trace and compile; that all forms are one network is
    shown in `tests/ops` and `tests/backbones`.
    """
    return conv4(widths=(4, 4), norm=norm, form=form)
