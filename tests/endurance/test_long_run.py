"""A run of two hours: memory flat, no file left open, throughput constant."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ..test_cli import TINY, archive  # noqa: F401  (archive is a fixture)
from .test_kills import Training

pytestmark = pytest.mark.endurance
MINUTES = float(os.environ.get("MEDMETA_MINUTES", "120"))
WARM = 0.25  # of the time, in which caches fill


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_memory_handles_and_throughput_stay(archive: Path, tmp_path: Path) -> None:  # noqa: F811
    """With a save every few tenths of a second: more of them than a run of days has."""
    running = Training(
        tmp_path / "runs", "--data", archive, *TINY, "--meta-steps", 10**9,
        "--validate-every", 200, "--dispatch", 50, "--baselines", "none",
    )  # fmt: skip
    running.until("step ")
    began, seen = time.monotonic(), []
    assert running.child.stderr is not None
    os.set_blocking(running.child.stderr.fileno(), False)
    while (passed := time.monotonic() - began) < 60 * MINUTES:
        own = Path(f"/proc/{running.child.pid}")
        kilobytes = next(
            int(line.split()[1])
            for line in (own / "status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        seen.append((passed, kilobytes / 1024, len(list((own / "fd").iterdir()))))
        while running.child.stderr.readline():  # or its pipe fills
            pass
        time.sleep(min(5.0, 0.6 * MINUTES))
    running.child.send_signal(signal.SIGTERM)
    assert running.end()[0] == 75
    passed_s, megabytes, handles = np.asarray(seen[int(WARM * len(seen)) :]).T
    slope = np.polyfit(passed_s / 3600, megabytes, 1)[0]
    (run,) = (tmp_path / "runs").iterdir()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rates = np.asarray([json.loads(line)["episodes_per_s"] for line in lines])
    parts = [np.median(part) for part in np.array_split(rates[len(rates) // 10 :], 10)]
    print(f"{MINUTES:g} min, {len(lines)} records: {megabytes[0]:.0f} to {megabytes[-1]:.0f} MB, "
          f"{slope:+.1f} MB an hour; {handles.min():.0f} to {handles.max():.0f} open files; "
          f"median episodes/s by tenths {min(parts):.0f} to {max(parts):.0f}")  # fmt: skip
    grown = slope * (passed_s[-1] - passed_s[0]) / 3600
    assert grown < 0.05 * megabytes[0]
    tenths = np.array_split(handles, 10)  # a save has some open for a moment
    assert np.median(tenths[-1]) == np.median(tenths[0])
    assert handles.max() < 100
    assert parts[-1] > 0.8 * parts[0]
