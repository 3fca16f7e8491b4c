"""From a configuration to every value of a run: the parts put together, once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from medmeta_jax import config as configs, parallel, processes
from medmeta_jax.augment._mixing import mixed_tasks
from medmeta_jax.data.episodes import EpisodeSpec, bounds, sample
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.pool import Pool, one_image, pool_hash
from medmeta_jax.data.splits import SIDES, Split
from medmeta_jax.evaluation import FixedEpisodes
from medmeta_jax.feed import Feed, Resident
from medmeta_jax.fitting import kind_for, marks_pixels
from medmeta_jax.labels import (
    LESIONS_OF_IMAGES,
    OF_LESIONS,
    OF_ONE_WAY,
    OF_PIXELS,
    SEVERAL,
    VALUES,
    Kind,
    kind_of_pool,
)
from medmeta_jax.learners import (
    as_trained,
    make_backbone,
    make_learner,
    of_masks_alone,
    start_weights,
    with_teacher,
)
from medmeta_jax.meta_gradient import EpisodeLoss
from medmeta_jax.objectives import Objective
from medmeta_jax.outer import make_objective, make_through, outer_optimiser
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.streaming import Lists, Stream, stored_sides
from medmeta_jax.tasks import episode_spec, load_split, streamed
from medmeta_jax.types import Array, Backbone, MetaLearner

VAL_SEED, TEST_SEED = 1_000_003, 2_000_003  # the same episodes for every run of a data set


class Experiment(NamedTuple):
    """Every value of a run, made from its configuration.

    learner adapts and predicts; training is the same with augmentation in its loss.
    outputs is the number of ways the head has; feed is what training draws its episodes from, val
    and test are fixed lists of them, and lists makes others; weights, by name, take the place of
    the learner's own at the start.
    """

    config: TrainConfig
    split: Split
    kind: Kind
    spec: EpisodeSpec
    sampler: Callable[[Array, Any], Any]
    backbone: Backbone
    learner: MetaLearner
    training: MetaLearner
    optimiser: optax.GradientTransformation
    objective: Objective | None
    through: Callable[[EpisodeLoss], EpisodeLoss] | None
    example_x: Array
    outputs: int
    feed: Feed
    val: FixedEpisodes
    test: FixedEpisodes
    lists: Lists
    mesh: Mesh
    weights: Mapping[str, np.ndarray]


def kind_of_split(config: TrainConfig, split: Split) -> Kind:
    """What the labels of a split's images are."""
    return kind_of_pool(split.pools["train"], ordered=config.ordered)


def check_fits(experiment: Experiment) -> None:
    """ConfigError where an algorithm or its backbone does not take what the labels are.

    Found by tracing an adaptation, which runs nothing: the file of an algorithm alone knows what
    it does with a label.
    """
    config, kind, learner = experiment.config, experiment.kind, experiment.learner
    with_pixels = marks_pixels(experiment.backbone, experiment.example_x)

    def predicted(pool: Pool) -> Any:
        key = jax.random.key(0)
        episode = experiment.sampler(key, pool)
        adapted = learner.adapt(learner.init(key, episode.support.x), episode.support, key)
        query = episode.query
        truth = query.mask if kind is LESIONS_OF_IMAGES else query.y
        return truth, learner.predict(adapted, query.x, query.mask)

    try:
        y, logits = jax.eval_shape(predicted, one_image(experiment.split.pools["train"]))
        fits = logits.shape[:-1] == (y.shape[:-1] if kind is SEVERAL else y.shape)
    except ValueError as error:
        # What JAX says of a loss over pixels and no logit for each, or of the contrary, is of no
        # help.
        if (kind in OF_PIXELS) == with_pixels:
            raise ConfigError(f"algorithm: {config.algorithm}: {error}") from None
        fits = False
    except TypeError:
        fits = False
    if not fits and kind in OF_PIXELS and not with_pixels:
        raise ConfigError(
            f"backbone: {config.algorithm} over {config.backbone} has no prediction for each pixel "
            "of a mask; take a backbone that has, such as unet"
        )
    if not fits and with_pixels and kind not in OF_PIXELS:
        raise ConfigError(
            f"backbone: {config.backbone} has an output for each pixel, and these labels are "
            f"{kind.name} of whole images; take a backbone of these, such as conv4"
        )
    if not fits:
        raise ConfigError(f"algorithm: {config.algorithm} does not take {kind.name}")


def with_devices(config: TrainConfig) -> tuple[TrainConfig, Mesh]:
    """The configuration with its number of devices, and the mesh of them (ConfigError)."""
    by_process = parallel.devices_by_process()
    most, several = min(map(len, by_process)), len(by_process)
    shares = config.meta_batch // (config.chunk or 1)
    if (config.devices or shares) % several:
        raise ConfigError(
            f"{'devices' if config.devices else 'meta_batch'}: must be a multiple of the {several} "
            f"processes, got {config.devices or config.meta_batch}"
        )
    count = config.devices or several * parallel.largest_share(shares // several, most)
    if count > several * most:
        raise ConfigError(
            f"devices: {count} asked for, there are {several * most}; a run goes on bit-equal on "
            "as many as it began with"
        )
    if config.precision != "float32" and jax.default_backend() == "cpu":
        raise ConfigError(
            f"precision: {config.precision} is for GPUs and TPUs; a CPU has float32 alone"
        )
    config = configs.check(dataclasses.replace(config, devices=count))
    return config, parallel.mesh_over_processes(count)


def build(config: TrainConfig) -> Experiment:
    """Everything a run needs. Raises ConfigError or DataError before anything compiles.

    >>> from medmeta_jax.settings import TrainConfig
    >>> small = {"image_size": 12, "net": {"width": 2, "depth": 1}, "augment": ()}
    >>> few = {"meta_steps": 2, "val_episodes": 2, "test_episodes": 2, "baselines": "none"}
    >>> made = build(TrainConfig(algorithm="protonet", **small, **few))
    >>> made.kind.name, made.outputs, made.spec.ways
    ('classes', 5, 5)
    """
    config, mesh = with_devices(configs.check(config))
    backbone = make_backbone(config)
    config = with_stream(config, mesh)
    split = load_split(config)
    split = split._replace(pools=parallel.replicate(split.pools, mesh))
    spec = episode_spec(config, split)
    kind = kind_of_split(config, split)
    if kind in (SEVERAL, VALUES) and config.baselines == "all":
        raise ConfigError(
            "baselines: 'all' pre-trains a classifier of one class an image, and these images have "
            f"{kind.name}; take 'some'"
        )
    # Of a mask the two are what is not marked, and what is.
    outputs = 2 if kind in OF_PIXELS else bounds(spec.ways)[1]
    try:
        of_training = dataclasses.replace(spec, rotate=config.rotate_classes)
    except ValueError as error:
        raise ConfigError(f"rotate_classes: {error}") from None
    check_pool(split.pools["train"], of_training, split.classes["train"], "meta-train")
    sampler: Callable[[Array, Any], Any] = functools.partial(sample, spec=of_training)
    if config.mix == "mlti":
        sampler = mixed_tasks(sampler, alpha=config.mix_alpha)
    train = split.pools["train"]
    example = jax.eval_shape(lambda pool: sampler(jax.random.key(0), pool), one_image(train))
    example_x = jnp.zeros(example.support.x.shape, example.support.x.dtype)
    kind = kind_for(kind, backbone, example_x)
    learner = make_learner(config, backbone, outputs, len(split.class_names), kind)
    taught = with_teacher(config, split, kind, learner, outputs, example_x)
    start = start_weights(config.init_from, learner, example_x)
    feed: Feed = Resident(train)
    if "train" in split.stored:
        feed = Stream(
            train,
            split.stored["train"],
            of_training,
            meta_batch=config.meta_batch,
            dispatch=config.dispatch,
            mesh=mesh,
        )
    lists = Lists(split.pools, stored_sides(split, mesh), mesh)
    made = Experiment(
        config=config,
        split=split,
        kind=kind,
        spec=spec,
        sampler=sampler,
        backbone=backbone,
        learner=learner,
        training=as_trained(config, split, kind, taught),
        optimiser=outer_optimiser(config),
        objective=make_objective(config, split, spec),
        through=make_through(config, split, spec),
        example_x=example_x,
        outputs=outputs,
        feed=feed,
        val=lists.fixed("val", spec, VAL_SEED, config.val_episodes),
        test=lists.fixed("test", spec, TEST_SEED, config.test_episodes),
        lists=lists,
        mesh=mesh,
        weights=start,
    )
    if kind in (*OF_ONE_WAY, *OF_LESIONS) or of_pixels(made):
        check_fits(made)
    return made


def of_pixels(experiment: Experiment) -> bool:
    """Whether the backbone or the algorithm is one of pixels, which labels of whole images may not
    be for. Any other pair of them takes classes, and is not traced to see."""
    return of_masks_alone(experiment.config.algorithm) or marks_pixels(
        experiment.backbone, experiment.example_x
    )


def with_stream(config: TrainConfig, mesh: Mesh) -> TrainConfig:
    """The configuration with whether images stay in their files (ConfigError); all processes
    decide alike."""
    here = streamed(config, parallel.room(mesh))
    stream: Any = "always" if processes.any_process(lambda: here)() else "never"
    return dataclasses.replace(config, stream=stream)


def identity(experiment: Experiment) -> dict[str, Any]:
    """What a run was trained and judged on, side by side: class names and a hash of the images."""
    split = experiment.split
    return {
        side: {"classes": list(split.classes[side]), "images": pool_hash(split.pools[side])}
        for side in SIDES
    }


def counts(experiment: Experiment) -> dict[str, Any]:
    """How many images, groups (None where none are known) and images of each class a side has."""
    split, found = experiment.split, {}
    for side in SIDES:
        pool = split.pools[side]
        groups = None if split.ungrouped else len(np.unique(np.asarray(pool.group)))
        images = np.asarray(pool.counts).tolist()
        found[side] = {
            "images": len(pool.same),
            "groups": groups,
            "hash": pool_hash(pool),
            "classes": dict(zip(split.classes[side], images, strict=True)),
        }
    return {"sides": found}
