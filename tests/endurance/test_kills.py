"""A run that is killed at random moments, saves included, ends as the one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medmeta_jax.checkpoint import Checkpoints

from ..test_cli import TINY, archive, record  # noqa: F401  (archive is a fixture)

pytestmark = pytest.mark.endurance
KILLS = int(os.environ.get("MEDMETA_KILLS", "50"))
STEPS, EVERY = 30_000, 100  # a save every few tenths of a second


class Training:
    """`medmeta train` in a process of its own."""

    def __init__(self, runs: Path, *arguments: object) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "medmeta_jax", "train", *map(str, arguments)],
            env={**os.environ, "MEDMETA_RUNS": str(runs)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until(self, words: str) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            if line.startswith(words):
                return
        raise AssertionError(f"it ended before it said {words!r}")

    def kill(self) -> None:
        self.child.kill()
        self.child.communicate()
        assert self.child.returncode == -signal.SIGKILL, "it was done before it was killed"

    def end(self) -> tuple[int, str]:
        _, err = self.child.communicate(timeout=1800)
        return self.child.returncode, err


def last(run: Path) -> tuple[int, dict[str, np.ndarray]]:
    """Its last checkpoint."""
    checkpoints = Checkpoints(run / "checkpoints", read_only=True)
    try:
        return checkpoints.load()
    finally:
        checkpoints.close()


def test_killed_at_random_moments(archive: Path, tmp_path: Path) -> None:  # noqa: F811
    """One kill in five comes while it starts, the others while it trains and saves."""
    own = TINY[: TINY.index("--hyper.steps")] + TINY[TINY.index("--hyper.steps") + 2 :]
    options = ["--data", archive, *own, "--algorithm", "protonet", "--meta-steps", STEPS,
               "--validate-every", EVERY, "--dispatch", EVERY, "--baselines", "none"]  # fmt: skip
    rng, reached = random.Random(0), [0]
    running = Training(tmp_path / "killed", *options)
    running.until("step ")
    (run,) = (tmp_path / "killed").iterdir()
    for kill in range(KILLS):
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0.0, 5.0))
        else:
            if kill:
                running.until("step ")
            time.sleep(rng.uniform(0.0, 1.0))
        running.kill()
        reached.append(last(run)[0])  # it loads, whatever was being written
        running = Training(tmp_path / "killed", "--resume", run)
    code, err = running.end()
    assert code == 0, err
    assert reached == sorted(reached)
    straight = Training(tmp_path / "straight", *options)
    code, err = straight.end()
    assert code == 0, err
    (other,) = (tmp_path / "straight").iterdir()
    assert record(run) == record(other)
    (step, found), (same_step, expected) = last(run), last(other)
    assert step == same_step == STEPS
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    results = [json.loads((of / "summary.json").read_text())["results"] for of in (run, other)]
    assert results[0] == results[1]
    print(f"{KILLS} kills, of which it stood at steps {reached[1:]}; {STEPS} steps, bit-equal")
