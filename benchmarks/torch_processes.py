"""PyTorch's loop with a process a core, one thread each: what data parallelism gives it.

Each process takes its share of the episodes; the parent averages their meta-gradients and
hands the parameters round, as `DistributedDataParallel` would, through pipes.
"""

from __future__ import annotations

import multiprocessing
import weakref
from typing import Any

import numpy as np
import torch

from benchmarks.torch_baselines import Loop, Task
from benchmarks.workloads import Arrays, Workload


def serve(pipe: Any, work: Workload, arrays: Arrays, start: Any, channels_last: bool) -> None:
    """A child: meta-gradients of the episodes that it is sent, until it is sent none."""
    torch.set_num_threads(1)
    loop = Loop(Task(work, arrays, start, channels_last))
    pipe.send(loop.meta_gradient([0])[0])  # warm, and there
    while (message := pipe.recv()) is not None:
        episodes, values = message
        with torch.no_grad():
            for leaf, value in zip(loop.leaves.values(), values, strict=True):
                leaf.copy_(torch.from_numpy(value))
        loss, grads = loop.meta_gradient(episodes)
        pipe.send((loss, [grad.numpy() for grad in grads]))


def end(pipes: list[Any], children: list[Any]) -> None:
    """Let the children go."""
    for pipe in pipes:
        pipe.send(None)
    for child in children:
        child.join()


class Processes:
    """One meta-step, its episodes dealt out to `count` processes."""

    def __init__(
        self, work: Workload, arrays: Arrays, start: Any, channels_last: bool, *, count: int
    ) -> None:
        self.work = work
        first = Task(work, arrays, start, channels_last).start
        self.names, self.values = list(first), [p.numpy() for p in first.values()]
        context = multiprocessing.get_context("spawn")
        self.pipes, children = [], []
        for _ in range(count):
            ours, theirs = context.Pipe()
            child = context.Process(
                target=serve, args=(theirs, work, arrays, start, channels_last), daemon=True
            )
            child.start()
            self.pipes.append(ours)
            children.append(child)
        for pipe in self.pipes:
            pipe.recv()
        weakref.finalize(self, end, self.pipes, children)

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters as they are now."""
        return dict(zip(self.names, self.values, strict=True))

    def run(self, episodes: list[int]) -> float:
        """One meta-step on the named episodes; its mean query loss."""
        shares = [episodes[i :: len(self.pipes)] for i in range(len(self.pipes))]
        busy = [(pipe, share) for pipe, share in zip(self.pipes, shares, strict=True) if share]
        for pipe, share in busy:
            pipe.send((share, self.values))
        total, sums = 0.0, [np.zeros_like(value) for value in self.values]
        for pipe, share in busy:
            loss, grads = pipe.recv()
            weight = len(share) / len(episodes)
            total += weight * loss
            sums = [s + weight * grad for s, grad in zip(sums, grads, strict=True)]
        rate = self.work.outer_lr
        self.values = [v - rate * s for v, s in zip(self.values, sums, strict=True)]
        return total
