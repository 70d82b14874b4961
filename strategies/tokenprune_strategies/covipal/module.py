"""The plug-and-play pruning module: one importance score for every visual token.

That a small module of its own scores visual tokens from visual and text embeddings is CoViPAL's
(arXiv 2508.17243); both forms here are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FFN_RATIO = 4
TYPE_SPREAD = 0.02


class PruningModule(nn.Module):
    """Base of both forms.

    Args:
        dim: width of the LLM.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, visual: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """Score.

        Args:
            visual: visual tokens, `[B, N, dim]` float32.
            text: the prompt's text tokens, right-padded, `[B, S, dim]`; S may be 0.
            seen: `[B, S]` bool, false for padding, whose states count for nothing.

        Returns:
            Importance, `[B, N]`.
        """
        # Zeros, because hidden states under a mask still reach sums, and 0 * NaN is NaN.
        clean = torch.where(seen[..., None], text, torch.zeros_like(text))
        return self.scores(visual, clean, seen)

    def scores(self, visual: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """As `forward`, with zeros for padding: importance `[B, N]`."""
        raise NotImplementedError


class ContextScorer(PruningModule):
    """Visual and text tokens read one another in pre-norm transformer layers, without positions.

    Args:
        dim: width of the LLM.
        width: width inside.
        depth: layers.
        heads: attention heads.
    """

    def __init__(self, dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__(dim)
        self.enter = nn.Linear(dim, width)
        self.kinds = nn.Parameter(torch.randn(2, width) * TYPE_SPREAD)
        self.layers = nn.ModuleList(ReadingLayer(width, heads) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 1)

    def scores(self, visual: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """See `PruningModule.forward`."""
        states = torch.cat(
            (self.enter(visual) + self.kinds[0], self.enter(text) + self.kinds[1]), dim=1
        )
        always = seen.new_ones(visual.shape[:2])
        mask = torch.cat((always, seen), dim=1)[:, None, None]
        for layer in self.layers:
            states = layer(states, mask)
        made: Tensor = self.out(self.norm(states[:, : visual.shape[1]]))
        return made.squeeze(-1)


class ReadingLayer(nn.Module):
    """Pre-norm attention over everything that the mask shows, and a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = FFN_RATIO * width
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, width]` and a mask `[B, 1, 1, T]`, true where a key is seen."""
        parts: Tensor = self.qkv(self.norm_attention(states))
        query, key, value = (
            part.view(*part.shape[:2], self.heads, -1).transpose(1, 2)
            for part in parts.chunk(3, -1)
        )
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = states + self.join(read.transpose(1, 2).flatten(2))
        grown: Tensor = states + self.feed(self.norm_feed(states))
        return grown


class MeanScorer(PruningModule):
    """Scores every visual token beside the mean of the text tokens; zeros where there are none.

    Args:
        dim: width of the LLM.
        width: width inside.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(dim)
        self.score = nn.Sequential(nn.Linear(2 * dim, width), nn.GELU(), nn.Linear(width, 1))

    def scores(self, visual: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """See `PruningModule.forward`."""
        mean = text.sum(dim=1) / seen.sum(dim=1, keepdim=True).clamp(min=1)
        beside = torch.cat((visual, mean[:, None].expand_as(visual)), dim=-1)
        made: Tensor = self.score(beside)
        return made.squeeze(-1)
