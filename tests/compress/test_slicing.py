"""A network without some channels is the network in which they are zeros, after adapting too."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmeta_jax import registry
from medmeta_jax.compress.channels import Channels, channels_of
from medmeta_jax.compress.slicing import best, fewer, flops, masked, sliced
from medmeta_jax.losses import dice_and_cross_entropy
from medmeta_jax.types import Backbone, Episode, MetaLearner

from ..conftest import WAYS, double, make_episode, make_mask_episode

KEY = jax.random.key(1)
NETS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "conv4": ("conv4", (4, 6), {}),
    "resnet12": ("resnet12", (4, 6), {}),
    "resnet18": ("resnet18", (4, 6), {}),
    "unet": ("unet", (4, 6, 5), {}),
    "unet of hypercolumns": ("unet", (4, 6, 5), {"convolutions": 2, "hypercolumns": True}),
}


def backbone_of(name: str, widths: Sequence[int], norm: str, net: dict[str, Any]) -> Backbone:
    made: Backbone = registry.factory("backbones", name)(
        widths=widths, norm=norm, form="patches", **net
    )
    return made


def learner_of(algorithm: str, backbone: Backbone, masks: bool) -> MetaLearner:
    given: dict[str, Any] = {"outputs": 2 if masks else WAYS}
    if masks:
        given["loss"] = dice_and_cross_entropy
    if "steps" in registry.defaults("algorithms", algorithm):
        given["steps"] = 2
    if "pool_classes" in registry.defaults("algorithms", algorithm):
        given["pool_classes"] = 4
    made: MetaLearner = registry.factory("algorithms", algorithm)(backbone, **given)
    return made


def some_of(channels: Sequence[Channels], widths: Sequence[int]) -> Any:
    """Channels that stay, by scores of chance."""
    rng = np.random.default_rng(0)
    return best(channels, [rng.random(of.size) for of in channels], widths)


def require_same(
    algorithm: str, name: str, norm: str, widths: tuple[int, ...], net: dict[str, Any]
) -> None:
    masks = name == "unet"
    episode: Episode = double(make_mask_episode() if masks else make_episode())
    whole = learner_of(algorithm, backbone_of(name, widths, norm, net), masks)
    less = fewer(widths, 0.5)
    small = learner_of(algorithm, backbone_of(name, less, norm, net), masks)
    x = episode.support.x
    params = double(jax.jit(whole.init)(jax.random.key(0), x))
    # Away from the start, whose zero biases would hide a channel that is left.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noise = [
        0.2 * jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)
    ]
    params = jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise, strict=True)])
    channels = channels_of(name, widths, norm, **net)
    kept = some_of(channels, less)
    like = jax.eval_shape(small.init, KEY, x)

    def logits(learner: MetaLearner, params: Any) -> jax.Array:
        adapted = learner.adapt(params, episode.support, KEY)
        return learner.predict(adapted, episode.query.x, episode.query.mask)

    of_whole = jax.jit(functools.partial(logits, whole))
    found = of_whole(masked(params, channels, kept))
    expected = jax.jit(functools.partial(logits, small))(sliced(params, channels, kept, like))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    assert float(jnp.abs(found - of_whole(params)).max()) > 1e-3  # something was taken out


@pytest.mark.parametrize(
    ("net", "norm"),
    [
        ("conv4", "support"),
        ("conv4", "none"),
        *(
            pytest.param(net, norm, marks=pytest.mark.slow)
            for net, norm in (*((net, "support") for net in NETS if net != "conv4"),
                              ("resnet12", "none"))
        ),
    ],
)  # fmt: skip
def test_every_backbone_by_maml(x64: None, net: str, norm: str) -> None:
    """Without norms, biases stand in their place in all of them alike."""
    name, widths, more = NETS[net]
    require_same("maml", name, norm, widths, more)


@pytest.mark.parametrize("algorithm", ["protonet", "r2d2", "finetune", "anil"])
def test_learners_of_other_makes(x64: None, algorithm: str) -> None:
    require_same(algorithm, "conv4", "support", (4, 6), {})


def test_a_rate_for_each_number_is_not_told_apart_by_channel(x64: None) -> None:
    with pytest.raises(ValueError, match="what it is to a channel is not known"):
        require_same("metasgd", "conv4", "support", (4, 6), {})


def test_what_is_kept_is_the_best() -> None:
    channels = channels_of("conv4", (4, 3), "support")
    scores = [np.array([0.1, 0.9, 0.5, 0.7]), np.array([3.0, 1.0, 2.0])]
    first, second = best(channels, scores, (2, 1))
    assert (first.tolist(), second.tolist()) == ([1, 3], [0])


def test_operations_are_counted() -> None:
    square = jnp.ones((8, 8))
    assert flops(lambda a: a @ a, square) == pytest.approx(2 * 8**3, rel=0.05)
    x, mask = jnp.ones((2, 8, 8, 1)), jnp.ones(2, bool)
    counts = []
    for widths in ((8, 8), (4, 4)):
        backbone = backbone_of("conv4", widths, "none", {})
        params = backbone.init(KEY, x)
        counts.append(flops(backbone.apply, params, x, mask))
    assert 0.25 < counts[1] / counts[0] < 0.5  # between a quarter, of a layer inside, and a half


@pytest.mark.parametrize(
    ("name", "norm", "says"),
    [("conv4", "group", "norm must be batch, support or none"), ("pixels", "none", "got 'pixels'")],
)
def test_what_cannot_be_taken_out_is_refused(name: str, norm: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        channels_of(name, (4,), norm)
