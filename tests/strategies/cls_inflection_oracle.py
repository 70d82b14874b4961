"""The bends of `cls_inflection` as loops over sorted values, and what its tests look at."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from tokenprune_strategies.cls_inflection import ClsInflection
from torch import Tensor

from tests.strategies.cases import SITES, make_tokens
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

WINDOW = 5
SIGNALS = {
    "attention": Signal.CLS_ATTENTION,
    "cosine": Signal.CLS_SIMILARITY,
    "received": Signal.ATTENTION_RECEIVED,
}


def smoothed(y: list[float]) -> list[float]:
    half = WINDOW // 2
    parts = [y[max(0, i - half) : i + half + 1] for i in range(len(y))]
    return [sum(part) / len(part) for part in parts]


def best(values: list[float], first: int = 1) -> int:
    """1-based place of the first maximum."""
    return first + max(range(len(values)), key=lambda i: (values[i], -i))


def chord(y: list[float]) -> int:
    y, n = smoothed(y), len(y)
    return best([1 - i / (n - 1) - (y[i] - y[-1]) / (y[0] - y[-1]) for i in range(n)])


def mass(y: list[float]) -> int:
    return best([sum(y[: i + 1]) / sum(y) - (i + 1) / len(y) for i in range(len(y))])


def max_drop(y: list[float], least: int) -> int:
    y = smoothed(y)
    return best([y[i] - y[i + 1] for i in range(least - 1, len(y) - 1)], least)


def otsu(y: list[float]) -> int:
    def between(k: int) -> float:
        first, second = y[:k], y[k:]
        gap = statistics.fmean(first) - statistics.fmean(second)
        return len(first) * len(second) * gap * gap

    return best([between(k) for k in range(1, len(y))])


def iqr(y: list[float]) -> int:
    lower, _, upper = statistics.quantiles(y, n=4, method="inclusive")
    return sum(value > upper + 1.5 * (upper - lower) for value in y)


def lof(y: list[float]) -> int:
    k = min(20, len(y) - 1)
    near = [
        sorted((j for j in range(len(y)) if j != i), key=lambda j: (abs(y[i] - y[j]), j))[:k]
        for i in range(len(y))
    ]
    reach = [abs(y[i] - y[near[i][-1]]) for i in range(len(y))]
    density = []
    for i in range(len(y)):
        total = sum(max(reach[j], abs(y[i] - y[j])) for j in near[i])
        density.append(1 / (total / k + 1e-10))
    factor = [sum(density[j] for j in near[i]) / k / density[i] for i in range(len(y))]
    middle = statistics.median_low(y)
    return sum(f > 1.5 and value > middle for f, value in zip(factor, y, strict=True))


def oracle(y: list[float], knee: str, least: int) -> int:
    if knee == "max_drop":
        return max_drop(y, least)
    return {"chord": chord, "mass": mass, "otsu": otsu, "iqr": iqr, "lof": lof}[knee](y)


def long_tail(count: int, seed: int) -> Tensor:
    """Values of an exponential, with some large ones in front."""
    torch.manual_seed(seed)
    tail = torch.empty(count, dtype=torch.float64).exponential_()
    tail[: count // 12] += 5 + 5 * torch.rand(count // 12, dtype=torch.float64)
    return tail


def image(score: Tensor, similarity: str = "attention", **more: Any) -> Tokens:
    signals = {SIGNALS[similarity]: score}
    hidden = torch.randn(*score.shape, 3)
    return make_tokens(hidden, site=SITES["pre_llm"], signals=signals, **more)


def free(tokens: Tokens) -> Budget:
    return Budget(tokens.count, tokens.count, given=False)


def kept(tokens: Tokens, budget: Budget | None = None, **params: Any) -> list[list[int]]:
    mask = ClsInflection.from_params(**params).reduce(tokens, budget or free(tokens)).mask
    assert mask is not None
    return [row.nonzero()[:, 0].tolist() for row in mask]
