"""Which tasks a configuration means: its data, how they are split, what an episode is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax import config as configs, registry
from medmeta_jax.data import covariates, objects, prepared, sources, split_file
from medmeta_jax.data.episodes import EpisodeSpec
from medmeta_jax.data.feasible import check_pool
from medmeta_jax.data.lesions import lesions, sides_of
from medmeta_jax.data.patients import by_patient
from medmeta_jax.data.pool import of_one_way
from medmeta_jax.data.samples import DataError, Samples
from medmeta_jax.data.splits import SIDES, Split, held_out, make_split
from medmeta_jax.data.structures import structures
from medmeta_jax.settings import ConfigError, TrainConfig

RESIDENT_SHARE = 0.25  # of a device's memory, that images may take; the rest is for programs


def load_split(config: TrainConfig) -> Split:
    """Read the configured data and split its classes (DataError, ConfigError). Where
    `config.stream` says so, the images of prepared folders are left in their files."""
    told = {config.data: arguments_of_source(config)}

    def load(source: str, *, every_side: bool = True) -> Samples:
        how: dict[str, Any] = {"image_size": config.image_size, "on_error": config.on_error}
        if config.task == "detection":
            return objects.load(source, **how, shrink=config.shrink)
        stays = config.stream == "always" and is_prepared(source)
        how["masks"] = config.task in ("segmentation", "lesions")
        if stays:
            found = prepared.open_samples(source, **how)
        else:
            read = told.get(source, {})
            found = sources.load(source, **how, modalities=config.modalities, read=read)
        if found.present is not None and not found.present.all() and not takes_absent(config):
            raise ConfigError(
                f"backbone: {config.backbone} does not take images that lack a modality, and some "
                f"of {found.about} do; take multimodal"
            )
        if config.task == "patient":
            return by_patient(found, every_side=every_side)
        if config.task == "lesions":
            return lesions(found)
        return structures(found) if config.task == "segmentation" else found

    others = {"val": config.meta_val, "test": config.meta_test}
    parts = {name: load(source) for name, source in domain_names(config).items()}
    named, given = (config.val_classes, config.test_classes), None
    if config.task == "lesions":
        (samples,) = parts.values()
        given = sides_of(samples, *named)
    elif any(named):
        (name,) = parts
        parts[name] = held_out(parts[name], *named)
    if config.split is not None:
        given = split_file.read(Path(config.split), *parts.values()).sides
    split = make_split(
        parts,
        mixing=config.mixing,
        given=given,
        standardised=config.standardise,
        table=None if config.covariates is None else table_of(config.covariates, config.data),
        **{
            side: load(source, every_side=False)
            for side, source in others.items()
            if source is not None
        },
    )
    require_known(config, split)
    return split


def table_of(path: str, source: str) -> covariates.Table:
    """A table of covariates, its patients called as the data set calls them (DataError)."""
    return covariates.read(Path(path), hashes=sources.find(source) == "dicom")


def require_known(config: TrainConfig, split: Split) -> None:
    """ConfigError where the covariates of some patients are missing and the backbone needs all."""
    if takes_absent(config):
        return
    for pool in split.pools.values():
        if pool.covariates is None:
            continue
        missing = np.isnan(np.asarray(pool.covariates)).any(0)
        if missing.any():
            name = split.covariates[int(np.argmax(missing))]
            raise ConfigError(
                f"covariates: {name} of some patients is missing, which {config.backbone} does not "
                "take; fill it in, or take the backbone multimodal"
            )


def arguments_of_source(config: TrainConfig) -> dict[str, Any]:
    """What the source that reads `config.data` is told: what the configuration says, in its own
    defaults (ConfigError); nothing where it says nothing."""
    if not config.read:
        return {}
    defaults = sources.options(config.data)
    told = configs.filled("read", config.read, defaults, config.data)
    if config.task == "detection" and told != defaults:
        raise ConfigError("read: detection reads whole images with all their boxes; leave it out")
    return told


def takes_absent(config: TrainConfig) -> bool:
    """Whether the backbone has stems, and so does with the modalities that are there."""
    return registry.takes("backbones", config.backbone, "stems")


def is_prepared(source: str) -> bool:
    """Whether a data set is a folder by `medmeta data prepare` (DataError where there is none)."""
    return sources.find(source) == "prepared"


def streamed(config: TrainConfig, room: int) -> bool:
    """Whether the configured images are to stay in their files, where a device has `room` bytes.

    Raises ConfigError where they have to, and do not come from prepared folders.
    """
    if config.task == "detection":
        if config.stream == "always":
            raise ConfigError("stream: 'always' is not for detection, whose boxes stay in memory")
        return False
    if config.stream == "never" or config.task == "lesions":
        return False
    if config.modalities or config.covariates:  # which are put together in memory
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
    size = sum(
        prepared.image_bytes(s, config.image_size, masks=config.task == "segmentation")
        for s in every
        if is_prepared(s)
    )
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
    disjoint, of_patients = config.disjoint, config.task == "patient"
    if disjoint == "auto":
        disjoint = "time" if of_patients else "group" if split.grouped else "image"
    if config.disjoint == "group" and split.ungrouped:
        raise DataError(
            f"{split.ungrouped[0]}: names no groups (groups.csv, or an array groups), "
            "so --disjoint group cannot be kept; use image"
        )
    within = config.within
    if config.task == "lesions":
        within = "any"
    if within == "auto":
        within = "domain" if config.also or of_patients else "any"
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
        shuffle=config.shuffle_labels and not config.ordered and not of_patients,
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
