r"""One model for all, and adaptation that is switched off where the support says that it does harm.

The one model (`unadapted`) is the learner's own network, trained on the queries of all episodes
without a step of adaptation. With θ_1 its parameters, and the support S parted in two halves, of
which the learner adapted to either is asked about the other, and so is the one model,

    φ = θ_1   where  Σ_h L(S \ h; adapt(θ, h)) > Σ_h L(S \ h; θ_1),   else  adapt(θ, S)

Two-fold cross-validation, each time on half of the support, so that it errs on the side of no
adaptation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmeta_jax.losses import query_loss
from medmeta_jax.types import Array, Examples, Loss, MetaLearner, Params, PyTree


class Both(NamedTuple):
    """What `careful` takes: a learner's meta-parameters, and those of the one model."""

    own: Params
    one: Params


def unadapted(learner: MetaLearner, *, loss: Loss) -> MetaLearner:
    """The learner's network as one model for all episodes; of the support, it takes the norm's
    statistics alone, where the policy says so.

    Args:
      learner: one whose `adapt` takes a number of steps.
      loss: of the queries, by which it is trained.
    """

    def adapt(params: Params, support: Examples, key: Array, steps: Any = None) -> PyTree:
        del steps
        return learner.adapt(params, support, key, 0)

    return learner._replace(adapt=adapt, loss=query_loss(adapt, learner.predict, loss))


def careful(learner: MetaLearner, *, loss: Loss) -> MetaLearner:
    """The learner with its adaptation switched off where the support says so. Its meta-parameters
    are `Both`; it is not trained by itself.

    Args:
      learner: one whose `adapt` takes a number of steps.
      loss: by which halves are judged.

    Halves are every other slot, so that of classes with several examples each is in both. With one
    example alone there is nothing to ask, and it adapts.
    """

    def adapt(params: Both, support: Examples, key: Array, steps: Any = None) -> PyTree:
        half = jnp.arange(support.mask.shape[0]) % 2 == 0
        gain: Any = 0.0
        for part in (half, ~half):
            some, asked = support._replace(mask=support.mask & part), support.mask & ~part

            def told(
                theta: Params, count: Any, some: Examples = some, asked: Array = asked
            ) -> Array:
                adapted = learner.adapt(theta, some, key, count)
                return loss(learner.predict(adapted, support.x, asked), support.y, asked)

            there = some.mask.any() & asked.any()
            gain += jnp.where(there, told(params.one, 0) - told(params.own, steps), 0.0)
        whole = learner.adapt(params.own, support, key, steps)
        none = learner.adapt(params.one, support, key, 0)
        return jax.tree.map(lambda yes, no: jnp.where(gain >= 0, yes, no), whole, none)

    return learner._replace(adapt=adapt)
