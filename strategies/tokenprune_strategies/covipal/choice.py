"""The best tokens of every image of a sample, with an exact number over all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.ops import topk_indices


def best_of_each(score: Tensor, image: Tensor, images: int, keep: int) -> Tensor:
    """Top-k in every image or frame; ties go to the lower index.

    Args:
        score: `[B, N]`.
        image: which image each token is of, `[B, N]` int64 below `images`.
        images: their number.
        keep: tokens to keep over all images.

    Returns:
        `[B, keep]`, ascending.
    """
    number = torch.arange(images, device=image.device)
    counts = (image[..., None] == number).sum(dim=1)
    share = shares(counts, keep)
    order = score.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, image.gather(1, order).argsort(dim=1, stable=True))
    image = image.gather(1, order)
    start = counts.cumsum(dim=1) - counts
    rank = torch.arange(score.shape[1], device=image.device) - start.gather(1, image)
    chosen = (rank < share.gather(1, image)).float()
    return topk_indices(torch.zeros_like(chosen).scatter(1, order, chosen), keep)


def shares(counts: Tensor, keep: int) -> Tensor:
    """How many tokens every image keeps: in proportion to what arrives, largest remainders first.

    Args:
        counts: tokens of every image, `[B, F]` int64.
        keep: the sum of the answer in every row, at most that of `counts`.

    Returns:
        `[B, F]`, never more than `counts`; equal for equal images if `keep` is a multiple of F.
    """
    parts = counts * keep
    total = counts.sum(dim=1, keepdim=True)
    share, rest = parts // total, parts % total
    rank = rest.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return share + (rank < keep - share.sum(dim=1, keepdim=True)).long()
