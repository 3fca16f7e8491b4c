"""The command line's arguments as values: of `train` with those of its algorithm, backbone and
source, of other verbs with those of the source that they read. Nothing heavy is imported."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmeta_jax import config as configs, registry
from medmeta_jax.options import TrainFlags
from medmeta_jax.settings import ConfigError, TrainConfig


def parse(kind: Any, name: str, arguments: list[str], default: Any = None) -> Any:
    """Arguments as a dataclass; tyro prints usage errors and exits 2."""
    import tyro

    extra = {} if default is None else {"default": default}
    positional = (tyro.conf.PositionalRequiredArgs,)
    return tyro.cli(kind, prog=f"medmeta {name}", args=arguments, config=positional, **extra)


def arguments_class(name: str, values: Mapping[str, Any]) -> Any:
    """A dataclass of a factory's arguments, whose defaults are `values`."""
    kinds: dict[type, Any] = {tuple: tuple[int, ...]}
    fields = [
        (key, kinds.get(type(value), type(value)), dataclasses.field(default=value))
        for key, value in values.items()
    ]
    return dataclasses.make_dataclass(name, fields, frozen=True)


def with_arguments(
    bases: tuple[type, ...], values: Mapping[str, Mapping[str, Any]]
) -> tuple[type, dict[str, Any]]:
    """A dataclass of `bases` with a group of arguments for each of `values`, named after it, and
    these groups at their defaults. Its documentation is that of the first base."""
    groups = {name: arguments_class(name.title(), of) for name, of in values.items()}
    fields = [(n, kind, dataclasses.field(default_factory=kind)) for n, kind in groups.items()]
    combined = dataclasses.make_dataclass(
        "Options", fields, bases=bases, frozen=True, namespace={"__doc__": bases[0].__doc__}
    )
    return combined, {name: kind() for name, kind in groups.items()}


def parse_train(arguments: list[str]) -> tuple[TrainConfig, TrainFlags]:
    """Preset, then file, then flags; `hyper`, `net` and `read` flags are those of the factories."""
    chosen = looked_at_first(
        arguments, "--preset", "--config", "--algorithm", "--backbone", "--data"
    )
    preset = chosen.preset
    if preset is None and chosen.data is None and chosen.config is None:
        preset = configs.DEFAULT_PRESET
    base = configs.load(preset, chosen.config)
    if preset and chosen.data is None and chosen.config is None and not configs.names_data(preset):
        raise ConfigError(f"preset {preset}: names no data; add --data PATH")
    named = {
        key: value
        for key in ("algorithm", "backbone", "data")
        if (value := getattr(chosen, key)) is not None
    }
    base = configs.check(configs.from_mapping(named, base, "flags"))

    own_arguments = {"hyper": base.hyper, "net": base.net, "read": arguments_of_source(base)}
    combined, groups = with_arguments((TrainConfig, TrainFlags), own_arguments)
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(TrainConfig)}
    parsed = parse(combined, "train", arguments, combined(**{**fields, **groups}))
    flags = TrainFlags(**{f.name: getattr(parsed, f.name) for f in dataclasses.fields(TrainFlags)})
    values = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(TrainConfig)}
    values |= {name: dataclasses.asdict(getattr(parsed, name)) for name in own_arguments}
    own = {"--resume", f"--resume={flags.resume}", flags.resume, "--json", "--distributed"}
    if flags.resume is not None and set(arguments) - own:
        raise ConfigError("resume: goes on with the run's own configuration; no other option")
    return configs.check(TrainConfig(**values)), flags


def arguments_of_source(config: TrainConfig) -> dict[str, Any]:
    """What the source of a configuration's data is told, its own defaults filled in (ConfigError);
    nothing where it takes nothing, or there is no such data, which is told when it is read."""
    if config.data in registry.names("data") and not Path(config.data).exists():
        known = registry.defaults("data", config.data, "catalogue")  # built in; without NumPy
        return configs.filled("read", config.read, known, config.data)
    from medmeta_jax.data import sources
    from medmeta_jax.data.samples import DataError

    try:
        known = sources.options(config.data)
    except DataError:
        return dict(config.read)
    return configs.filled("read", config.read, known, config.data)


def parse_reading(
    options: type, verb: str, arguments: list[str], source: str | None
) -> tuple[Any, dict[str, Any]]:
    """A verb's options, and those of the source that it reads."""
    known: dict[str, Any] = {}
    if source is not None:
        from medmeta_jax.data import sources

        known = sources.options(source)
    kind, _ = with_arguments((options,), {"read": known} if known else {})
    given = parse(kind, verb, arguments)
    return given, dataclasses.asdict(given.read) if known else {}


def looked_at_first(arguments: list[str], *flags: str) -> argparse.Namespace:
    """What some flags are given, None where they are not, before all others are known
    (ConfigError)."""
    early = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    for flag in flags:
        early.add_argument(flag)
    try:
        return early.parse_known_args(arguments)[0]
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from None
