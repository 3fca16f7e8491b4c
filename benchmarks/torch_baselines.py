"""PyTorch's ways to a second-order meta-gradient, each in its best form.

- `loop`: functional network, `torch.autograd.grad(create_graph=True)`, one `backward` a
  task, gradients accumulated (learn2learn's way);
- `func-vmap`, `func-loop`: `torch.func.grad` of `torch.func.grad`, tasks vmapped or looped;
- `higher`: the `higher` library's patched modules, where it is installed;
- `compile`: `func-loop` of one task through `torch.compile`, where that can differentiate twice.

Each is tried in the default and in the channels-last layout of its images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.workloads import Arrays, Workload

Params = dict[str, torch.Tensor]
EPSILON = 1e-5


def in_torch_order(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The engine's parameters, kernels as [O, C, kh, kw] and head as [outputs, F]."""

    def one(value: np.ndarray) -> np.ndarray:
        order = (3, 2, 0, 1) if value.ndim == 4 else tuple(reversed(range(value.ndim)))
        return np.ascontiguousarray(value.transpose(order))

    return {name: one(value) for name, value in params.items()}


def to_torch(params: dict[str, np.ndarray], device: str) -> Params:
    """The same as tensors."""
    return {
        name: torch.tensor(value, device=device) for name, value in in_torch_order(params).items()
    }


Norm = Callable[[Params, str, torch.Tensor], torch.Tensor]


def fused_norm(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """Normalisation by the statistics of the set at hand."""
    scale, bias = params[f"{name}/scale"], params[f"{name}/bias"]
    return F.batch_norm(x, None, None, scale, bias, training=True, eps=EPSILON)


def plain_norm(params: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """The same from its parts, for `torch.func.vmap`, under which the second derivative of
    `F.batch_norm` came out wrong (torch 2.13, in float64 too)."""
    scale, bias = params[f"{name}/scale"], params[f"{name}/bias"]
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    factor = scale[:, None, None] * torch.rsqrt(var + EPSILON)
    return x * factor + (bias[:, None, None] - mean * factor)


def flat(x: torch.Tensor) -> torch.Tensor:
    """Features in the engine's order (channels last)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)


def conv4(params: Params, x: torch.Tensor, depth: int, norm: Norm) -> torch.Tensor:
    """`backbones/conv4.py` with norm "batch"."""
    for i in range(depth):
        x = F.conv2d(x, params[f"body/ConvNormPool_{i}/conv/kernel"], padding=1)
        x = F.relu(norm(params, f"body/ConvNormPool_{i}/norm", x))
        if min(x.shape[2:]) >= 2:
            x = F.max_pool2d(x, 2)
    return flat(x)


def resnet12(params: Params, x: torch.Tensor, depth: int, norm: Norm) -> torch.Tensor:
    """`backbones/resnet12.py` with norm "batch"."""
    for i in range(depth):
        block, y = f"body/Block_{i}", x
        for j in range(3):
            y = F.conv2d(y, params[f"{block}/Conv_{j}/kernel"], padding=1)
            y = norm(params, f"{block}/Norm_{j}", y)
            y = F.leaky_relu(y, 0.1) if j < 2 else y
        skip = F.conv2d(x, params[f"{block}/Conv_3/kernel"])
        x = F.leaky_relu(y + norm(params, f"{block}/Norm_3", skip), 0.1)
        if min(x.shape[2:]) >= 2:
            x = F.max_pool2d(x, 2)
    return x.mean((2, 3))


class Task:
    """A workload in PyTorch: its tensors, and the losses of one episode as functions."""

    def __init__(
        self, work: Workload, arrays: Arrays, params: dict[str, np.ndarray],
        channels_last: bool, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.work, self.device = work, device
        self.start = to_torch(params, device)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = {"conv4": conv4, "resnet12": resnet12}[work.network]
        self.norm: Norm = fused_norm
        self.hold(arrays)

    def hold(self, arrays: Arrays) -> None:
        """Take these episodes in place of those held."""

        def images(x: np.ndarray) -> list[torch.Tensor]:
            moved = torch.tensor(x, device=self.device).permute(0, 1, 4, 2, 3)
            return [episode.contiguous(memory_format=self.layout) for episode in moved]

        def labels(y: np.ndarray) -> torch.Tensor:
            return torch.tensor(np.ascontiguousarray(y), dtype=torch.long, device=self.device)

        self.support_x, self.query_x = images(arrays.support_x), images(arrays.query_x)
        self.support_y, self.query_y = labels(arrays.support_y), labels(arrays.query_y)

    def features(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        return self.network(params, x, len(self.work.widths), self.norm)

    def logits(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.features(params, x), params["head/kernel"], params["head/bias"])

    def loss(self, params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.logits(params, x), y)

    def proto_loss(self, params: Params, episode: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x_s, y_s, x_q, y_q = episode
        members = F.one_hot(y_s, self.work.ways).to(x_s.dtype)
        means = (members.T @ self.features(params, x_s)) / members.sum(0)[:, None]
        gaps = self.features(params, x_q)[:, None] - means[None]
        return F.cross_entropy(-(gaps**2).sum(-1), y_q)

    def episode(self, i: int) -> tuple[torch.Tensor, ...]:
        return self.support_x[i], self.support_y[i], self.query_x[i], self.query_y[i]


class Baseline:
    """One meta-step in PyTorch; a subclass says how a task's meta-gradient comes about."""

    def __init__(self, task: Task) -> None:
        self.task, self.work = task, task.work
        self.leaves = {n: p.clone().requires_grad_() for n, p in task.start.items()}

    def run(self, episodes: list[int]) -> float:
        """One meta-step on the named episodes; its mean query loss."""
        loss, grads = self.meta_gradient(episodes)
        with torch.no_grad():
            for leaf, grad in zip(self.leaves.values(), grads, strict=True):
                leaf -= self.work.outer_lr * grad
        return loss

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters as they are now."""
        return {name: leaf.detach().cpu().numpy() for name, leaf in self.leaves.items()}

    def meta_gradient(self, episodes: list[int]) -> tuple[float, list[torch.Tensor]]:
        raise NotImplementedError


class Loop(Baseline):
    """`create_graph`, one backward a task."""

    def task_loss(self, episode: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x_s, y_s, x_q, y_q = episode
        if self.work.method == "protonet":
            return self.task.proto_loss(self.leaves, episode)
        params = self.adapted(x_s, y_s, second=self.work.method == "second")
        return self.task.loss(params, x_q, y_q)

    def adapted(self, x: torch.Tensor, y: torch.Tensor, *, second: bool) -> Params:
        """The parameters after the inner steps on a support set."""
        params: Params = dict(self.leaves)
        for _ in range(self.work.steps):
            loss = self.task.loss(params, x, y)
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=second)
            params = {
                name: p - self.work.inner_lr * g
                for (name, p), g in zip(params.items(), grads, strict=True)
            }
        return params

    def meta_gradient(self, episodes: list[int]) -> tuple[float, list[torch.Tensor]]:
        for leaf in self.leaves.values():
            leaf.grad = None
        total = 0.0
        for i in episodes:
            loss = self.task_loss(self.task.episode(i)) / len(episodes)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total, [leaf.grad for leaf in self.leaves.values()]  # type: ignore[misc]


class Func(Baseline):
    """`torch.func`: a pure function of the parameters, differentiated twice."""

    def task_loss(self, params: Params, *episode: torch.Tensor) -> torch.Tensor:
        x_s, y_s, x_q, y_q = episode
        if self.work.method == "protonet":
            return self.task.proto_loss(params, episode)
        start = params
        for _ in range(self.work.steps):
            grads = torch.func.grad(self.task.loss)(params, x_s, y_s)
            if self.work.method == "first":
                grads = {name: g.detach() for name, g in grads.items()}
            params = {n: params[n] - self.work.inner_lr * grads[n] for n in start}
        return self.task.loss(params, x_q, y_q)

    def grad_function(self) -> Callable[..., Any]:
        return torch.func.grad_and_value(self.task_loss)

    def meta_gradient(self, episodes: list[int]) -> tuple[float, list[torch.Tensor]]:
        held = {name: leaf.detach() for name, leaf in self.leaves.items()}
        function = self.grad_function()
        total, sums = 0.0, {name: torch.zeros_like(p) for name, p in held.items()}
        for i in episodes:
            grads, loss = function(held, *self.task.episode(i))
            total += float(loss) / len(episodes)
            for name, grad in grads.items():
                sums[name] += grad / len(episodes)
        return total, list(sums.values())


class FuncVmap(Func):
    """The same with all tasks side by side."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        task.norm = plain_norm

    def meta_gradient(self, episodes: list[int]) -> tuple[float, list[torch.Tensor]]:
        held = {name: leaf.detach() for name, leaf in self.leaves.items()}
        batch = [
            torch.stack(parts) for parts in zip(*map(self.task.episode, episodes), strict=True)
        ]

        def mean_loss(params: Params) -> torch.Tensor:
            losses = torch.func.vmap(self.task_loss, (None, 0, 0, 0, 0))(params, *batch)
            return losses.mean()

        grads, loss = torch.func.grad_and_value(mean_loss)(held)
        return float(loss), [grads[name] for name in held]


class Compiled(Func):
    """One task's `torch.func` meta-gradient through `torch.compile`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.compiled = torch.compile(super().grad_function())

    def grad_function(self) -> Callable[..., Any]:
        return self.compiled  # type: ignore[no-any-return]


class Network(torch.nn.Module):
    """A task's network with its loss as `forward`, as module-based libraries want it."""

    def __init__(self, task: Task, leaves: Params) -> None:
        super().__init__()
        self.task, self.names = task, list(leaves)
        for name, leaf in leaves.items():
            self.register_parameter(name.replace("/", "_"), torch.nn.Parameter(leaf))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        held = {name: getattr(self, name.replace("/", "_")) for name in self.names}
        return self.task.loss(held, x, y)


class Higher(Loop):
    """The `higher` library: a patched module and a differentiable optimiser."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.module = Network(task, task.start)
        self.leaves = dict(zip(task.start, self.module.parameters(), strict=True))
        self.optimiser = torch.optim.SGD(self.module.parameters(), lr=task.work.inner_lr)

    def task_loss(self, episode: tuple[torch.Tensor, ...]) -> torch.Tensor:
        import higher

        if self.work.method == "protonet":
            raise NotImplementedError("higher is for inner loops, and ProtoNet has none")
        second = self.work.method == "second"
        x_s, y_s, x_q, y_q = episode
        with higher.innerloop_ctx(
            self.module, self.optimiser, copy_initial_weights=False, track_higher_grads=second
        ) as (patched, descent):
            for _ in range(self.work.steps):
                descent.step(patched(x_s, y_s))
            loss: torch.Tensor = patched(x_q, y_q)
            if not second:  # the adapted parameters are cut off from the module's
                grads = torch.autograd.grad(loss, list(patched.parameters()))
                pairs = zip(self.leaves.values(), grads, strict=True)
                loss = loss.detach() + sum((g * (p - p.detach())).sum() for p, g in pairs)
            return loss


BASELINES: dict[str, type[Baseline]] = {
    "torch loop": Loop,
    "torch.func loop": Func,
    "torch.func vmap": FuncVmap,
    "higher": Higher,
    "torch.compile": Compiled,
}
