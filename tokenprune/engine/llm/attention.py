"""Which token of a prompt asks: the last one, answers left out."""

from __future__ import annotations

import torch
from torch import Tensor


def query_places(valid: Tensor, visual: Tensor, labels: Tensor | None) -> Tensor:
    """Prompt place of the last prompt token of every row, `[B]`.

    Without labels the last token of the row. With labels (training) the token before the first
    labelled one behind the images, so that no answer token takes part in the choice (ours).

    Args:
        valid: `[B, L]` False for padding.
        visual: `[B, L]` True for placeholders.
        labels: `[B, L]` with -100 for tokens without label, or None.
    """
    places = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    last = last_place(valid)
    if labels is None:
        return last
    behind = places > last_place(visual)[:, None]
    answer = valid & behind & (labels.to(valid.device) != -100)
    first = places.masked_fill(~answer, valid.shape[1]).amin(dim=1)
    return torch.where(answer.any(dim=1), (first - 1).clamp(min=0), last)


def last_place(marked: Tensor) -> Tensor:
    """Prompt place of the last True of every row of `[B, L]`, `[B]`; -1 for none."""
    places = torch.arange(marked.shape[1], device=marked.device).expand(marked.shape)
    return places.masked_fill(~marked, -1).amax(dim=1)
