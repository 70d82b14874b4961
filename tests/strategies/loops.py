"""Layers as loops over lists of floats, for the oracles of the learned strategies."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

Vector = list[float]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def add(a: Sequence[float], b: Sequence[float]) -> Vector:
    return [x + y for x, y in zip(a, b, strict=True)]


def mean(vectors: Sequence[Sequence[float]]) -> Vector:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def linear(layer: nn.Linear, x: Sequence[float]) -> Vector:
    weight = layer.weight.tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [dot(row, x) + b for row, b in zip(weight, bias, strict=True)]


def norm(layer: nn.LayerNorm, x: Sequence[float]) -> Vector:
    middle = sum(x) / len(x)
    spread = math.sqrt(sum((v - middle) ** 2 for v in x) / len(x) + layer.eps)
    gain, shift = layer.weight.tolist(), layer.bias.tolist()
    return [(v - middle) / spread * g + b for v, g, b in zip(x, gain, shift, strict=True)]


def gelu(x: Sequence[float]) -> Vector:
    return [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]


def chain(layers: nn.Sequential, x: Sequence[float]) -> Vector:
    """A stack of linear layers, GELUs and layer norms."""
    made = list(x)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            made = linear(layer, made)
        elif isinstance(layer, nn.LayerNorm):
            made = norm(layer, made)
        else:
            assert isinstance(layer, nn.GELU)
            assert layer.approximate == "none"
            made = gelu(made)
    return made


def attend(
    query: Vector,
    keys: list[Vector],
    values: list[Vector],
    heads: int,
    sizes: Sequence[float] | None = None,
) -> Vector:
    """One query over keys and values, head by head; the logarithm of sizes joins the logits."""
    side = len(query) // heads
    bias = [0.0] * len(keys) if sizes is None else [math.log(size) for size in sizes]
    made: Vector = []
    for head in range(heads):
        part = slice(head * side, (head + 1) * side)
        logits = [dot(query[part], key[part]) / math.sqrt(side) for key in keys]
        weight = [math.exp(logit + more) for logit, more in zip(logits, bias, strict=True)]
        total = sum(weight)
        for d in range(head * side, (head + 1) * side):
            made.append(sum(w * v[d] for w, v in zip(weight, values, strict=True)) / total)
    return made


def stir(module: nn.Module, scale: float = 0.3) -> None:
    """Make every parameter generic, biases and norms too; from the global generator."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
