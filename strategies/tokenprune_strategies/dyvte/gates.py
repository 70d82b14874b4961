"""The gates of DyVTE and what they read: the state of the text behind the image.

Source: DyVTE (arXiv 2411.19628) and the structure of its released code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class TextState(NamedTuple):
    """What a gate reads of one layer's output.

    Attributes:
        mean: mean of the text tokens behind the image without the last one, `[B, D]` float32.
        last: the last prompt token, `[B, D]` float32.
        present: `[B]` bool, whether there is any text behind the image.
    """

    mean: Tensor
    last: Tensor
    present: Tensor


def text_state(states: Tensor, place: Tensor) -> TextState:
    """Read the text behind the last visual token.

    Args:
        states: text tokens in order, right-padded, `[B, S, D]`; S may be 0.
        place: `[B, S]` int64, 1 behind the last visual token; others and padding don't count.

    Returns:
        Mean and last token; the last one twice where there is only one.
    """
    behind = place == 1
    count = behind.sum(dim=1, keepdim=True)
    last = behind & (behind.cumsum(dim=1) == count)
    states = states.float()
    final = _sum(states, last)
    mean = _sum(states, behind & ~last) / (count - 1).clamp(min=1)
    return TextState(torch.where(count < 2, final, mean), final, count[:, 0] > 0)


def _sum(states: Tensor, picked: Tensor) -> Tensor:
    # No product with the mask, because padding may hold anything and 0 * NaN is NaN.
    return torch.where(picked[..., None], states, torch.zeros_like(states)).sum(dim=1)


class ExitGates(nn.Module):
    """One gate for every layer but the last: two logits, stay and exit.

    Args:
        dim: width D of the LLM.
        gates: their number.
        width: width inside a gate.
    """

    def __init__(self, dim: int, gates: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * dim, width, bias=False), nn.GELU(), nn.Linear(width, 2, bias=False)
            )
            for _ in range(gates)
        )
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter)

    def forward(self, layer: int, state: TextState) -> Tensor:
        """Logits (stay, exit) `[B, 2]` of the gate behind LLM layer `layer`, from 0."""
        made: Tensor = self.gates[layer](torch.cat((state.mean, state.last), dim=-1))
        return made
