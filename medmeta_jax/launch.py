"""`medmeta launch`: several processes of one command on this machine, ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

# What a process is told of its place among the others; `processes.join` reads it.
COORDINATOR, COUNT, INDEX = "MEDMETA_COORDINATOR", "MEDMETA_PROCESSES", "MEDMETA_PROCESS"
# Seconds that the others get to end by themselves, save and say why, once one has failed;
# then to stop when told. Both within the minute that a lost process may take.
ALONE_S, TOLD_S = 20.0, 5.0
EXIT_FAILED = 1


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def share_of_cores(count: int, index: int) -> set[int] | None:
    """The cores of one process of several; None where they cannot be dealt out.

    >>> share_of_cores(10**6, 0) is None
    True
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // count
    return set(cores[index * each : (index + 1) * each]) or None


def start(
    count: int, index: int, address: str, command: list[str], **options: Any
) -> subprocess.Popen[bytes]:
    """One process, on its own cores; its signals come from here alone, not the terminal."""
    child = subprocess.Popen(
        command,
        env={**os.environ, COORDINATOR: address, COUNT: str(count), INDEX: str(index)},
        start_new_session=True,
        **options,
    )
    cores = share_of_cores(count, index)
    if cores:
        # From outside and at once, before it has threads: a fork that runs code of ours first
        # could deadlock in a caller that has some.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(child.pid, cores)
    return child


def launch(count: int, arguments: list[str]) -> int:
    """Run `medmeta ARGUMENTS` in `count` processes that form one job; the exit code."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "medmeta_jax", *arguments]
    running = [start(count, index, address, command) for index in range(count)]

    def forward(number: int, frame: Any) -> None:
        for child in running:
            if child.poll() is None:
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    while any(child.poll() is None for child in running) and not any(
        child.poll() for child in running
    ):
        time.sleep(0.1)
    wait(running, ALONE_S)
    lost = cause([child.poll() for child in running])
    for number in (signal.SIGTERM, signal.SIGKILL):
        forward(number, None)
        wait(running, TOLD_S)
    if lost is not None:
        print(
            f"medmeta: {lost}, so the others were ended. Go on from the last checkpoint, if one "
            f"was saved, with: medmeta launch --processes {count} -- train --resume RUN, where "
            "RUN is the run directory named above",
            file=sys.stderr,
        )
    codes = [child.returncode for child in running if child.returncode]
    return next((code for code in codes if code > 0), EXIT_FAILED) if codes else 0


def cause(codes: list[int | None]) -> str | None:
    """Which process was lost, by the exit codes of those that have ended.

    JAX aborts a process whose others are gone: an abort is rarely where it began.

    >>> cause([1, -9]), cause([-6, None]), cause([3, 3])
    ('process 1 was lost (signal 9)', 'process 1 no longer answered', None)
    """
    ended = {i: -code for i, code in enumerate(codes) if code is not None and code < 0}
    first = min(ended, key=lambda i: ended[i] == signal.SIGABRT, default=None)
    if first is not None and ended[first] != signal.SIGABRT:
        return f"process {first} was lost (signal {ended[first]})"
    if None in codes:
        return f"process {codes.index(None)} no longer answered"
    return None if first is None else f"process {first} was lost (signal {ended[first]})"


def wait(running: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all have ended, or so many seconds have passed."""
    until = time.monotonic() + seconds
    while any(child.poll() is None for child in running) and time.monotonic() < until:
        time.sleep(0.1)
