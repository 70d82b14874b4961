"""Signals of the LLM as loops, one sample at a time, from the plain model's own parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.mllm import oracle


@dataclass
class Inputs:
    """What enters the layers of one sample.

    Attributes:
        hidden: by layer, `[T, D]`.
        place: by layer, `[T]` places in the unpruned prompt.
    """

    hidden: list[Tensor]
    place: list[Tensor]


def inputs(
    model: Any,
    one: oracle.Sample,
    edits: dict[int, oracle.Edit],
    words: dict[int, Sequence[int]],
) -> Inputs:
    """Inputs of all layers; cuts at a layer are made before it."""
    found = Inputs([], [])

    def note(module: Any, args: tuple[Tensor, ...]) -> None:
        found.hidden.append(args[0][0])

    layers = model.model.language_model.layers
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            oracle.run(model, one, edits, words=words)
            for number in range(len(layers)):
                done = {at: edit for at, edit in edits.items() if at <= number}
                gone = {at: places for at, places in words.items() if at <= number}
                found.place.append(oracle.run(model, one, done, words=gone)[1])
    finally:
        for hook in hooks:
            hook.remove()
    del found.hidden[len(layers) :]
    return found


@torch.no_grad()
def query_key(
    model: Any, number: int, hidden: Tensor, place: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Query and key `[T, H, d]` of a layer on its input, without rotation if `place` is None."""
    layer = model.model.language_model.layers[number]
    part, normed = layer.self_attn, layer.input_layernorm(hidden[None])
    width = part.head_dim

    def heads(states: Tensor) -> Tensor:
        split = states[0].view(hidden.shape[0], -1, width)
        if place is None:
            return split
        cos, sin = model.model.language_model.rotary_emb(hidden[None], position_ids=place[None])
        turned = torch.empty_like(split)
        for t in range(split.shape[0]):
            for d in range(width):
                other = d + width // 2 if d < width // 2 else d - width // 2
                sign = -1 if d < width // 2 else 1
                turned[t, :, d] = (
                    split[t, :, d] * cos[0, t, d] + sign * split[t, :, other] * sin[0, t, d]
                )
        return turned

    return heads(part.q_proj(normed)), heads(part.k_proj(normed))


def attention(model: Any, number: int, hidden: Tensor, place: Tensor | None) -> Tensor:
    """Softmax weights `[H, T, T]` of a layer on its input, without rotation if `place` is None."""
    query, key = query_key(model, number, hidden, place)
    count, heads, width = query.shape
    group = heads // key.shape[1]
    queries, keys = query.tolist(), key.tolist()
    weights = torch.zeros(heads, count, count)
    for head in range(heads):
        for t in range(count):
            logits = [
                sum(a * b for a, b in zip(queries[t][head], keys[s][head // group], strict=True))
                for s in range(t + 1)
            ]
            most = max(logits)
            powers = [math.exp((value - most) / math.sqrt(width)) for value in logits]
            total = sum(powers)
            weights[head, t, : t + 1] = torch.tensor([power / total for power in powers])
    return weights


def most(weights: Tensor, queries: list[int]) -> list[float]:
    """Largest weight that every token gets from any head and query."""
    count = weights.shape[1]
    return [max(float(weights[:, q, j].max()) for q in queries) for j in range(count)]


def mean(weights: Tensor, queries: list[int]) -> list[float]:
    """Mean weight over heads and over the queries that may see the token; 0 without any."""
    found = []
    for j in range(weights.shape[1]):
        able = [float(weights[:, q, j].mean()) for q in queries if q >= j]
        found.append(sum(able) / len(able) if able else 0.0)
    return found


def spread(weights: Tensor) -> list[float]:
    """Mean weight over heads and all queries; those in front of a token give it none."""
    heads, count, _ = weights.shape
    rows = weights.tolist()
    return [
        sum(rows[h][q][j] for h in range(heads) for q in range(count)) / (heads * count)
        for j in range(count)
    ]


def last(weights: Tensor) -> list[float]:
    """Head mean of the last token's row."""
    return weights[:, -1].mean(0).tolist()


def last_among(weights: Tensor, columns: list[int]) -> list[float]:
    """Head mean of the last token's row, of each head over some columns alone."""
    found = [0.0] * weights.shape[1]
    for head in weights[:, -1]:
        total = sum(float(head[j]) for j in columns)
        for j in columns:
            found[j] += float(head[j]) / total / len(weights)
    return found
