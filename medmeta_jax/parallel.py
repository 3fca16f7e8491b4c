"""Devices: a mesh with one axis, "task", over which a meta-batch's episodes are spread.

Each device takes its share of the episodes, and the meta-gradient is averaged by one
all-reduce a step. `jax.pmap` is no part of this: it is a wrapper of `jit(shard_map)` by
now, which is what stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medmeta_jax.types import PyTree

AXIS = "task"
EVERYWHERE, BY_TASK = PartitionSpec(), PartitionSpec(AXIS)


def task_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the given devices; by default all, of every process.

    >>> task_mesh(jax.devices()[:1]).shape
    OrderedDict({'task': 1})
    """
    chosen = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put the same arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, EVERYWHERE))


def mean_over_tasks(function: Callable[..., PyTree], mesh: Mesh) -> Callable[..., PyTree]:
    """Spread a mean over episodes on the mesh: each device its share, then one reduction.

    Args:
      function: (params, shared, keys, step) -> tree of means over `keys` [n, ...].
      mesh: from `task_mesh`; its size must divide n.

    Returns: the same function, whose result is the mean over all keys, on every device.
    """

    def local(params: PyTree, shared: Any, keys: Any, step: Any) -> PyTree:
        # One flat vector, since a mean of a tree would be one all-reduce a leaf.
        flat, unravel = ravel_pytree(function(params, shared, keys, step))
        return unravel(jax.lax.pmean(flat, AXIS))

    # check_vma=False keeps every gradient taken inside a device's own. With the check, the
    # gradient with respect to anything replicated (θ, or a context that starts at zero) is
    # summed over the devices on the spot: inner loops would mix their tasks, silently.
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(EVERYWHERE, EVERYWHERE, BY_TASK, EVERYWHERE),
        out_specs=EVERYWHERE,
        check_vma=False,
    )
