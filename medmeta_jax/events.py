"""A run's metrics as TensorBoard events, beside metrics.jsonl, which is always written.

Extra `tensorboard`; look at them by: tensorboard --logdir runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from medmeta_jax.runs import Run
from medmeta_jax.settings import ConfigError

Log = Callable[[Mapping[str, Any]], None]  # of a record of metrics.jsonl


def require() -> None:
    """ConfigError where what writes events is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise ConfigError(
            "tensorboard: takes the extra 'tensorboard': pip install tensorboardX; metrics.jsonl "
            "holds the same"
        ) from None


def scalars(record: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record by name, those of a mapping inside it below its own.

    >>> list(scalars({"step": 3, "loss": 1.0, "valid": None, "policy": {"flip": 0.5}}))
    [('loss', 1.0), ('policy/flip', 0.5)]
    """
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{under}{name}/")
        elif value is not None and name != "step":
            yield f"{under}{name}", float(value)


@contextmanager
def writer(run: Run, *, after: int, wanted: bool) -> Iterator[Log]:
    """What logs records into the run's folder of events; nothing where they are not wanted.

    after: the step that training goes on from, past which events of before do not hold.
    """
    if not wanted:
        yield lambda record: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(run.events), purge_step=after + 1 if after else None) as events:

        def log(record: Mapping[str, Any]) -> None:
            for name, value in scalars(record):
                events.add_scalar(name, value, record["step"])

        yield log
