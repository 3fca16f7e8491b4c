"""`medmeta`: parse, call the verb, and turn what happened into an exit code.

Exit codes: 0 done, 1 the run failed, 2 usage, 3 data or checkpoint missing or unusable,
75 pre-empted after saving, 130 interrupted. With `--json`, stdout holds one JSON object
and nothing else. Nothing heavy is imported before the arguments are known to be good.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medmeta_jax import config as configs, launch, registry
from medmeta_jax.hints import suggest
from medmeta_jax.options import (
    Adapt,
    BenchMethods,
    DataInspect,
    DataList,
    DataPrepare,
    DataSplit,
    Doctor,
    Eval,
    Export,
    Launch,
    Predict,
    Report,
    Reproduce,
    TrainFlags,
)
from medmeta_jax.settings import ConfigError, TrainConfig

EXIT_FAILED, EXIT_USAGE, EXIT_DATA, EXIT_PREEMPTED, EXIT_INTERRUPTED = 1, 2, 3, 75, 130

TWO_WORDS = ("data list", "data inspect", "data prepare", "data split", "bench methods")

USAGE = """usage: medmeta VERB [options]

  train             meta-train, evaluate on unseen classes, write a run directory
  launch            train in several processes of this machine
  eval RUN          judge a run again
  reproduce RUN     train a run again, and compare to the last bit
  report RUN...     one page of a run, or of several side by side
  adapt RUN         adapt a run to a few labelled images
  predict TASK      tell images by what was adapted
  export TASK|RUN   one file that runs with jax and numpy alone
  bench methods     compare methods on the same data, budget and episodes
  data list         the data sources there are
  data inspect SRC  what a data set holds
  data prepare SRC  read a data set once into a folder that is quick to open
  data split SRC    write down which side each image is on, by patient
  doctor            check devices, data, cache and disk

  medmeta VERB --help tells a verb's options. Every verb takes --json."""


class Signals:
    """SIGTERM and SIGINT ask for a stop at the next rest; a second one ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        print("stopping at the next step; again to end at once", file=sys.stderr, flush=True)

    def told_to_stop(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    def exit_code(self) -> int:
        """The exit code of a program that a signal stopped in good order."""
        return EXIT_INTERRUPTED if self.received == signal.SIGINT else EXIT_PREEMPTED


def parse(kind: Any, name: str, arguments: list[str], default: Any = None) -> Any:
    """Arguments as a dataclass; tyro prints usage errors and exits 2."""
    import tyro

    extra = {} if default is None else {"default": default}
    positional = (tyro.conf.PositionalRequiredArgs,)
    return tyro.cli(kind, prog=f"medmeta {name}", args=arguments, config=positional, **extra)


def arguments_class(name: str, values: Mapping[str, Any]) -> Any:
    """A dataclass of a factory's arguments, whose defaults are `values`."""
    fields = [(key, type(value), dataclasses.field(default=value)) for key, value in values.items()]
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


def run_launch(arguments: list[str]) -> int:
    """`launch --processes N -- train ...`: the exit code of the processes."""
    before, after = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        before, after = arguments[:at], arguments[at + 1 :]
    given = parse(Launch, "launch", before)
    if given.processes < 1:
        raise ConfigError(f"processes: must be >= 1, got {given.processes}")
    if after[:1] != ["train"]:
        raise ConfigError("launch: say what to run, as in: medmeta launch --processes 2 -- train")
    # What can be refused is refused once, not by every process.
    _, flags = parse_train(after[1:])
    if flags.dry_run or flags.distributed:
        raise ConfigError("launch: takes neither --dry-run nor --distributed")
    return launch.launch(given.processes, after)


def until_told(train: Callable[[Callable[[], bool]], dict[str, Any]]) -> dict[str, Any]:
    """What a training gives that is told to stop by signals; where one came, the exit."""
    from medmeta_jax.judging import Stopped

    signals = Signals()
    try:
        return train(signals.told_to_stop)
    except Stopped as stopped:
        if str(stopped):
            print(f"medmeta: {stopped}", file=sys.stderr)
        raise SystemExit(signals.exit_code()) from None


def run_report(given: Report) -> dict[str, Any]:
    """`report RUN... --out FILE`."""
    if not given.runs:
        raise ConfigError("report: name a run, as in: medmeta report runs/RUN")
    if len(given.runs) > 1 and given.out is None:
        raise ConfigError("out: several runs have no folder in common; say where, as --out R.html")
    from medmeta_jax import console
    from medmeta_jax.report import _make as report

    where, plots = report.make(given.runs, None if given.out is None else Path(given.out))
    console.say(f"report     {where}")
    console.say(f"plots      {plots}, each as PNG and SVG with its CSV")
    return {"report": str(where), "plots": str(plots)}


def run_verb(arguments: list[str]) -> tuple[dict[str, Any], bool]:
    """The verb's result, and whether it is wanted as JSON."""
    verb, rest = arguments[0], arguments[1:]
    if rest and f"{verb} {rest[0]}" in TWO_WORDS:
        verb, rest = f"{verb} {rest[0]}", rest[1:]
    if verb == "train":
        config, flags = parse_train(rest)
        from medmeta_jax import verbs

        if flags.dry_run:
            return verbs.dry_run(config), flags.json
        found = until_told(
            lambda told_to_stop: verbs.train(
                config,
                resume=flags.resume,
                told_to_stop=told_to_stop,
                distributed=flags.distributed,
            )
        )
        return found, flags.json
    if verb == "launch":
        raise SystemExit(run_launch(rest))
    if verb == "data prepare":
        first = rest[0] if rest and not rest[0].startswith("-") else None
        asked, how = parse_reading(DataPrepare, verb, rest, first)
        from medmeta_jax import data_verbs

        return data_verbs.data_prepare(asked, how), asked.json
    if verb == "adapt":
        asked, how = parse_reading(Adapt, verb, rest, looked_at_first(rest, "--support").support)
        from medmeta_jax import deploy_verbs

        return deploy_verbs.adapt(asked, how), asked.json
    kinds: dict[str, Any] = {
        "eval": Eval, "report": Report, "reproduce": Reproduce, "predict": Predict,
        "export": Export, "bench methods": BenchMethods,
        "data list": DataList, "data inspect": DataInspect, "data split": DataSplit,
        "doctor": Doctor,
    }  # fmt: skip
    if verb not in kinds:
        raise ConfigError(
            f"no verb {verb!r}{suggest(verb, ['train', 'launch', 'adapt', 'data prepare', *kinds])}"
        )
    given = parse(kinds[verb], verb, rest)
    if verb == "eval":
        from medmeta_jax import verbs

        return verbs.evaluate(
            given.run, shots=given.shots, episodes=given.episodes, baselines_=given.baselines
        ), given.json
    if verb == "reproduce":
        from medmeta_jax import reproducing

        return until_told(lambda stop: reproducing.reproduce(given.run, stop)), given.json
    if verb == "report":
        return run_report(given), given.json
    if verb in ("predict", "export"):
        from medmeta_jax import deploy_verbs

        return getattr(deploy_verbs, verb)(given), given.json
    if verb == "bench methods":
        from medmeta_jax import bench

        signals = Signals()
        found = bench.run(given, signals.told_to_stop)
        if signals.told_to_stop():
            print("medmeta: stopped; the same command goes on", file=sys.stderr)
            raise SystemExit(signals.exit_code())
        return found, given.json
    if verb == "doctor":
        from medmeta_jax import doctor

        return doctor.doctor(), given.json
    from medmeta_jax import data_verbs

    if verb == "data list":
        return data_verbs.data_list(), given.json
    if verb == "data split":
        return data_verbs.data_split(given), given.json
    return data_verbs.data_inspect(given), given.json


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that is a user's or the machine's; None for a bug."""
    from medmeta_jax.data.samples import DataError
    from medmeta_jax.runs import RunError

    if isinstance(error, ConfigError):
        return EXIT_USAGE
    if isinstance(error, DataError):
        return EXIT_DATA
    kinds = {
        "RunError": EXIT_DATA, "CheckpointError": EXIT_DATA, "WeightsError": EXIT_DATA,
        "RunFailed": EXIT_FAILED,
    }  # fmt: skip
    return EXIT_DATA if isinstance(error, RunError) else kinds.get(type(error).__name__)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `medmeta`."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        run(given)
    except SystemExit as ending:
        end_alone(ending.code)
        raise
    except Exception:
        traceback.print_exc()
        end_alone(EXIT_FAILED)
        raise SystemExit(EXIT_FAILED) from None


def end_alone(code: object) -> None:
    """End at once a process that failed among several, which else waits for them to end too.

    Where a signal has stopped it, they all end together.
    """
    if code in (0, None, EXIT_PREEMPTED, EXIT_INTERRUPTED):
        return
    if "medmeta_jax.processes" in sys.modules:
        from medmeta_jax import processes

        if processes.joined():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else EXIT_FAILED)


def run(given: list[str]) -> None:
    """Parse, call, print, and exit where it is not with 0."""
    if not given or given[0] in ("-h", "--help"):
        print(USAGE, file=sys.stderr if not given else sys.stdout)
        raise SystemExit(0 if given else EXIT_USAGE)
    try:
        found, as_json = run_verb(given)
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        who = f"process {os.environ[launch.INDEX]}: " if launch.INDEX in os.environ else ""
        print(f"medmeta: {who}{error}", file=sys.stderr)
        raise SystemExit(code) from None
    if "table" in found:
        print(found.pop("table"), file=sys.stderr if as_json else sys.stdout)
    elif "results" in found:
        from medmeta_jax import tables

        tables.table(found, sys.stderr if as_json else sys.stdout)
        if found["run"]:
            print(f"run directory: {found['run']}", file=sys.stderr)
    if as_json and found:  # of several processes, the first one's
        print(json.dumps(found))
    if found.get("ok") is False:
        raise SystemExit(EXIT_FAILED)
