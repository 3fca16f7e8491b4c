"""Events hold what metrics.jsonl holds, and not twice where a run was resumed."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from medmeta_jax import events
from medmeta_jax.runs import Run
from medmeta_jax.settings import ConfigError

from .tiny_run import train


def written(run: Run) -> Iterator[Event]:
    """The events of a run's files, oldest file first: each has its length and two checksums."""
    for path in sorted(run.events.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event()
            event.ParseFromString(data[at + 12 : at + 12 + length])
            yield event
            at += 16 + length


def numbers(found: Iterator[Event]) -> list[tuple[int, str, float]]:
    return [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]


def test_a_run_has_them_beside_its_lines(tmp_path: Path) -> None:
    run = Run(Path(train(tmp_path, tensorboard=True, dispatch=2, validate_every=2)))
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    expected = [(line["step"], *pair) for line in lines for pair in events.scalars(line)]
    found = numbers(written(run))
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    assert [one[2] for one in found] == pytest.approx([one[2] for one in expected])
    assert {step for step, *_ in found} == {2, 4}


def test_a_resumed_run_drops_what_it_does_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for after in (0, 2):
        with events.writer(run, after=after, wanted=True) as log:
            for step in (2, 4):
                if step > after:
                    log({"step": step, "loss": float(step)})
    starts = [e.step for e in written(run) if e.HasField("session_log")]
    assert starts == [3]  # from which on TensorBoard shows the later file alone


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="takes the extra 'tensorboard': pip install tensorb"):
        train(tmp_path, tensorboard=True)
    assert not (tmp_path / "runs").exists()
