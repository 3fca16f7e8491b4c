"""The machine under a table: what it is, and how fast it multiplies matrices at best."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from medmeta_jax import parallel

THREADS = parallel.cores()
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "higher")


def say(line: str) -> None:
    """A line for people, on stderr."""
    print(line, file=sys.stderr, flush=True)


def processor() -> str:
    """The processor's name."""
    if jax.default_backend() != "cpu":
        return str(jax.devices()[0].device_kind)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def accelerators() -> int:
    """GPUs or TPUs of this machine, counted by a process of its own, which then lets them go."""
    code = "import jax; print(jax.default_backend() != 'cpu' and jax.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    word = done.stdout.split()[-1]
    return int(word) if word.isdigit() else 0


def facts() -> dict[str, Any]:
    """What the numbers were taken on."""
    return {"processor": processor(), "threads": THREADS, "backend": jax.default_backend()}


def versions() -> dict[str, str]:
    """Installed versions of what is compared."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def described() -> dict[str, Any]:
    """`facts` and `versions`, as every measurement begins."""
    return {"machine": facts(), "versions": versions()}


def matmul_gflops(size: int = 2048, repeats: int = 8) -> float:
    """The best measured rate of a large square float32 matrix product: the roof."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        product(a).block_until_ready()
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best
