"""What labels are to a backbone; found by tracing, which runs nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medmeta_jax.labels import LESIONS, LESIONS_OF_IMAGES, OF_LESIONS, Kind
from medmeta_jax.types import Array, Backbone


def marks_pixels(backbone: Backbone, example_x: Array) -> bool:
    """Whether a backbone has a feature for each pixel of [n, *spatial, C]."""

    def features(x: Array) -> Array:
        return backbone.apply(backbone.init(jax.random.key(0), x), x, jnp.ones(len(x), bool))[0]

    return len(jax.eval_shape(features, example_x).shape) == example_x.ndim


def kind_for(kind: Kind, backbone: Backbone, example_x: Array) -> Kind:
    """The kind of labels as a backbone can be told of them: lesions where they are, or which one an
    image shows."""
    if kind not in OF_LESIONS:
        return kind
    return LESIONS if marks_pixels(backbone, example_x) else LESIONS_OF_IMAGES
