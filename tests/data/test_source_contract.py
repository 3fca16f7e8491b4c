"""The contract of a data source, for every file of `data/` that reads one.

A source writes a small example of its own format, so it meets this suite by being there.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from medmeta_jax.data.episodes import EpisodeSpec, sample_indices
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import fit_scaling, make_pool
from medmeta_jax.data.records import checked
from medmeta_jax.data.samples import DataError, Samples, has_values
from medmeta_jax.data.sources import LAST, catalogue, find, load, sources
from medmeta_jax.data.splits import SIDES, make_split

SOURCES = sources()
# The phantom's program compiles for seconds, anew for every size.
LONG = ("phantom",)
PARAMS = [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in SOURCES]


@pytest.fixture(scope="module", params=PARAMS)
def name(request: pytest.FixtureRequest, data_cache: Path) -> str:
    return request.param


@pytest.fixture(scope="module")
def example(name: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return SOURCES[name].example(tmp_path_factory.mktemp("example") / name)


@pytest.fixture(scope="module")
def samples(example: str) -> Samples:
    return load(example, image_size=10)


def test_one_source_recognises_it(name: str, example: str) -> None:
    """Apart from the source of any folder, which comes last."""
    found = [other for other, made in SOURCES.items() if made.recognises(example)]
    assert found in ([name], [name, LAST])
    assert find(example) == name


def test_units_are_named_and_read_again_the_same(example: str) -> None:
    units = catalogue(example).units
    assert len({unit.name for unit in units}) == len(units)
    assert not any(Path(unit.name).is_absolute() for unit in units)
    for unit in (units[0], units[-1]):
        once, again = (checked(unit, unit.read()) for _ in range(2))
        assert len({record.name for record in once}) == len(once) > 0
        for a, b in zip(once, again, strict=True):
            np.testing.assert_equal(a._asdict(), b._asdict())


def test_shapes_and_dtypes(samples: Samples) -> None:
    n = len(samples.labels)
    assert samples.images.shape == (n, 10, 10, samples.images.shape[-1])
    assert samples.images.shape[-1] in (1, 3)
    assert samples.images.dtype == np.uint8
    if samples.labels.ndim == 2:
        values = samples.labels.dtype == np.float32
        known = ~np.isnan(samples.labels) if values else samples.labels
        assert (values or samples.labels.dtype == bool, known.any(0).all()) == (True, True)
        assert samples.labels.shape == (n, len(samples.class_names))
    else:
        assert samples.labels.dtype == np.int32
        assert set(samples.labels) == set(range(len(samples.class_names)))
    assert len(set(samples.class_names)) == len(samples.class_names)
    for column in (samples.groups, samples.sides, samples.domains):
        assert column is None or (column.shape == (n,) and column.dtype.kind == "U")
    assert samples.about


def test_loading_is_deterministic(example: str, samples: Samples) -> None:
    again = load(example, image_size=10)
    for one, other in zip(samples, again, strict=True):
        np.testing.assert_equal(one, other)


def test_size_is_as_asked(example: str, samples: Samples) -> None:
    other = load(example, image_size=12)
    assert other.images.shape == (len(samples.labels), 12, 12, samples.images.shape[-1])


def test_sides_and_episodes_are_disjoint(samples: Samples) -> None:
    values = has_values(samples)
    if (
        len(samples.class_names) < 2 * len(SIDES) and not values
    ):  # it can be judged on, with all its classes
        pools = {"test": make_pool(samples, samples.class_names, fit_scaling(samples.images))}
        classes = {"test": samples.class_names}
    else:
        split = make_split(samples)
        pools, classes = split.pools, split.classes
    if values:  # all of them on every side, of other images
        seen = [image.tobytes() for pool in pools.values() for image in np.asarray(pool.x)]
        assert len(set(seen)) == len(seen) == len(samples.images)
    else:
        names = [name for side in pools for name in classes[side]]
        assert len(set(names)) == len(names)
    disjoint = "image" if samples.groups is None else "group"
    spec = EpisodeSpec(ways=1 if values else 2, shots=1, queries=2, disjoint=disjoint)
    for side, pool in pools.items():
        check_pool(pool, spec, classes[side], side)
        keys = jax.random.split(jax.random.key(0), 100)
        drawn = jax.jit(jax.vmap(lambda key, pool=pool: sample_indices(key, pool, spec)))(keys)
        group = np.asarray(pool.group)
        for support, query in zip(np.asarray(drawn.support), np.asarray(drawn.query), strict=True):
            # Of several labels an image may be a shot of more than one: fewer images do.
            assert (support >= 0).any() if pool.shown is not None else (support >= 0).all()
            assert (query >= 0).any()
            seen = group[support[support >= 0]]
            assert not np.intersect1d(seen, group[query[query >= 0]]).size


@pytest.mark.parametrize("kind", ["emptied", "cut", "noise", "removed"])
def test_damage_is_named(name: str, tmp_path: Path, kind: str) -> None:
    """Each file of the example in turn: refused by its name, or (removed) plainly absent."""
    example = SOURCES[name].example(tmp_path / name)
    files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
    if not files:
        pytest.skip("comes with the installed packages")
    whole = load(example, image_size=10)
    for path in files[::3]:
        content = path.read_bytes()
        if kind == "removed":
            path.unlink()
        else:
            noise = np.random.default_rng(1).bytes(len(content))
            damaged = {"emptied": b"", "cut": content[: len(content) // 3], "noise": noise}
            path.write_bytes(damaged[kind])
        refused = ""
        try:
            read = load(example, image_size=10)
        except DataError as error:
            refused = str(error)
        if refused:
            assert path.name in refused
        else:
            assert kind == "removed", f"{path.name} was read, {kind}"
            assert len(read.labels) < len(whole.labels) or read.groups is None
        path.write_bytes(content)
    for one, other in zip(whole, load(example, image_size=10), strict=True):
        np.testing.assert_equal(one, other)
