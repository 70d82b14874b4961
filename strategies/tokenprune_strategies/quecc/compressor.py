"""Query-based convolutional cross-attention: every window of patches becomes one token.

Source: QueCC (arXiv 2411.03312) and the structure of its released code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.interface.sites import Grid

NORM_EPS = 1e-6


class QueryCompressor(nn.Module):
    """Everything that QueCC learns in front of the projector.

    Args:
        dim: C, width of the vision encoder.
        text_dim: width of the LLM.
        levels: how many encoder outputs make keys and values.
        stride: s, side of a window.
        heads: attention heads.
    """

    def __init__(self, dim: int, text_dim: int, levels: int, stride: int, heads: int) -> None:
        super().__init__()
        self.dim, self.text_dim, self.stride, self.heads = dim, text_dim, stride, heads
        self.text = nn.Sequential(nn.Linear(text_dim, dim), nn.LayerNorm(dim, eps=NORM_EPS))
        self.query = _mapped(dim, dim)
        self.key, self.value = _mapped(levels * dim, dim), _mapped(levels * dim, dim)
        self.down = nn.Conv2d(dim, dim, stride, stride=stride, groups=dim)
        self.query_in, self.key_in = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value_in, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, image: Tensor, multi: Tensor, question: Tensor, grid: Grid) -> Tensor:
        """Compress.

        Args:
            image: encoder outputs of all patches in raster order, `[B, N, C]`.
            multi: outputs of several blocks side by side, `[B, N, levels * C]`.
            question: the question's state, `[B, text_dim]`.
            grid: the patch grid (t, h, w); the stride divides h and w.

        Returns:
            One token for every window, in raster order, `[B, t * h/s * w/s, C]`.
        """
        query = self._centres(self.query(image + self.text(question)[:, None]), grid)
        key = self._windows(self.key_in(self.key(multi)), grid)
        value = self._windows(self.value_in(self.value(multi)), grid)
        attended = F.scaled_dot_product_attention(self._split(self.query_in(query)), key, value)
        made: Tensor = self.out(attended.transpose(1, 2).flatten(1))
        return made.view(image.shape[0], -1, self.dim)

    def _centres(self, query: Tensor, grid: Grid) -> Tensor:
        """Depthwise convolution: `[B, N, C]` -> one query for every window, `[B * M, 1, C]`."""
        planes = query.reshape(-1, grid[1], grid[2], self.dim).permute(0, 3, 1, 2)
        made: Tensor = self.down(planes)
        return made.permute(0, 2, 3, 1).reshape(-1, 1, self.dim)

    def _windows(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The patches of every window: `[B, N, C]` -> `[B * M, heads, s * s, C / heads]`."""
        side = self.stride
        rows, columns = grid[1] // side, grid[2] // side
        cut = tokens.reshape(-1, rows, side, columns, side, self.dim).transpose(2, 3)
        return self._split(cut.reshape(-1, side * side, self.dim))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


def _mapped(wide: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(wide, dim), nn.GELU(), nn.Linear(dim, dim), nn.LayerNorm(dim, eps=NORM_EPS)
    )


def window_of_patches(grid: Grid, stride: int, device: torch.device | None = None) -> Tensor:
    """Number of the window that every patch lies in, raster order: `[N]` int64."""
    frames, height, width = grid
    rows, columns = height // stride, width // stride
    frame = torch.arange(frames, device=device)[:, None, None] * rows * columns
    row = (torch.arange(height, device=device) // stride)[:, None] * columns
    return (frame + row + torch.arange(width, device=device) // stride).flatten()


def central_patches(grid: Grid, stride: int, device: torch.device | None = None) -> Tensor:
    """The patch in every window's middle (below and right of it for even sides): `[M]` int64."""
    frames, height, width = grid
    row = torch.arange(stride // 2, height, stride, device=device)[:, None]
    column = torch.arange(stride // 2, width, stride, device=device)
    frame = torch.arange(frames, device=device)[:, None, None] * height * width
    return (frame + row * width + column).flatten()
