"""`medmeta`: parse, call the verb, and turn what happened into an exit code.

Exit codes: 0 done, 1 the run failed, 2 usage, 3 data or checkpoint missing or unusable,
75 pre-empted after saving, 130 interrupted, 141 nobody read what it wrote. With `--json`, stdout
holds one JSON object and nothing else. Nothing heavy is imported before the arguments are known to
be good.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medmeta_jax import launch
from medmeta_jax.hints import suggest
from medmeta_jax.options import (
    Adapt,
    BenchMethods,
    Compress,
    DataInspect,
    DataList,
    DataPrepare,
    DataSplit,
    Doctor,
    Eval,
    Export,
    Launch,
    Predict,
    Replay,
    Report,
    Reproduce,
)
from medmeta_jax.parsing import looked_at_first, parse, parse_reading, parse_train
from medmeta_jax.settings import ConfigError

EXIT_FAILED, EXIT_USAGE, EXIT_DATA, EXIT_PREEMPTED, EXIT_INTERRUPTED = 1, 2, 3, 75, 130
EXIT_UNREAD = 141  # as a program has that SIGPIPE ended

TWO_WORDS = ("data list", "data inspect", "data prepare", "data split", "bench methods")

USAGE = """usage: medmeta VERB [options]

  train             meta-train, evaluate on unseen classes, write a run directory
  launch            train in several processes of this machine
  eval RUN          judge a run again
  reproduce RUN     train a run again, and compare to the last bit
  replay RUN        look at the episodes of a meta-step, such as one that was not finite
  report RUN...     one page of a run, or of several side by side
  compress RUN      a run with a smaller network, taught by it
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
        "eval": Eval, "report": Report, "reproduce": Reproduce, "replay": Replay,
        "predict": Predict, "export": Export, "bench methods": BenchMethods,
        "compress": Compress,
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

        return verbs.evaluate(given), given.json
    if verb == "reproduce":
        from medmeta_jax import reproducing

        return until_told(lambda stop: reproducing.reproduce(given.run, stop)), given.json
    if verb == "compress":
        from medmeta_jax import compressing

        return until_told(lambda stop: compressing.compress(given, stop)), given.json
    if verb == "replay":
        from medmeta_jax import replaying

        return replaying.replay(given.run, given.step), given.json
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
        try:
            run(given)
        finally:  # else what is still to be written is written after all that can be caught
            sys.stdout.flush()
    except SystemExit as ending:
        end_alone(ending.code)
        raise
    except Exception as error:
        unread = isinstance(error, BrokenPipeError) and reader_has_left()
        if not unread:
            traceback.print_exc()
        code = EXIT_UNREAD if unread else EXIT_FAILED
        end_alone(code)
        raise SystemExit(code) from None


def reader_has_left() -> bool:
    """Whether nobody reads stdout any more, as `head` does not once it has its lines; what is still
    to be written is then given up, of which Python would complain at its end."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # an error is told without being asked for
    left = bool(poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left


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
