"""CAVIA: the inner loop moves a context alone. Zintgraf et al., 2019, arXiv 1810.03642.

    φ_{t+1} = φ_t - α ∇_φ L_S(φ_t, θ),  φ_0 = 0;   minimise  L_Q(φ_K, θ) over θ

The context φ modulates the network by FiLM,  h ↦ (1 + γ(φ)) ∘ h + β(φ)  with linear γ and β.

Deviations: the modulation is of the body's features, before the head, where the paper's is of
a layer's maps: the body then need not be known, and is computed once for all inner steps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from medmeta_jax.algorithms._on_features import on_features
from medmeta_jax.heads import feature_size, linear, with_head
from medmeta_jax.inner import Order, require_positive, unrolled
from medmeta_jax.losses import cross_entropy, query_loss
from medmeta_jax.types import Array, Backbone, Loss, MetaLearner, Params, PyTree, checked


def modulated(theta: Params, context: Array, features: Array) -> Array:
    """The head's logits of features modulated by a context."""
    film = theta["film"]
    return linear(theta["head"], (1 + context @ film["scale"]) * features + context @ film["shift"])


def cavia(
    backbone: Backbone,
    *,
    outputs: int,
    loss: Loss = cross_entropy,
    steps: int = 5,
    inner_lr: float = 1.0,
    size: int = 64,
    order: Order = "mixed",
) -> MetaLearner:
    """CAVIA over `backbone` and a linear head.

    Args:
      size: C, the length of the context.
      others: see `maml`.

    meta_params: {"body", "head", "film": {"scale" [C, F], "shift" [C, F]}}.

    >>> import jax, jax.numpy as jnp
    >>> from medmeta_jax.backbones.conv4 import conv4
    >>> learner = cavia(conv4(width=4, depth=2), outputs=3)
    >>> x = jnp.zeros((6, 8, 8, 1))
    >>> theta = jax.eval_shape(learner.init, jax.random.key(0), x)
    >>> theta["film"]["scale"].shape
    (64, 16)
    """
    require_positive("inner_lr", inner_lr)
    require_positive("size", size)
    model = with_head(backbone, outputs)
    solve = unrolled(optax.sgd(inner_lr), steps=steps, order=order)

    def init(key: Array, x: PyTree) -> Params:
        model_key, scale_key, shift_key = jax.random.split(key, 3)
        params = model.init(model_key, x)
        shape = (size, feature_size(backbone, params["body"], x))
        keys = {"scale": scale_key, "shift": shift_key}
        film = {
            name: jax.random.normal(k, shape) / jnp.sqrt(float(size)) for name, k in keys.items()
        }
        return {**params, "film": film}

    adapt, predict = on_features(
        backbone,
        outputs=outputs,
        loss=loss,
        solve=solve,
        start=lambda theta, features, support: jnp.zeros((size,), features.dtype),
        classify=modulated,
    )
    meta_loss = query_loss(adapt, predict, loss)
    return checked(MetaLearner(init, adapt, predict, meta_loss, backbone.norm))
