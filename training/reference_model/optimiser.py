"""Muon for the hidden matrices, AdamW for the rest, one schedule for both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Push the singular values of `[N, R, C]` matrices towards one (Newton-Schulz, bfloat16)."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.float().square().sum((1, 2), keepdim=True).sqrt() + 1e-7).bfloat16()
    for _ in range(rounds):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = a * x + torch.bmm(b * gram + c * torch.bmm(gram, gram), x)
    x = x.transpose(1, 2) if tall else x
    return x.float()


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised, matrices of one shape in one batch."""

    def __init__(self, groups: Iterable[dict[str, object]]) -> None:
        super().__init__(list(groups), {"lr": 1e-3, "momentum": 0.95, "weight_decay": 0.01})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, same in by_shape.items():
                self._update(same, shape, group)

    def _update(self, same: list[nn.Parameter], shape: torch.Size, group: dict[str, float]) -> None:
        ahead: list[Tensor] = []
        for parameter in same:
            grad = parameter.grad
            assert grad is not None
            slow = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            slow.lerp_(grad, 1 - group["momentum"])
            ahead.append(torch.lerp(grad, slow, group["momentum"]))
        moves = orthogonalise(torch.stack(ahead))
        # the factor gives the update the typical size of an AdamW update
        rate = group["lr"] * 0.2 * math.sqrt(max(shape))
        for parameter, move in zip(same, moves, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move, alpha=rate)


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: Muon's and AdamW's."""

    muon: float
    adamw: float


class Optimisers:
    """Both optimisers under one warm-up and cosine schedule."""

    def __init__(
        self, parts: Sequence[tuple[Iterable[tuple[str, nn.Parameter]], Rates]], steps: int
    ) -> None:
        muon: list[dict[str, object]] = []
        adamw: list[dict[str, object]] = []
        for named, rates in parts:
            pairs = list(named)
            hidden = [p for name, p in pairs if is_hidden_matrix(name, p)]
            rest = [p for name, p in pairs if not is_hidden_matrix(name, p)]
            if hidden:
                muon.append({"params": hidden, "lr": rates.muon, "peak": rates.muon})
            adamw.append({"params": rest, "lr": rates.adamw, "peak": rates.adamw})
        self.steps = steps
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(adamw, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        ]
        if muon:
            self.all.append(Muon(muon))

    def step(self, step: int) -> None:
        """Clip, set the rate for this step, update, and clear the gradients."""
        factor = schedule(step, self.steps)
        parameters = [
            p for optimiser in self.all for group in optimiser.param_groups for p in group["params"]
        ]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in self.all:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor
            optimiser.step()
            optimiser.zero_grad()


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter: matrices inside blocks and projector."""
    return parameter.dim() == 2 and ("layers." in name or "projector" in name)


def schedule(step: int, steps: int, warm: float = 0.04, floor: float = 0.03) -> float:
    """Linear warm-up, then a cosine down to `floor`."""
    begin = max(1, round(warm * steps))
    if step < begin:
        return (step + 1) / begin
    progress = (step - begin) / max(1, steps - begin)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
