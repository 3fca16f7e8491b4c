"""How much memory a piece of work takes.

The peak resident size above that of before, in MiB, read from Linux, whose peak can be
reset; elsewhere None. A GPU's memory is not in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (peak) of this process, in MiB."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{STATUS} has no {field}")


def settle() -> None:
    """Give freed memory back, so that what comes after is seen to grow."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_mb(work: Callable[[], object]) -> float | None:
    """MiB that the resident size rises above where it stood, while `work` runs once."""
    settle()
    try:
        RESET.write_text("5", encoding="utf-8")
        before = resident_mb("VmRSS")
    except OSError:
        return None
    work()
    return max(0.0, resident_mb("VmHWM") - before)
