"""Adapting and telling in PyTorch: the same arithmetic as `medmeta_jax/deploy`, from the same
weights, for the table of `latency.py`.

A Conv4 whose norm takes its statistics from the support set; images come as uint8 arrays and leave
as probabilities. What is not repeated here is the engine's distance from the support.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.torch_baselines import EPSILON, Params, flat, to_torch

Stats = list[tuple[torch.Tensor, torch.Tensor]]


class Deployed:
    """A learner with its weights.

    learner: "protonet", "r2d2", "anil", "maml" or "finetune", as the engine's files of that name.
    """

    def __init__(
        self, learner: str, params: dict[str, np.ndarray], scaling: Any, *, ways: int, depth: int,
        steps: int, inner_lr: float, channels_last: bool,
    ) -> None:  # fmt: skip
        self.learner, self.ways, self.depth = learner, ways, depth
        self.steps, self.inner_lr = steps, inner_lr
        self.shift, self.scale = (torch.tensor(np.asarray(part)) for part in scaling)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.start = to_torch(params, "cpu")
        if learner == "finetune":
            for name in ("head/kernel", "head/bias"):
                self.start[name] = torch.zeros_like(self.start[name])

    def images(self, x: np.ndarray) -> torch.Tensor:
        """uint8 [n, H, W, C] as the network takes them."""
        scaled = (torch.tensor(x).float() / 255.0 - self.shift) * self.scale
        return scaled.permute(0, 3, 1, 2).contiguous(memory_format=self.layout)

    def features(
        self, params: Params, x: torch.Tensor, given: Stats | None
    ) -> tuple[torch.Tensor, Stats]:
        """Conv4's features, by the statistics given, or by those of x, which are returned."""
        used: Stats = []
        for i in range(self.depth):
            block = f"body/ConvNormPool_{i}"
            x = F.conv2d(x, params[f"{block}/conv/kernel"], padding=1)
            if given is None:
                var, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
                fixed = None, None
            else:
                mean, var = fixed = given[i]
            used.append((mean, var))
            scale, bias = params[f"{block}/norm/scale"], params[f"{block}/norm/bias"]
            x = F.batch_norm(x, *fixed, scale, bias, training=given is None, eps=EPSILON)
            x = F.relu(x)
            x = F.max_pool2d(x, 2) if min(x.shape[2:]) >= 2 else x
        return flat(x), used

    def adapt(self, images: np.ndarray, labels: np.ndarray) -> Any:
        """What telling takes: parameters, a head, statistics."""
        x, y = self.images(images), torch.tensor(labels, dtype=torch.long)
        if self.learner in ("protonet", "r2d2"):
            with torch.inference_mode():
                seen, stats = self.features(self.start, x, None)
                one_hot = F.one_hot(y, self.ways).float()
                if self.learner == "protonet":
                    return self.start, one_hot.T @ seen / one_hot.sum(0)[:, None], stats
                strength = self.start["ridge/log_strength"].exp()
                gram = seen @ seen.T + strength * torch.eye(len(seen))
                return self.start, seen.T @ torch.linalg.solve(gram, one_hot), stats
        if self.learner == "anil":
            with torch.inference_mode():
                seen, stats = self.features(self.start, x, None)
            return self.start, self.head_moved(seen.clone(), y), stats
        return self.all_moved(x, y)

    def head_moved(self, seen: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The head after its steps on fixed features."""
        head = self.start["head/kernel"], self.start["head/bias"]
        for _ in range(self.steps):
            head = tuple(part.detach().requires_grad_() for part in head)
            loss = F.cross_entropy(F.linear(seen, *head), y)
            grads = torch.autograd.grad(loss, head)
            head = tuple(p - self.inner_lr * g for p, g in zip(head, grads, strict=True))
        return tuple(part.detach() for part in head)

    def all_moved(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        """All parameters after their steps, and the statistics of the network they make."""
        names = [name for name in self.start if name.startswith(("body/", "head/"))]
        params = {name: self.start[name] for name in names}
        for _ in range(self.steps):
            params = {name: p.detach().requires_grad_() for name, p in params.items()}
            seen, _ = self.features(params, x, None)
            loss = F.cross_entropy(F.linear(seen, params["head/kernel"], params["head/bias"]), y)
            grads = torch.autograd.grad(loss, list(params.values()))
            pairs = zip(params.items(), grads, strict=True)
            params = {name: p - self.inner_lr * g for (name, p), g in pairs}
        params = {name: p.detach() for name, p in params.items()}
        with torch.inference_mode():
            _, stats = self.features(params, x, None)
        return params, (params["head/kernel"], params["head/bias"]), stats

    def predict(self, task: Any, images: np.ndarray) -> np.ndarray:
        """Probabilities [n, ways]."""
        params, head, stats = task
        with torch.inference_mode():
            asked, _ = self.features(params, self.images(images), stats)
            if self.learner == "protonet":
                logits = -((asked[:, None] - head[None]) ** 2).sum(-1)
            elif self.learner == "r2d2":
                logits = self.start["ridge/log_scale"].exp() * (asked @ head)
                logits = logits + self.start["ridge/bias"]
            else:
                logits = F.linear(asked, *head)
            return logits.softmax(-1).numpy()
