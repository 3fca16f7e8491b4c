"""A network that takes the support as an input: UniverSeg's CrossBlock. Butoi et al., 2023, arXiv
2304.06131.

    z_i = A(Conv([u ‖ v_i]));   u' = A(Conv(mean_i z_i));   v_i' = A(Conv(z_i))

u is the map of a query, v_i those of the support, which begin as image and mask; a U-Net of such
blocks ends in the query's logits. Nothing is adapted: there is no gradient at test time, and the
result does not depend on the order of the support.

Deviations: few channels; max-pooling and repeated pixels on the way down and up, as of `unet`; of
several types of lesions the network is asked for each in turn, with the others as not marked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.losses import dice_and_cross_entropy, query_loss
from medmeta_jax.ops.conv import conv
from medmeta_jax.ops.draws import normal
from medmeta_jax.ops.pool import doubled, max_pool
from medmeta_jax.types import Array, Backbone, Examples, Loss, MetaLearner, Params, PyTree, checked


class Adapted(NamedTuple):
    """The network, and the support as it came."""

    net: Params
    support: Examples


def init_conv(key: Array, axes: int, inputs: int, outputs: int) -> Params:
    """Kernel [3, ..., inputs, outputs], of variance 2 / (taps * inputs), and bias."""
    shape = (*(3,) * axes, inputs, outputs)
    scale = (2.0 / (3**axes * inputs)) ** 0.5
    return {"kernel": scale * normal(key, shape), "bias": jnp.zeros((outputs,))}


def convolved(params: Params, x: Array) -> Array:
    """Convolution and activation of [..., *spatial, C], whatever axes stand before."""
    axes = params["kernel"].ndim - 2
    flat = x.reshape(-1, *x.shape[-axes - 1 :])
    y = jax.nn.leaky_relu(conv(flat, params["kernel"]) + params["bias"])
    return y.reshape(*x.shape[: -axes - 1], *y.shape[1:])


def init_block(key: Array, axes: int, inputs: int, width: int) -> Params:
    """The three convolutions of a block, for maps of `inputs` channels each."""
    keys = jax.random.split(key, 3)
    sizes = ((2 * inputs, width), (width, width), (width, width))
    return {
        name: init_conv(one, axes, *size)
        for name, one, size in zip(("cross", "query", "support"), keys, sizes, strict=True)
    }


def block(params: Params, u: Array, v: Array, mask: Array) -> tuple[Array, Array]:
    """u [*spatial, C] and v [s, *spatial, C] -> the same with other channels; mask: [s]."""
    z = convolved(params["cross"], jnp.concatenate([jnp.broadcast_to(u, v.shape), v], -1))
    there = mask.reshape(-1, *(1,) * (z.ndim - 1))
    mean = jnp.where(there, z, 0).sum(0) / jnp.maximum(mask.sum(), 1).astype(z.dtype)
    return convolved(params["query"], mean[None])[0], convolved(params["support"], z)


def network(net: Params, u: Array, v: Array, mask: Array) -> Array:
    """Logits [*spatial, 2] of a query [*spatial, C], given the support [s, *spatial, C + 1]."""
    u = convolved(net["query"], u[None])[0]
    v = convolved(net["support"], v)
    kept = []
    for params in net["down"]:
        u, v = block(params, u, v, mask)
        kept.append((u, v))
        if min(u.shape[:-1]) >= 2:
            u, v = max_pool(u[None])[0], max_pool(v)
    u, v = block(net["bottom"], u, v, mask)
    for params, (above_u, above_v) in zip(net["up"], reversed(kept), strict=True):
        if u.shape[:-1] != above_u.shape[:-1]:
            u, v = doubled(u[None], above_u.shape[:-1])[0], doubled(v, above_u.shape[:-1])
        u, v = jnp.concatenate([u, above_u], -1), jnp.concatenate([v, above_v], -1)
        u, v = block(params, u, v, mask)
    return u @ net["head"]["kernel"] + net["head"]["bias"]


def crossblock(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = dice_and_cross_entropy,
    width: int = 16,
    depth: int = 3,
) -> MetaLearner:
    """A U-Net of CrossBlocks. It is its own network: the backbone is not used.

    Args:
      outputs: 2, or for lesions one more than there are types.
      width: channels of every block.
      depth: levels.

    `adapt` has no steps: its `steps` argument is ignored. meta_params: {"body"}. Raises ValueError,
    when adapting, where labels are no masks.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.unet import unet
    >>> learner = crossblock(unet(width=4, depth=2), outputs=2)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> sorted(theta["body"])
    ['bottom', 'down', 'head', 'query', 'support', 'up']
    """
    del backbone
    if outputs < 2:
        raise ValueError(f"outputs must be >= 2 (not marked, marked), got {outputs}")
    if width < 1 or depth < 1:
        raise ValueError(f"width and depth must be >= 1, got {width} and {depth}")

    def init(key: Array, x: PyTree) -> Params:
        axes, channels = x.ndim - 2, x.shape[-1]
        keys = iter(jax.random.split(key, 2 * depth + 2))
        head = jax.random.normal(next(keys), (width, 2)) / width**0.5
        net = {
            "query": init_conv(next(keys), axes, channels, width),
            "support": init_conv(next(keys), axes, channels + 1, width),
            "down": [init_block(next(keys), axes, width, width) for _ in range(depth - 1)],
            "bottom": init_block(next(keys), axes, width, width),
            "up": [init_block(next(keys), axes, 2 * width, width) for _ in range(depth - 1)],
            "head": {"kernel": head, "bias": jnp.zeros((2,))},
        }
        return {"body": net}

    def adapt(theta: Params, support: Examples, key: Array, steps: Any = None) -> Adapted:
        del key, steps
        if support.y.ndim < 2 or support.y.shape != support.x.shape[:-1]:
            raise ValueError(
                "takes the support's masks as an input; these labels are none, or the backbone has "
                "no feature a pixel, as unet has"
            )
        return Adapted(theta["body"], support)

    def predict(adapted: Adapted, x: PyTree, mask: Array) -> Array:
        del mask
        net, support = adapted

        def of_type(k: Array) -> Array:
            # 1 where it is marked, -1 where not, and 0 nowhere but in padding.
            marks = 2 * (support.y == k)[..., None].astype(support.x.dtype) - 1
            v = jnp.concatenate([support.x, marks], -1)
            return jax.vmap(lambda u: network(net, u, v, support.mask))(x)

        if outputs == 2:
            return of_type(jnp.ones((), support.y.dtype))
        each = jax.vmap(of_type)(jnp.arange(1, outputs, dtype=support.y.dtype))
        above = jnp.moveaxis(each[..., 1] - each[..., 0], 0, -1)
        return jnp.concatenate([jnp.zeros_like(above[..., :1]), above], -1)

    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, "none"))
