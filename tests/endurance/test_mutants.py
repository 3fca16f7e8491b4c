"""The core with one thing wrong, again and again: some test must fail each time.

A mutant is a line of `medmeta_jax` written otherwise, in a copy of the project. Only the tests that
are named beside it are run, which pass without it (`test_the_tests_pass_as_it_is`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.endurance
ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """In a file a text that stands there once, what stands there in its place, and which tests."""

    file: str
    old: str
    new: str
    tests: str


INNER, MAML = "tests/test_inner.py medmeta_jax/inner.py", "tests/algorithms/test_maml.py"
EPISODES, METRICS = "tests/data/test_episodes.py", "tests/metrics/test_metrics.py"
ALONE = "maml and not (plus or proto or fomaml or imaml)"
CONTRACT = f"tests/algorithms/test_contract.py -k '{ALONE}'"
MUTANTS = {
    # The inner loop.
    "the step climbs": Mutant(
        "inner.py", "jax.tree.map(jnp.negative, direction", "jax.tree.map(jnp.positive, direction",
        INNER),
    "second order is first": Mutant(
        "inner.py", 'if order == "first":', 'if order in ("first", "second"):', INNER),
    "first order is second": Mutant("inner.py", 'if order == "first":', "if False:", INNER),
    "a step too few": Mutant("inner.py", "jnp.arange(total, dtype", "jnp.arange(total - 1, dtype",
                             INNER),
    "a step too many, unrolled": Mutant(
        "inner.py", "for t in range(total):", "for t in range(total + 1):", INNER),
    "a step too few, counted": Mutant(
        "inner.py", "fori_loop(0, count,", "fori_loop(1, count,", INNER),
    "every step is the first": Mutant(
        "inner.py", "carry = body(carry, t)\n            return carry,",
        "carry = body(carry, 0 * t)\n            return carry,", INNER),
    "nothing is computed again": Mutant("inner.py", 'if remat != "none":', "if False:", INNER),
    "what rests moves": Mutant("inner.py", "== wanted else None", "!= wanted else None", INNER),
    "half a mixed derivative": Mutant(
        "mixed.py", "return along_moving, along_outer, None, None",
        "return along_moving, jax.tree.map(jnp.zeros_like, along_outer), None, None",
        "tests/test_mixed.py"),
    # MAML.
    "support and query exchanged": Mutant(
        "losses.py",
        "adapted = adapt(meta_params, episode.support, key)\n"
        "        logits = predict(adapted, episode.query.x, episode.query.mask)",
        "adapted = adapt(meta_params, episode.query, key)\n"
        "        logits = predict(adapted, episode.support.x, episode.support.mask)", CONTRACT),
    "the query is learned from": Mutant(
        "losses.py", "adapted = adapt(meta_params, episode.support, key)",
        "adapted = adapt(meta_params, episode.query, key)", CONTRACT),
    "padding is learned from": Mutant(
        "losses.py", "total = select(values, mask).sum()", "total = jnp.nansum(values)",
        "tests/test_losses.py"),
    "a mean over padding too": Mutant(
        "losses.py", "jnp.maximum(mask.sum(), 1).astype(values.dtype) * per_example",
        "jnp.asarray(max(mask.size, 1), values.dtype) * per_example", "tests/test_losses.py"),
    "absent ways are predicted": Mutant(
        "algorithms/_adaptation.py", "return mask_absent(logits, adapted.present)",
        "return logits", CONTRACT),
    "absent ways are learned": Mutant(
        "algorithms/_adaptation.py", "return loss(mask_absent(logits, present), seen.y, seen.mask)",
        "return loss(logits, seen.y, seen.mask)", MAML),
    "MAML moves all": Mutant("algorithms/maml.py", "moves=moves,", "moves=everything,", MAML),
    "MAML is of first order": Mutant(
        "algorithms/maml.py", "steps=steps, order=order, remat",
        'steps=steps, order="first", remat', MAML),
    "statistics of the query": Mutant(
        "algorithms/_adaptation.py", "model.apply(adapted.params, x, mask, adapted.stats)",
        "model.apply(adapted.params, x, mask)", CONTRACT),
    # The sampler.
    "a group on both sides": Mutant(
        "data/episodes.py", "return own, there & ~taken[group_of]", "return own, there & ~own",
        EPISODES),
    "copies on both sides": Mutant(
        "data/episodes.py", "return used[pool.same]", "return used", EPISODES),
    "an image twice": Mutant(
        "data/episodes.py", "noise = jnp.where(allowed, jax.random",
        "noise = jnp.where(rows >= 0, jax.random", EPISODES),
    "all slots are filled": Mutant(
        "data/episodes.py", "filled = (best >= 0) & (jnp.arange(slots) < wanted)",
        "filled = best >= 0", EPISODES),
    "never the most shots": Mutant(
        "data/episodes.py", "(), shots[0], shots[1] + 1)", "(), shots[0], max(shots))", EPISODES),
    "always the first classes": Mutant(
        "data/episodes.py", "order = jax.random.permutation(key, count)[:most]",
        "order = jnp.arange(count)[:most]", EPISODES),
    "the first images": Mutant(
        "data/episodes.py", "jax.random.uniform(key, rows.shape), -1.0)\n    if",
        "1 / (1.0 + jnp.arange(rows.shape[1])), -1.0)\n    if", EPISODES),
    "not scaled": Mutant("data/episodes.py", "- pool.shift) * pool.scale", "- pool.shift)",
                         EPISODES),
    "queries of the support's time": Mutant(
        "data/episodes.py", "there & (time > last)", "there & (time >= last)",
        "tests/data/test_patients.py"),
    "labels are not in the hash": Mutant(
        "data/episodes.py", 'if part.dtype.kind != "f":', "if False:", EPISODES),
    # The metrics.
    "a 90% interval": Mutant("metrics/intervals.py", "t.ppf(0.975", "t.ppf(0.95", METRICS),
    "a biased deviation": Mutant("metrics/intervals.py", "ddof=1", "ddof=0", METRICS),
    "pairs apart": Mutant(
        "metrics/intervals.py", "float64) - np.asarray(reference, np.float64)",
        "float64) - np.mean(reference)", METRICS),
    "classes as they are": Mutant(
        "metrics/intervals.py", "score[draws].mean(1)", "np.sort(score)[:, None]", METRICS),
    "half an F1": Mutant("metrics/classification.py", "f1 = 2 * hits", "f1 = hits", METRICS),
    "absent classes count": Mutant(
        "metrics/classification.py", "n_classes = present.sum(1)", "n_classes = present.shape[1]",
        METRICS),
    "recall is precision": Mutant(
        "metrics/classification.py", "recall = hits / np.maximum(true, 1)",
        "recall = hits / np.maximum(predicted, 1)", METRICS),
    "padding is counted": Mutant(
        "metrics/classification.py", "(episodes[mask], y[mask], predicted[mask])",
        "(episodes, y, predicted)", METRICS),
    "ties in order": Mutant(
        "metrics/pooled.py", "np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)",
        "np.arange(len(order))", "tests/metrics/test_pooled.py"),
    "a signed calibration error": Mutant(
        "metrics/pooled.py", "np.abs(gaps).sum()", "abs(gaps.sum())",
        "tests/metrics/test_pooled.py"),
    "Dice is IoU": Mutant(
        "metrics/segmentation.py", '"dice": _share(2 * hits, told + true, nothing)',
        '"dice": _share(hits, told + true - hits, nothing)', "tests/metrics/test_segmentation.py"),
    "HD90": Mutant("metrics/segmentation.py", "PERCENTILE = 95.0", "PERCENTILE = 90.0",
                   "tests/metrics/test_segmentation.py"),
    "one direction": Mutant(
        "metrics/segmentation.py", "np.percentile(back, PERCENTILE))),", "0.0)),",
        "tests/metrics/test_segmentation.py"),
}  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, to be changed."""
    where = tmp_path_factory.mktemp("mutants") / "project"
    shutil.copytree(
        ROOT, where, ignore=shutil.ignore_patterns(".git", "runs", "bench", "*.egg-info")
    )
    return where


def run(where: Path, tests: str) -> tuple[int, str]:
    """The exit code of some tests of a copy, and what they printed."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *shlex.split(tests)], cwd=where, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(where)},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("tests", sorted({mutant.tests for mutant in MUTANTS.values()}))
def test_the_tests_pass_as_it_is(copy: Path, tests: str) -> None:
    code, said = run(copy, tests)
    assert code == 0, said


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(copy: Path, name: str) -> None:
    mutant = MUTANTS[name]
    file = copy / "medmeta_jax" / mutant.file
    text = file.read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, "the line has been written otherwise since"
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, said = run(copy, mutant.tests)
    finally:
        file.write_text(text, encoding="utf-8")
    assert code == 1, f"it lives (exit code {code}): {said}"  # 1: a test failed
