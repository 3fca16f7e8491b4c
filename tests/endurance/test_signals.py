"""A second signal ends at once, wherever the run is."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from ..test_cli import TINY, archive  # noqa: F401  (archive is a fixture)
from .test_kills import Training

pytestmark = pytest.mark.endurance


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_the_second_ends_at_once(archive: Path, tmp_path: Path, number: signal.Signals) -> None:  # noqa: F811
    """While it compiles, where the first one waits for a step that does not come."""
    running = Training(tmp_path / "runs", "--data", archive, *TINY, "--image-size", "28",
                       "--net.depth", "4", "--hyper.steps", "5")  # fmt: skip
    running.until("run ")
    for _ in range(2):
        running.child.send_signal(number)
        time.sleep(0.3)
    began = time.monotonic()
    code, err = running.end()
    assert time.monotonic() - began < 2
    assert code == 128 + number, err
    assert "stopping at the next step; again to end at once" in err
