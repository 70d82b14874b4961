"""Which text tokens rate visual ones, in loops, for both versions of SparseVLM."""

from __future__ import annotations

import math

import torch

from tests.strategies.loops import dot

PLACE = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, -1, -1], [0, 0, -1, -1, -1]])
"""Where five text tokens of three prompts stand: behind the image (1), before it, padding."""


def raters_by_loops(
    visual: list[list[float]], text: list[list[float]], place: list[int]
) -> list[int]:
    asking = [s for s, at in enumerate(place) if at == 1] or [
        s for s, at in enumerate(place) if at == 0
    ]
    pointing = dict.fromkeys(asking, 0.0)
    for token in visual:
        logits = [dot(token, text[s]) for s in asking]
        powers = [math.exp(value - max(logits)) for value in logits]
        for s, power in zip(asking, powers, strict=True):
            pointing[s] += power / sum(powers) / len(visual)
    bar = sum(pointing.values()) / len(asking)
    return [s for s in asking if pointing[s] > bar + 1e-7] or asking[-1:]
