"""From a neural-network library's module to the engine's `Backbone`.

This is where Flax meets the engine; `inner.py`, `algorithms/` and `train.py` see only
the pure pair.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from medmeta_jax.types import Array, Backbone, Params, PyTree

STATS = "norm_stats"  # the Flax collection through which norm statistics come and go


def from_linen(module: nn.Module, *, norm: str = "none") -> Backbone:
    """A Flax Linen module as a backbone.

    The module is called as `module(x)`, or `module(x, mask)` where its `__call__` has a
    parameter `mask`. Norm statistics go through the collection "norm_stats" (see
    `backbones/conv4.py`); a module that keeps any other state, such as
    `nn.BatchNorm`'s running averages, is refused at `init`, since an inner loop must
    be pure.

    >>> import jax.numpy as jnp
    >>> backbone = from_linen(nn.Dense(3))
    >>> params = backbone.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> backbone.apply(params, jnp.ones((2, 4)), jnp.ones(2, bool))[0].shape
    (2, 3)
    """
    takes_mask = "mask" in inspect.signature(type(module).__call__).parameters

    def call(variables: Any, x: PyTree, mask: Array) -> tuple[Array, Any]:
        extra = {"mask": mask} if takes_mask else {}
        out, state = module.apply(variables, x, mutable=[STATS], **extra)
        return out, state.get(STATS, {})

    def init(key: Array, x: PyTree) -> Params:
        n = jax.tree.leaves(x)[0].shape[0]
        extra = {"mask": jax.numpy.ones((n,), bool)} if takes_mask else {}
        # Compiled as one: op by op, a network is some fifty programs.
        variables = dict(jax.jit(module.init)(key, x, **extra))
        params = variables.pop("params", {})
        variables.pop(STATS, None)
        if variables:
            raise ValueError(
                f"{type(module).__name__} keeps state in the collections {sorted(variables)}; "
                "a backbone must be pure: use a norm of medmeta_jax.backbones, or none"
            )
        return params

    def apply(params: Params, x: PyTree, mask: Array, stats: PyTree = None) -> tuple[Array, PyTree]:
        variables = {"params": params}
        if stats:
            variables[STATS] = stats
        return call(variables, x, mask)

    return Backbone(init, apply, norm)


def from_nnx(build: Callable[[Any], Any]) -> Backbone:
    """A Flax NNX module as a backbone.

    Args:
      build: makes the module from an `nnx.Rngs`, e.g. `lambda rngs: Net(rngs=rngs)`.

    The module is called as `module(x)`. State other than `nnx.Param` (BatchNorm's
    averages, dropout's counters) is refused at `init`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> backbone = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    >>> params = backbone.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> backbone.apply(params, jnp.ones((2, 4)), jnp.ones(2, bool))[0].shape
    (2, 3)
    """
    from flax import nnx

    # The structure holds no arrays and does not depend on the key: built abstractly.
    graph = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param, ...)[0]

    def init(key: Array, x: PyTree) -> Params:
        del x  # NNX modules name their input sizes themselves
        module = build(nnx.Rngs(key))
        _, params, rest = nnx.split(module, nnx.Param, ...)
        if jax.tree.leaves(rest):
            raise ValueError(
                f"{type(module).__name__} keeps state beside its nnx.Param: "
                f"{sorted(map(str, nnx.to_pure_dict(rest)))}; a backbone must be pure"
            )
        return nnx.to_pure_dict(params)

    def apply(params: Params, x: PyTree, mask: Array, stats: PyTree = None) -> tuple[Array, PyTree]:
        del mask, stats
        module = nnx.merge(graph, nnx.State(params))
        return module(x), {}

    return Backbone(init, apply, "none")
