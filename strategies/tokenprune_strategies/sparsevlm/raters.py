"""Which text tokens rate the visual ones, and how."""

from __future__ import annotations

import torch
from torch import Tensor


def raters(visual: Tensor, text: Tensor, place: Tensor) -> Tensor:
    """The text tokens behind the image that visual tokens point at more than at the average one.

    `P = softmax over text of visual text^T`, without scaling, and its mean over visual tokens.

    Args:
        visual: `[B, N, D]`.
        text: `[B, S, D]`.
        place: `[B, S]`: 1 behind the last visual token, 0 before it, -1 for padding.

    Returns:
        `[B, S]` bool. Where no token is above the mean, the last one behind the image; where none
        is behind the image, the last of the prompt (ours).
    """
    behind = place == 1
    asking = torch.where(behind.any(dim=1, keepdim=True), behind, place >= 0)
    logits = visual.float() @ text.float().transpose(1, 2)
    pointing = logits.masked_fill(~asking[:, None], -torch.inf).softmax(dim=-1).mean(dim=1)
    mean = pointing.sum(dim=1, keepdim=True) / asking.sum(dim=1, keepdim=True)
    chosen = asking & (pointing > mean)
    number = torch.arange(place.shape[1], device=place.device)
    last = torch.where(asking, number, -1).amax(dim=1, keepdim=True)
    return torch.where(chosen.any(dim=1, keepdim=True), chosen, number == last)


def rated(weights: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the raters' rows: `[B, S, N]` and `[B, S]` -> `[B, N]`."""
    share = chosen.float()[..., None]
    return (weights.float() * share).sum(dim=1) / share.sum(dim=1)
