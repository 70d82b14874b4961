"""A model of a newcomer's own: a plain pre-norm vision transformer with a class token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class MyBlock(nn.Module):
    """A block whose projections have names of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.norm1(hidden)
        shape = (*normed.shape[:2], self.num_heads, -1)
        query, key, value = (
            part(normed).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        attended = scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.norm2(hidden))


class MyVit(nn.Module):
    """Pixels `[B, 3, 24, 24]` -> states `[B, 1 + 9, 16]`: class token, then 3 x 3 patches."""

    image_size, patch_size, width = 24, 8, 16

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, self.width, self.patch_size, self.patch_size)
        self.first = nn.Parameter(torch.randn(1, 1, self.width))
        self.blocks = nn.ModuleList(MyBlock(self.width, 2) for _ in range(depth))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        hidden = torch.cat([self.first.expand(len(pixels), -1, -1), patches], dim=1)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden
