"""The outer loop as it is configured: its optimiser, and what of episodes' losses it lowers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optax

from medmeta_jax.data.episodes import EpisodeSpec
from medmeta_jax.data.splits import Split
from medmeta_jax.meta_gradient import EpisodeLoss
from medmeta_jax.mldg import mldg
from medmeta_jax.objectives import Objective, cvar, tr_maml
from medmeta_jax.settings import ConfigError, TrainConfig


def outer_optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """The configured optimiser, with its schedule and clipping."""
    rate: Any = config.outer_lr
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(config.outer_lr, config.meta_steps)
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    makers: dict[str, Callable[[Any], optax.GradientTransformation]] = {
        "adam": optax.adam,
        "adamw": optax.adamw,
        "sgd": functools.partial(optax.sgd, momentum=0.9),
    }
    return optax.chain(clip, makers[config.optimiser](rate))


def make_objective(config: TrainConfig, split: Split, spec: EpisodeSpec) -> Objective | None:
    """The configured objective, None for the mean (ConfigError for one that cannot be)."""
    if config.objective in ("mean", "mldg"):
        return None
    if config.objective == "tr_maml":
        require_domains(config, split, spec)
    cautious = config.objective == "cvar"
    try:
        return cvar(share=config.worst_share) if cautious else tr_maml(rate=config.domain_rate)
    except ValueError as error:
        raise ConfigError(f"{'worst_share' if cautious else 'domain_rate'}: {error}") from None


def make_through(
    config: TrainConfig, split: Split, spec: EpisodeSpec
) -> Callable[[EpisodeLoss], EpisodeLoss] | None:
    """What an episode's loss is put through, None for nothing (ConfigError for what cannot be)."""
    if config.objective != "mldg":
        return None
    require_domains(config, split, spec)
    if "train" in split.stored:
        raise ConfigError("objective: mldg draws two episodes at once; take stream never")
    try:
        return mldg(inner_lr=config.domain_rate)
    except ValueError as error:
        raise ConfigError(f"domain_rate: {error}") from None


def require_domains(config: TrainConfig, split: Split, spec: EpisodeSpec) -> None:
    """ConfigError where there are no two domains that episodes are of one each of."""
    if spec.within != "domain" or split.domains < 2:
        raise ConfigError(
            f"objective: {config.objective} weighs domains, and needs two or more that episodes "
            "are drawn within (also, or data with domains and within 'domain')"
        )
