"""What is timed: five workloads, their episodes and weights, and this engine's step on them.

Episodes are noise, since the arithmetic does not depend on what pixels show. Weights are
made by the engine's own `init` and handed to every baseline as NumPy arrays.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import time
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medmeta_jax import parallel
from medmeta_jax.algorithms.maml import maml
from medmeta_jax.algorithms.protonet import protonet
from medmeta_jax.backbones.conv4 import conv4
from medmeta_jax.backbones.resnet12 import resnet12
from medmeta_jax.losses import accuracy
from medmeta_jax.train import TrainState, init_state, make_step
from medmeta_jax.types import Backbone, Episode, Examples, MetaLearner
from medmeta_jax.weights import named

Method = Literal["second", "first", "protonet"]


@dataclasses.dataclass(frozen=True)
class Workload:
    """One shape of meta-training; `naive` says whether the naive form is timed beside it."""

    about: str
    method: Method
    network: Literal["conv4", "resnet12"]
    widths: tuple[int, ...]
    size: int
    channels: int
    shots: int
    meta_batch: int
    steps: int = 5
    ways: int = 5
    queries: int = 15
    inner_lr: float = 0.1
    outer_lr: float = 0.01
    naive: bool = False


ORDERS = {"second": "mixed", "first": "first"}
WORKLOADS = {
    "A": Workload(
        "Conv4-64, 28² x 1, 5-way 1-shot",
        "second", "conv4", (64,) * 4, 28, 1, 1, 32, naive=True,
    ),
    "B": Workload("Conv4-32, 84² x 3, 5-way 5-shot", "second", "conv4", (32,) * 4, 84, 3, 5, 4),
    "C": Workload("A, first order", "first", "conv4", (64,) * 4, 28, 1, 1, 32),
    "D": Workload("A by ProtoNet", "protonet", "conv4", (64,) * 4, 28, 1, 1, 32, steps=0),
    "E": Workload(
        "ResNet-12 (16 to 64), 42² x 3, 5-way 1-shot",
        "second", "resnet12", (16, 24, 40, 64), 42, 3, 1, 4,
    ),
}  # fmt: skip


def chosen(parser: argparse.ArgumentParser, text: str) -> list[str]:
    """The workloads that `--workloads` names; a usage error where there is none of a name."""
    names = text.split(",")
    for name in names:
        if name not in WORKLOADS:
            parser.error(f"--workloads: no {name!r}; there are {', '.join(WORKLOADS)}")
    return names


class Arrays(NamedTuple):
    """The episodes of a workload: support_x [E, s, H, W, C], support_y [E, s], query alike."""

    support_x: Any
    support_y: Any
    query_x: Any
    query_y: Any


def make_arrays(work: Workload, dtype: str = "float32") -> Arrays:
    """One meta-batch of episodes, whose classes differ in their mean image."""
    rng = np.random.default_rng(0)
    image = (work.size, work.size, work.channels)
    means = rng.normal(size=(work.meta_batch, work.ways, *image))

    def side(per_class: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(work.ways), per_class)
        x = means[:, y] + rng.normal(size=(work.meta_batch, len(y), *image))
        return x.astype(dtype), np.broadcast_to(y, (work.meta_batch, len(y))).astype(np.int32)

    return Arrays(*side(work.shots), *side(work.queries))


def make_backbone(work: Workload, form: str) -> Backbone:
    """The network, with the statistics of the set at hand (MAML's own habit, and torch's)."""
    if work.network == "resnet12":
        return resnet12(widths=work.widths, norm="batch", form=form)
    return conv4(widths=work.widths, norm="batch", form=form)


def make_learner(work: Workload, *, form: str = "auto", **inner: Any) -> MetaLearner:
    """The engine's learner of a workload; `inner` as `maml` takes it."""
    backbone = make_backbone(work, form)
    if work.method == "protonet":
        return protonet(backbone, outputs=work.ways)
    options: dict[str, Any] = {"order": ORDERS[work.method], "steps": work.steps, **inner}
    return maml(backbone, outputs=work.ways, inner_lr=work.inner_lr, **options)


def take_episode(key: jax.Array, arrays: Arrays, *, ways: int) -> Episode:
    """One of the list's episodes at random: the sampler of the timed step."""
    index = jax.random.randint(key, (), 0, arrays.support_y.shape[0])
    x_s, y_s, x_q, y_q = (part[index] for part in arrays)
    return Episode(
        Examples(x_s, y_s, jnp.ones(y_s.shape, bool)),
        Examples(x_q, y_q, jnp.ones(y_q.shape, bool)),
        jnp.arange(ways),
    )


def drawn(state: TrainState, work: Workload) -> list[int]:
    """Which episodes the next step will take, so that a baseline can take the same.

    Mirrors the keys of `train.make_step`; were they to differ, the losses would.
    """

    def index(key: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.split(key)[0], (), 0, work.meta_batch)

    keys = jax.random.split(jax.random.fold_in(state.key, state.step), work.meta_batch)
    return [int(i) for i in jax.vmap(index)(keys)]


class Engine:
    """This engine's compiled meta-step on a workload, through the path that `train` uses."""

    def __init__(
        self,
        work: Workload,
        arrays: Arrays,
        *,
        chunk: int | None = None,
        mesh: Any = None,
        compiler_options: dict[str, Any] | None = None,
        **inner: Any,
    ) -> None:
        self.work = work
        if mesh is None:
            count = parallel.largest_share(work.meta_batch, jax.device_count())
            mesh = parallel.task_mesh(jax.devices()[:count])
        self.devices = mesh.size
        share = work.meta_batch // mesh.size
        learner = make_learner(work, **inner)
        optimiser = optax.sgd(work.outer_lr)
        self.pool = jax.tree.map(jnp.asarray, arrays)
        state = init_state(learner, optimiser, jax.random.key(0), self.pool.support_x[0])
        # The parameters' precision is that of the arrays.
        self.state = state._replace(
            params=jax.tree.map(lambda p: p.astype(arrays.support_x.dtype), state.params)
        )
        step = make_step(
            learner, functools.partial(take_episode, ways=work.ways), optimiser, accuracy,
            meta_batch=work.meta_batch, chunk=chunk or parallel.default_chunk(share), mesh=mesh,
        )  # fmt: skip
        self.one = jnp.asarray(1, jnp.int32)
        self.state, self.pool, self.one = parallel.replicate(
            (self.state, self.pool, self.one), mesh
        )
        began = time.perf_counter()
        lowered = step.lower(self.state, self.pool, self.one)
        self.step = lowered.compile(compiler_options=compiler_options)
        self.compile_s = time.perf_counter() - began

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters by path, "body/ConvNormPool_0/conv/kernel" and so on; copied, since
        the state is donated."""
        return named(self.state.params)

    def next_episodes(self) -> list[int]:
        """The list indices that the next `run` takes."""
        return drawn(self.state, self.work)

    def run(self, episodes: list[int] | None = None) -> float:
        """One meta-step; its mean query loss. The engine draws its own episodes."""
        del episodes
        self.state, metrics = self.step(self.state, self.pool, self.one)
        return float(np.asarray(metrics.loss)[0])

    def rate(self) -> float:
        """Episodes a second of one meta-step."""
        began = time.perf_counter()
        self.run()
        return self.work.meta_batch / (time.perf_counter() - began)


def forward_mflop(work: Workload) -> float:
    """Multiplications and additions of the convolutions, for one image."""
    backbone = make_backbone(work, "lax")
    x, mask = jnp.zeros((1, work.size, work.size, work.channels)), jnp.ones(1, bool)
    params = jax.eval_shape(backbone.init, jax.random.key(0), x)
    program = jax.make_jaxpr(backbone.apply)(params, x, mask)
    total = 0
    for eqn in program.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(kernel[:3])
    return total / 1e6


def gflop(work: Workload) -> float:
    """GFLOP of an episode: a gradient is three forward passes, its derivative three more each."""
    support, query = work.ways * work.shots, work.ways * work.queries
    passes = {"second": 9, "first": 3, "protonet": 0}[work.method] * work.steps * support
    passes += 3 * query + (3 * support if work.method == "protonet" else 0)
    return passes * forward_mflop(work) / 1e3
