"""Which tokens a training batch keeps: subsets informed by ground truth, random ones, and merges.

No pruning method's scores are used. "Informed" means: at least one patch of every item, a random
share of its other patches, and background at random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tokenprune.reference.scene import MAX_ITEMS


def top_sorted(priority: Tensor, count: int) -> Tensor:
    """Indices `[B, count]` of the largest priorities `[B, N]`, in raster order."""
    return priority.topk(count, dim=1).indices.sort(dim=1).values


def everything(rows: int, count: int) -> Tensor:
    """All indices, `[B, count]`."""
    return torch.arange(count).expand(rows, -1)


def items_first(touched: Tensor, count: int, generator: Generator) -> Tensor:
    """All patches that an item touches, then random background: `[B, count]`."""
    noise = torch.rand(touched.shape, generator=generator)
    return top_sorted(noise + touched.float(), count)


def informed(owner: Tensor, count: int, generator: Generator) -> Tensor:
    """One patch of every item, a random share of the others, random background: `[B, count]`."""
    noise = torch.rand(owner.shape, generator=generator)
    share = torch.rand(len(owner), MAX_ITEMS, generator=generator)
    own = share.gather(1, owner.clamp(min=0)) > torch.rand(owner.shape, generator=generator)
    priority = noise + (own & (owner >= 0)).float()
    for item in range(MAX_ITEMS):
        mine = noise.masked_fill(owner != item, -1.0)
        best = mine.argmax(1, keepdim=True)
        present = (mine.gather(1, best) >= 0).float()
        priority.scatter_add_(1, best, 2.0 * present)
    return top_sorted(priority, count)


def log_uniform(low: int, high: int, generator: Generator) -> int:
    """A whole number between `low` and `high` whose logarithm is uniform."""
    if high <= low:
        return high
    draw = float(torch.rand((), generator=generator))
    return round(math.exp(math.log(low) + draw * (math.log(high) - math.log(low))))


def gather_tokens(tokens: Tensor, keep: Tensor) -> Tensor:
    """Rows `keep [B, M]` of tokens `[B, N, D]`."""
    return tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def average_into(tokens: Tensor, keep: Tensor) -> Tensor:
    """Keep `[B, M]` of the tokens `[B, N, D]`; average each other one into its most similar."""
    with torch.no_grad():
        unit = F.normalize(tokens.detach().float(), dim=-1)
        nearest = torch.bmm(unit, gather_tokens(unit, keep).transpose(1, 2)).argmax(-1)
        own = torch.arange(keep.shape[1]).expand_as(keep)
        nearest = nearest.scatter(1, keep, own)
        mix = F.one_hot(nearest, keep.shape[1]).transpose(1, 2).to(tokens.dtype)
        mix = mix / mix.sum(-1, keepdim=True)
    return torch.bmm(mix, tokens)


def swap_background(tokens: Tensor, ground: Tensor, tries: int = 4) -> Tensor:
    """Replace background tokens by those of other pictures of the batch, at the same place.

    Args:
        tokens: `[B, M, D]`.
        ground: `[B, M]`, whether a token shows no item.
        tries: how many other pictures to look at for a token that is background there too.
    """
    swapped, left = tokens, ground
    for shift in range(1, tries + 1):
        fits = left & ground.roll(shift, 0)
        swapped = torch.where(fits.unsqueeze(-1), tokens.detach().roll(shift, 0), swapped)
        left = left & ~fits
    return swapped


@dataclass(frozen=True)
class Thin:
    """A token map that keeps chosen patches and drops or averages in the others.

    Attributes:
        keep: `[B, M]` places among the current tokens.
        merge: whether the others are averaged into their most similar kept token.
    """

    keep: Tensor
    merge: bool

    def __call__(self, tokens: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Apply it to tokens `[B, K, D]` of patches `[B, K]`."""
        thin = average_into(tokens, self.keep) if self.merge else gather_tokens(tokens, self.keep)
        return thin, index.gather(1, self.keep)
