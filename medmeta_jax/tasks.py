"""Which tasks a configuration means: its data, how they are split, what an episode is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medmeta_jax.config import ConfigError, TrainConfig
from medmeta_jax.data import objects, prepared, sources, split_file
from medmeta_jax.data.episodes import EpisodeSpec, check_pool
from medmeta_jax.data.pool import of_one_way
from medmeta_jax.data.samples import DataError, Samples
from medmeta_jax.data.splits import SIDES, Split, held_out, make_split
from medmeta_jax.data.structures import structures

RESIDENT_SHARE = 0.25  # of a device's memory, that images may take; the rest is for programs


def load_split(config: TrainConfig) -> Split:
    """Read the configured data and split its classes (DataError). Where `config.stream` says so,
    the images of prepared folders are left in their files."""

    def load(source: str) -> Samples:
        if config.task == "detection":
            return objects.load(
                source,
                image_size=config.image_size,
                shrink=config.shrink,
                on_error=config.on_error,
            )
        if config.task == "segmentation":
            return structures(
                sources.load(
                    source, image_size=config.image_size, on_error=config.on_error, masks=True
                )
            )
        if config.stream == "always" and is_prepared(source):
            return prepared.open_samples(
                source, image_size=config.image_size, on_error=config.on_error
            )
        return sources.load(source, image_size=config.image_size, on_error=config.on_error)

    others = {"val": config.meta_val, "test": config.meta_test}
    parts = {name: load(source) for name, source in domain_names(config).items()}
    if config.val_classes or config.test_classes:
        (name,) = parts
        parts[name] = held_out(parts[name], config.val_classes, config.test_classes)
    given = None
    if config.split is not None:
        given = split_file.read(Path(config.split), *parts.values()).sides
    return make_split(
        parts,
        mixing=config.mixing,
        given=given,
        standardised=config.standardise,
        **{side: load(source) for side, source in others.items() if source is not None},
    )


def is_prepared(source: str) -> bool:
    """Whether a data set is a folder by `medmeta data prepare` (DataError where there is none)."""
    return sources.find(source) == "prepared"


def streamed(config: TrainConfig, room: int) -> bool:
    """Whether the configured images are to stay in their files, where a device has `room` bytes.

    Raises ConfigError where they have to, and do not come from prepared folders.
    """
    if config.task != "auto":
        if config.stream == "always":
            raise ConfigError(
                f"stream: 'always' is not for task {config.task}, whose masks stay on the device"
            )
        return False
    if config.stream == "never":
        return False
    trained_on = (config.data, *config.also)
    others = [source for source in trained_on if not is_prepared(source)]
    if config.stream == "always" and others:
        raise ConfigError(
            f"stream: 'always' needs folders by `medmeta data prepare`, and {others[0]} is none; "
            "prepare it first, or take 'auto'"
        )
    if config.stream == "always":
        return True
    every = [*trained_on, *(s for s in (config.meta_val, config.meta_test) if s is not None)]
    size = sum(prepared.image_bytes(s, config.image_size) for s in every if is_prepared(s))
    return not others and size > RESIDENT_SHARE * room


def domain_names(config: TrainConfig) -> dict[str, str]:
    """The data sets to meta-train on by a short name of each: that of its file or folder.

    Raises ConfigError where two have the same.
    """
    found: dict[str, str] = {}
    for source in (config.data, *config.also):
        name = Path(source).stem
        if name in found:
            raise ConfigError(f"also: two data sets are named {name!r}; rename a folder or file")
        found[name] = source
    return found


def episode_spec(config: TrainConfig, split: Split) -> EpisodeSpec:
    """The configured episodes, with defaults that follow from the data, checked on it."""
    disjoint = config.disjoint
    if disjoint == "auto":
        disjoint = "group" if split.grouped else "image"
    if config.disjoint == "group" and split.ungrouped:
        raise DataError(
            f"{split.ungrouped[0]}: names no groups (groups.csv, or an array groups), "
            "so --disjoint group cannot be kept; use image"
        )
    within = config.within
    if within == "auto":
        within = "domain" if config.also else "any"
    one = of_one_way(split.pools["train"])
    if one and config.ways is not None:
        raise ConfigError(f"ways: images have {one}, of which an episode is of one; leave it out")
    fewest = 1 if one else min(5, fewest_classes(split, within))
    spec = EpisodeSpec(
        ways=fewest if config.ways is None else config.ways,
        shots=config.shots,
        queries=config.queries,
        disjoint=disjoint,
        balance=config.balance,
        within=within,
        shuffle=config.shuffle_labels and not config.ordered,
    )
    for side in SIDES:
        check_pool(split.pools[side], spec, split.classes[side], f"meta-{side}")
    return spec


def fewest_classes(split: Split, within: str) -> int:
    """The most ways that every side's episodes can have."""
    if within == "any":
        return min(len(split.classes[side]) for side in SIDES)
    domains = [np.asarray(split.pools[side].domain) for side in SIDES]
    return min(int(np.bincount(one[one >= 0], minlength=1).min()) for one in domains)
