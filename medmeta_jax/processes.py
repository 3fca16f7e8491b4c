"""Several processes, each with devices of its own, on JAX's distributed runtime.

All run the same program on the same configuration; the mesh spans the devices of all, and
every device draws its own episodes from the step's key. What one alone knows (a signal, a
new run's name) is told to the others here, before anything depends on it. The first process
alone writes and prints. Started by `medmeta launch` on one machine, or by
SLURM, Open MPI or Kubernetes, which JAX recognises.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from medmeta_jax.launch import COORDINATOR, COUNT, INDEX

# A process that says nothing for so long is lost, and the others end.
HEARTBEAT_S, SHUTDOWN_S, START_S = 20, 20, 120


class JoinError(Exception):
    """The other processes were not met. The message says what to do."""


def launched() -> int:
    """How many processes `medmeta launch` started with this one; 1 without it."""
    return int(os.environ.get(COUNT, "1"))


def join() -> None:
    """Meet the other processes; to be called before JAX computes anything (JoinError)."""
    # The connections between CPUs announce themselves on standard output, which is the user's.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # JAX would take SIGTERM for itself; `any_process` passes on a stop of either signal.
    jax.config.update("jax_enable_preemption_service", False)
    limits: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_S,
        "shutdown_timeout_seconds": SHUTDOWN_S,
        "initialization_timeout": START_S,
    }
    try:
        if INDEX in os.environ:
            index = int(os.environ[INDEX])
            jax.distributed.initialize(
                os.environ[COORDINATOR], launched(), index, local_device_ids=[index],
                cluster_detection_method="deactivate", **limits,
            )  # fmt: skip
        else:
            jax.distributed.initialize(**limits)
    except ValueError:
        raise JoinError(
            "distributed: no SLURM, Open MPI or Kubernetes job was found around this process; "
            "on one machine: medmeta launch --processes N -- train ..."
        ) from None
    except jax.errors.JaxRuntimeError as error:
        line = str(error).splitlines()[0][:200]
        raise JoinError(f"distributed: the other processes were not met ({line})") from None


def joined() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def any_process(told: Callable[[], bool]) -> Callable[[], bool]:
    """`told`, answered alike in all processes: True where it is so in one of them.

    To be asked by all at the same places of the program.
    """
    if jax.process_count() == 1:
        return told
    return lambda: bool(np.any(multihost_utils.process_allgather(np.asarray(told()))))


def text_from_first(text: str) -> str:
    """A text as the first process has it."""
    if jax.process_count() == 1:
        return text
    room = np.zeros(4096, np.uint8)
    letters = np.frombuffer(text.encode(), np.uint8)[: room.size]
    room[: letters.size] = letters
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(room))).rstrip(b"\0").decode()


def fetch(tree: Any) -> Any:
    """Host arrays of what is spread over the devices of all processes."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
