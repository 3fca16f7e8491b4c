"""Devices: a mesh with one axis, "task", over which a meta-batch's episodes are spread.

Each device takes its share of the episodes, and the meta-gradient is averaged by one
all-reduce a step. `jax.pmap` is no part of this: it is a wrapper of `jit(shard_map)` by
now, which is what stands here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medmeta_jax.types import Array, PyTree

AXIS = "task"
EVERYWHERE, BY_TASK = PartitionSpec(), PartitionSpec(AXIS)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cpu_devices(count: int) -> None:
    """Let JAX see the CPU as `count` devices; to be called before JAX computes anything.

    An episode a core, each on one thread, is the quickest way to use a CPU: an inner step's
    operations are too small to share. Raises RuntimeError where JAX has started already.

    >>> jnp.zeros(1).sum().item()  # JAX has started: it is too late
    0.0
    >>> use_cpu_devices(97)
    Traceback (most recent call last):
    RuntimeError: ...
    """
    jax.config.update("jax_num_cpu_devices", count)


def largest_share(meta_batch: int, available: int) -> int:
    """The most devices, of those available, that a meta-batch can be spread over evenly.

    >>> largest_share(4, 8), largest_share(6, 4), largest_share(5, 2)
    (4, 3, 1)
    """
    return max(n for n in range(1, min(meta_batch, available) + 1) if meta_batch % n == 0)


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """XLA's options for programs on a mesh: CPU devices take one thread each."""
    on_cpu = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
    return {"xla_cpu_multi_thread_eigen": False} if on_cpu else {}


def task_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the given devices; by default all, of every process.

    >>> task_mesh(jax.devices()[:1]).axis_names
    ('task',)
    """
    chosen = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen)


def devices_by_process() -> list[list[jax.Device]]:
    """The devices of each process, in the order of both."""
    found: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        found.setdefault(device.process_index, []).append(device)
    return [found[index] for index in sorted(found)]


def memory_limit(device: jax.Device) -> int | None:
    """Bytes that programs may take on a device; None where it does not say, as on a CPU."""
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else int(0.9 * limit)  # the rest for evaluation's programs


def default_chunk(count: int) -> int:
    """Episodes to run side by side: one on a CPU, whose caches hold one episode's
    activations; all of them on other devices."""
    return 1 if jax.default_backend() == "cpu" else count


def needed_bytes(compiled: Any) -> int:
    """Bytes that a compiled program takes on each device, by the compiler's own account."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(total - memory.alias_size_in_bytes)


def connect(mesh: Mesh) -> None:
    """Open the connections between processes, while all of them are here.

    The first sum over a mesh waits half a minute for the others, later ones as long as need
    be; and one process may take longer than another to read data or to compile.
    """
    if jax.process_count() > 1:
        total = spread(lambda x: jax.lax.psum(x, AXIS), mesh, (BY_TASK,), EVERYWHERE)
        jax.jit(total)(np.zeros(mesh.size, np.float32)).block_until_ready()


def mesh_over_processes(count: int) -> Mesh:
    """A connected mesh of `count` devices, as many of each process (ValueError where that
    cannot be)."""
    by_process = devices_by_process()
    each, over = divmod(count, len(by_process))
    if over or each > min(map(len, by_process)):
        there = [len(own) for own in by_process]
        raise ValueError(f"count must be spread evenly over processes of {there}, got {count}")
    mesh = task_mesh([device for own in by_process for device in own[:each]])
    connect(mesh)
    return mesh


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device of the mesh holds."""
    return NamedSharding(mesh, EVERYWHERE)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put the same arrays on every device of the mesh, of whichever process.

    >>> replicate(jnp.arange(3), task_mesh()).sharding.is_fully_replicated
    True
    """
    held = everywhere(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, held)

    def global_array(leaf: Any) -> jax.Array:
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(global_array(jax.random.key_data(leaf)))
        return jax.make_array_from_process_local_data(held, np.asarray(leaf))

    return jax.tree.map(global_array, tree)


def shardings(specs: PyTree, mesh: Mesh) -> PyTree:
    """The shardings on a mesh that specs, one or a tree of them, stand for."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )


def by_device(x: Array) -> dict[jax.Device, np.ndarray]:
    """What each device of this process holds of an array that is spread by `BY_TASK`."""
    return {shard.device: np.asarray(shard.data) for shard in x.addressable_shards}


def put_by_device(parts: Mapping[jax.Device, np.ndarray], mesh: Mesh) -> Array:
    """An array spread by `BY_TASK` whose parts [n, ...] are given for this process's devices."""
    first = next(iter(parts.values()))
    return jax.make_array_from_single_device_arrays(
        (mesh.size * first.shape[0], *first.shape[1:]),
        NamedSharding(mesh, BY_TASK),
        [jax.device_put(part, device) for device, part in parts.items()],
    )


def room(mesh: Mesh) -> int:
    """Bytes that a device may take: of its own, or its share of what the host has left where it
    is a CPU."""
    local = mesh.local_devices
    limit = memory_limit(local[0])
    return host_memory() // len(local) if limit is None else limit


def host_memory() -> int:
    """Bytes that the system says it can still give; all that there are where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            facts = dict(line.split(":") for line in lines)
        return int(facts["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def mean_over_tasks(
    function: Callable[..., PyTree], mesh: Mesh, held: Any = EVERYWHERE
) -> Callable[..., PyTree]:
    """Spread a mean over episodes on the mesh: each device its share, then one reduction.

    Args:
      function: (params, shared, keys, step) -> tree of means over `keys` [n, ...].
      mesh: from `task_mesh`; its size must divide n.
      held: how `shared` lies on the mesh, a spec or a tree of them.

    Returns: the same function, whose result is the mean over all keys, on every device.
    """

    def local(params: PyTree, shared: Any, keys: Any, step: Any) -> PyTree:
        # One flat vector, since a mean of a tree would be one all-reduce a leaf.
        flat, unravel = ravel_pytree(function(params, shared, keys, step))
        return unravel(jax.lax.pmean(flat, AXIS))

    return spread(local, mesh, (EVERYWHERE, held, BY_TASK, EVERYWHERE), EVERYWHERE)


def from_all(x: Array) -> Array:
    """Inside `spread`: the shares [n, ...] of all devices, one after another."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def sum_of_all(x: Array) -> Array:
    """Inside `spread`: the sum over all devices."""
    return jax.lax.psum(x, AXIS)


def place() -> Array:
    """Inside `spread`: which of the devices this one is."""
    return jax.lax.axis_index(AXIS)


def spread(function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    """`jax.shard_map` as this engine needs it."""
    # check_vma=False keeps every gradient taken inside a device's own. With the check, the
    # gradient with respect to anything replicated (θ, or a context that starts at zero) is
    # summed over the devices on the spot: inner loops would mix their tasks, silently.
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
