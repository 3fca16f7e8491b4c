"""An augmentation of the support set that is learned with the network.

    x' = Σ_o w_o T_o(x; m_o),   w = Gumbel-softmax(s c / τ),   m_o = most_o σ(s r_o)

T_o are ops of this folder, one of them leaving the image as it is. c and r are meta-parameters:
each copy of a support image is changed by one op, drawn by c (Jang, Gu, Poole, 2017, arXiv
1611.01144: the draw is one-hot, its derivative the softmax's), with a magnitude m whose derivative
passes through the image (`Op`). Or, as "sum", by all of them: w = softmax(s c), a learned linear
mix f(X) = Σ_j α_j x_j of an image and its changes.

s is a constant: one optimiser at one rate moves weights and policy alike, and Adam moves each by at
most its rate a step, by which a logit of a few units would take thousands of steps.

The query is clean, so that the meta-gradient says what changes of the support make adaptation
better, as it says of every other meta-parameter. The images themselves stay in the support beside
their copies, at meta-test as in training: the change is a part of adapting.

A copy is drawn once a task, and all inner steps see it; or, with a policy of its own for each step,
at each step anew: the first steps may be taught by other changes than the last ones.

A first-order gradient holds what the support does to the adapted parameters constant, and gives a
policy none; `config` refuses the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from medmeta_jax.augment._ops import Op, adapting_to, apply_ops
from medmeta_jax.types import (
    Array,
    Examples,
    MetaLearner,
    Params,
    PyTree,
    select,
)

NONE = "none"  # the op that leaves an image as it is
TEMPERATURE = 0.5
MOST = 3.0  # times the op's own default, what a magnitude may become
How = Literal["draw", "sum"]
START = 0.3  # of that default, where it begins
SPEED = 10.0  # logits a unit of c and r


class Choice(NamedTuple):
    """An op to learn: its factory, and the magnitude that it has by default."""

    make: Callable[..., Op]
    default: float


def init_policy(ops: Mapping[str, Choice]) -> Params:
    """{"magnitude": {name: r}, "choice": {name: c, "none": c}}, scalars."""
    return {
        "magnitude": dict.fromkeys(ops, magnitude_parameter(START)),
        "choice": {name: jnp.zeros(()) for name in (NONE, *ops)},
    }


def magnitude_parameter(times: float) -> Array:
    """The r of a magnitude of so many times the op's default.

    >>> round(float(MOST * jax.nn.sigmoid(SPEED * magnitude_parameter(1.0))), 4)
    1.0
    """
    return jnp.log(jnp.asarray(times / (MOST - times), float)) / SPEED


def magnitudes(policy: Params, ops: Mapping[str, Choice]) -> dict[str, Array]:
    """The magnitude of each op."""
    return {
        name: MOST * op.default * jax.nn.sigmoid(SPEED * policy["magnitude"][name])
        for name, op in ops.items()
    }


def shares(policy: Params) -> dict[str, Array]:
    """How often each op is drawn, and none; of a policy by step, in each step."""
    names = sorted(policy["choice"])
    found = jax.nn.softmax(SPEED * jnp.stack([policy["choice"][name] for name in names]), axis=0)
    return dict(zip(names, found, strict=True))


def one_hot_draw(key: Array, logits: Array) -> Array:
    """A one-hot draw [ops] whose derivative is that of the softmax it is the largest of."""
    soft = jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / TEMPERATURE)
    hard = jax.nn.one_hot(soft.argmax(), len(logits), dtype=soft.dtype)
    return hard + soft - jax.lax.stop_gradient(soft)


def changed(
    policy: Params, ops: Mapping[str, Choice], key: Array, examples: Examples, how: How = "draw"
) -> Examples:
    """Each example by an op of its own draw, with which label maps move along; or by the sum of
    all."""
    if how == "sum" and examples.y.ndim == examples.x.ndim - 1:
        raise ValueError("how must be draw for label maps, of which there is no sum")
    strength = magnitudes(policy, ops)
    made: list[list[Op]] = [[], *([op.make(magnitude=strength[n])] for n, op in ops.items())]
    logits = SPEED * jnp.stack([policy["choice"][name] for name in (NONE, *ops)])

    def one(key: Array, image: Array, label_map: Array | None) -> tuple[Array, Array | None]:
        draw_key, *keys = jax.random.split(key, 1 + len(made))
        weights = jax.nn.softmax(logits) if how == "sum" else one_hot_draw(draw_key, logits)
        weights = weights.astype(image.dtype)
        each = [apply_ops(chain, k, image, label_map) for chain, k in zip(made, keys, strict=True)]
        mixed = jnp.tensordot(weights, jnp.stack([x for x, _ in each]), 1)
        if label_map is None:
            return mixed, None
        moved = jnp.stack([y for _, y in each if y is not None])
        return mixed, moved[jnp.argmax(weights)]

    keys = jax.random.split(key, examples.mask.shape[0])
    label_maps = examples.y if examples.y.ndim == examples.x.ndim - 1 else None
    x, moved = jax.vmap(one)(keys, examples.x, label_maps)
    return examples._replace(x=x, y=examples.y if moved is None else moved)


def with_copies(
    policy: Params,
    ops: Mapping[str, Choice],
    key: Array,
    support: Examples,
    copies: int,
    how: How = "draw",
) -> Examples:
    """The support, and so many changed copies of each of its examples."""
    clean = support._replace(x=select(support.x, support.mask))
    parts = [clean] + [changed(policy, ops, k, clean, how) for k in jax.random.split(key, copies)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def with_policy(
    learner: MetaLearner, ops: Mapping[str, Choice], *, copies: int = 1, how: How = "draw"
) -> MetaLearner:
    """The learner, adapting to its support and to copies of it that a learned policy changes.

    Args:
      learner: one whose loss depends on the support to second order.
      ops: by name, what is chosen from.
      copies: of each support example, beside itself.
      how: each copy by one op that is drawn, or by the weighted sum of all.

    meta_params: {"learner", "policy"}.
    """
    require_policy(ops, copies, how)

    def init(key: Array, x: PyTree) -> Params:
        return {"learner": learner.init(key, x), "policy": init_policy(ops)}

    def more(params: Params, key: Array, support: Examples) -> Examples:
        return with_copies(params["policy"], ops, key, support, copies, how)

    made = adapting_to(learner, more, lambda params: params["learner"])
    return made._replace(init=init)


def by_step(
    make: Callable[..., MetaLearner],
    ops: Mapping[str, Choice],
    *,
    steps: int,
    copies: int = 1,
    how: How = "draw",
) -> MetaLearner:
    """A learner whose inner steps each have a policy of their own, drawn from at each step.

    Args:
      make: (view=) -> the learner, one that sees its support through a `View`.
      ops: by name, what is chosen from.
      steps: inner steps that a policy is learned for; steps beyond take the last one's.
      copies, how: as of `with_policy`.

    meta_params: the learner's own, and "policy" with [steps] numbers in place of each scalar.
    """
    require_policy(ops, copies, how)
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")

    def view(params: Params, support: Examples, key: Array, t: Array) -> Examples:
        own = jax.tree.map(lambda leaf: leaf[jnp.minimum(t, steps - 1)], params["policy"])
        return with_copies(own, ops, jax.random.fold_in(key, t), support, copies, how)

    learner = make(view=view)

    def init(key: Array, x: PyTree) -> Params:
        policy = jax.tree.map(lambda leaf: jnp.full(steps, leaf), init_policy(ops))
        return {**learner.init(key, x), "policy": policy}

    return learner._replace(init=init)


def require_policy(ops: Mapping[str, Choice], copies: int, how: How) -> None:
    """Refuse what no policy can be made of (ValueError)."""
    if not ops:
        raise ValueError("ops must name one or more")
    if copies < 1:
        raise ValueError(f"copies must be >= 1, got {copies}")
    if how not in get_args(How):
        raise ValueError(f"how must be one of {get_args(How)}, got {how!r}")
