"""Several processes: one result, one writer, one stop; and no process waits for a lost one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import launch, processes

from .conftest import tiny_backbone
from .test_cli import TINY, archive, only_run  # noqa: F401  (archive is a fixture)
from .test_parallel import ONE, make_learner, one_step

ROOT = Path(__file__).parent.parent
# What each process of the test runs: the step of test_parallel on all devices there are.
WORKER = """
import sys
import jax, numpy as np
from medmeta_jax import parallel, processes
processes.join()
jax.config.update("jax_enable_x64", True)
from tests.conftest import tiny_backbone
from tests.test_parallel import ONE, make_learner, one_step
jax.config.update("jax_num_cpu_devices", 2)
assert (jax.process_count(), len(jax.devices())) == (2, 4)
parallel.connect(parallel.task_mesh())  # one may compile half a minute longer than the other
step, state, pool = one_step(make_learner(tiny_backbone("support")), 4, "float64")
after, metrics = step(state, pool, ONE)
leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((after.params, metrics))]
np.savez(sys.argv[1] + str(jax.process_index()), *leaves)
"""


@pytest.mark.slow
def test_two_processes_get_the_parameters_of_one(x64: None, tmp_path: Path) -> None:
    """2 processes x 2 devices on loopback, 4 devices of one process: the same in float64."""
    address = f"127.0.0.1:{launch.free_port()}"
    command = [sys.executable, "-c", WORKER, str(tmp_path / "of")]
    children = [
        launch.start(2, index, address, command, cwd=ROOT, stderr=subprocess.PIPE)
        for index in range(2)
    ]
    errors = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    step, state, pool = one_step(make_learner(tiny_backbone("support")), 4, jnp.float64)
    after, metrics = step(state, pool, ONE)
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves((after.params, metrics))]
    for index in range(2):
        with np.load(tmp_path / f"of{index}.npz") as found:
            assert len(found.files) == len(expected)
            for name, leaf in zip(found.files, expected, strict=True):
                np.testing.assert_allclose(found[name], leaf, rtol=1e-10, atol=1e-12)


class Launched:
    """`medmeta launch` with two processes of two devices, its lines as they come."""

    def __init__(self, runs: Path, *arguments: object) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "medmeta_jax", "launch", "--", "train", *map(str, arguments)],
            env={**os.environ, "MEDMETA_RUNS": str(runs)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until(self, start: str) -> None:
        """Read its lines to one that begins so."""
        lines = []
        for line in self.child.stderr:
            lines.append(line)
            if line.startswith(start):
                return
        raise AssertionError("".join(lines))

    def of(self, index: int) -> int:
        """The process id of one of the two."""
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(parent) == self.child.pid and f"{launch.INDEX}={index}".encode() in variables:
                return int(folder.name)
        raise AssertionError(f"no process {index}")

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and the rest of stderr."""
        out, err = self.child.communicate(timeout=300)
        return self.child.returncode, out, err


TWO = [*TINY, "--meta-batch", "4", "--devices", "4", "--baselines", "none"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
def test_a_lost_process_ends_the_others_and_the_run_goes_on(archive: Path, tmp_path: Path) -> None:  # noqa: F811
    """kill -9 of one; then the resumed run ends with the numbers of an undisturbed one."""
    arguments = ["--data", archive, *TWO, "--meta-steps", 600, "--validate-every", 100]
    running = Launched(tmp_path / "runs", *arguments)
    running.until("step   200")
    os.kill(running.of(1), signal.SIGKILL)
    began = time.monotonic()
    code, out, err = running.end()
    assert time.monotonic() - began < 60
    assert (code, out) == (1, "")
    assert "process 1 was lost (signal 9), so the others were ended" in err
    run = only_run(tmp_path)
    assert max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit()) >= 200

    code, out, err = Launched(tmp_path / "runs", "--resume", run, "--json").end()
    assert code == 0, err
    code, straight, err = Launched(tmp_path / "straight", *arguments, "--json").end()
    assert code == 0, err
    assert json.loads(out)["results"] == json.loads(straight)["results"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
def test_a_signal_to_one_stops_all(archive: Path, tmp_path: Path) -> None:  # noqa: F811
    running = Launched(tmp_path / "runs", "--data", archive, *TWO, "--meta-steps", 10**6)
    running.until("step   100")
    os.kill(running.of(1), signal.SIGTERM)
    code, out, err = running.end()
    assert (code, out) == (75, ""), err
    assert err.count("go on with: medmeta train --resume") == 1
    lines = (only_run(tmp_path) / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))  # one writer


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--processes", "0", "--", "train"], "processes: must be >= 1, got 0"),
        (["--processes", "2"], "say what to run"),
        (["--", "eval", "RUN"], "say what to run"),
        (["--", "train", "--dry-run"], "takes neither --dry-run nor --distributed"),
        (["--", "train", "--meta-batch", "0"], "meta_batch: must be >= 1, got 0"),
    ],
)
def test_launch_refuses_nonsense_once(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medmeta_jax", "launch", *arguments],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_job_around_this_process_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medmeta_jax", "train", "--distributed"],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "MEDMETA_RUNS": str(tmp_path / "runs")},
    )  # fmt: skip
    assert done.returncode == 2
    assert "no SLURM, Open MPI or Kubernetes job" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_alone_nothing_changes() -> None:
    told = lambda: True  # noqa: E731
    assert processes.any_process(told) is told
    assert processes.text_from_first("runs/ä") == "runs/ä"
    np.testing.assert_array_equal(processes.fetch([jnp.arange(3)])[0], np.arange(3))
    assert processes.is_first()
