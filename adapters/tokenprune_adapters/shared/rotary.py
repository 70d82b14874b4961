"""Rotary position embedding by halves, as Llama and DINOv3 rotate."""

from __future__ import annotations

import torch
from torch import Tensor


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `[..., T, d]` by cosines and sines that broadcast to it (RoFormer, eq. 34)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin
