"""The case study's held-out types with many examples in place of five: what to expect at best.

The row "supervised" of `benchmarks.case_study`: the same U-Net with one linear head, trained as an
ordinary network on a thousand other patients' images, of which those of the two held-out types and
of none are taken, about 91 each, as many images passed through it as meta-training passes. It is no
few-shot learner, and it is not a bound: the protocol's ideal observer knows the patient, and this
network does not. Where the row is low as well, a type is hard for networks of this size, and not
for having five examples of it.

It is judged on the queries of the same episodes, of which it knows the types beforehand.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medmeta_jax import protocol
from medmeta_jax.baselines import places_of
from medmeta_jax.data import sources
from medmeta_jax.data.episodes import EpisodeSpec
from medmeta_jax.data.phantom import NO_LESION
from medmeta_jax.data.pool import Pool
from medmeta_jax.evaluation import FixedEpisodes
from medmeta_jax.heads import feature_size, init_linear, with_head
from medmeta_jax.losses import dice_and_cross_entropy
from medmeta_jax.metrics.intervals import over_episodes
from medmeta_jax.metrics.lesions import answers, image_scores
from medmeta_jax.metrics.segmentation import overlap_scores
from medmeta_jax.plan import Plan
from medmeta_jax.settings import TrainConfig
from medmeta_jax.types import Array, Backbone, Params, PyTree

OTHERS = 1000  # added to the phantom's seed: no patient is one of the case study's
BATCH = 30
REFERENCE = 60  # images that the norm's statistics are of, when it is judged


def images_of(config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, S, S, C] uint8 of the held-out types and of none, of other patients, and maps
    [N, S, S] int32, k where the k-th of `config.test_classes` is."""
    read = {**config.read, "seed": config.read.get("seed", 0) + OTHERS}
    samples = sources.load(config.data, image_size=config.image_size, masks=True, read=read)
    names = (*config.test_classes, NO_LESION)
    known = np.asarray([names.index(n) + 1 if n in names else 0 for n in samples.class_names])
    kind = known[samples.labels]
    kept = kind > 0
    maps = np.where(np.asarray(samples.masks)[kept] > 0, kind[kept][:, None, None], 0)
    return np.asarray(samples.images)[kept], maps.astype(np.int32)


def trained(
    backbone: Backbone, x: Array, y: Array, key: Array, *, outputs: int, steps: int, rate: float
) -> tuple[Params, PyTree]:
    """Parameters of a network trained on maps y of images x, and the statistics of its norm."""
    body_key, head_key, reference_key, key = jax.random.split(key, 4)
    body = backbone.init(body_key, x[:2])
    size = feature_size(backbone, body, x[:2])
    params = {"body": body, "head": init_linear(head_key, size, outputs)}
    apply = with_head(backbone, outputs).apply
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))
    there = jnp.ones(BATCH, bool)

    def loss(params: Params, batch: Array) -> Array:
        return dice_and_cross_entropy(apply(params, x[batch], there)[0], y[batch], there)

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        params, state = carry
        batch = jax.random.choice(key, x.shape[0], (BATCH,), replace=False)
        updates, state = optimiser.update(jax.grad(loss)(params, batch), state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimiser.init(params))
    params = jax.jit(lambda c: jax.lax.scan(step, c, jax.random.split(key, steps))[0])(start)[0]
    drawn = x[jax.random.permutation(reference_key, x.shape[0])[:REFERENCE]]
    _, stats = jax.jit(apply)(params, drawn, jnp.ones(len(drawn), bool))
    return params, stats


def scores(
    logits: np.ndarray, types: tuple[str, ...], test: FixedEpisodes, spec: EpisodeSpec,
    classes: tuple[str, ...],
) -> dict[str, np.ndarray]:  # fmt: skip
    """The scores [E] of a fixed list of a network's logits [N, S, S, 1 + types] of its pool."""
    pool, places = test.pool, jax.tree.map(np.asarray, places_of(test, spec))
    query, there = places.query, places.query >= 0
    # The network's k-th type is the w-th way of an episode; the last way is of none.
    way = np.stack(
        [(places.classes == classes.index(name)).argmax(1) + 1 for name in types], -1
    )  # [E, types]
    told = answers(logits[None], 2)[0][query]
    told = np.where(told > 0, np.take_along_axis(way, np.maximum(told - 1, 0), 1), 0)
    truth = (places.query_y + 1) % places.classes.shape[1]
    masks = np.asarray(pool.masks)[None] > 0
    marked = (logits[..., 1:].max(-1) > logits[..., 0])[None]
    dice = overlap_scores(marked, masks, np.ones(masks.shape[:2], bool))["dice"][0][query]
    return image_scores(np.stack([told, dice], -1), truth, there)


def row(plan: Plan, shots: int) -> dict[str, Any]:
    """The row of a plan of the case study, in the fields that its table reads."""
    made, config = plan.experiment, plan.experiment.config
    pool: Pool = made.test.pool
    images, maps = images_of(config)

    def scaled(x: np.ndarray) -> Array:
        return (jnp.asarray(x, jnp.float32) / 255 - pool.shift) * pool.scale

    ways = 1 + len(config.test_classes)
    episode = ways * (shots + config.queries)
    steps = config.meta_steps * config.meta_batch * episode // BATCH
    params, stats = trained(
        made.backbone, scaled(images), jnp.asarray(maps), jax.random.key(config.seed),
        outputs=ways, steps=steps, rate=config.outer_lr,
    )  # fmt: skip

    x = scaled(np.asarray(pool.x))
    apply = jax.jit(with_head(made.backbone, ways).apply)
    logits = np.asarray(apply(params, x, jnp.ones(len(x), bool), stats)[0])
    task = protocol.task_of(plan)
    found = scores(logits, config.test_classes, task.test, task.spec, made.split.classes["test"])
    return {name: over_episodes(values)._asdict() for name, values in found.items()} | {
        "images": len(images)
    }
