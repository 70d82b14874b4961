"""DySeg: where a video changes."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenprune_strategies.shared.runs import Run, runs


def segments(frames: Tensor, count: int, threshold: float) -> list[Run]:
    """A video cut at its `count - 1` largest changes and at all below a likeness.

    Args:
        frames: `[T, D]` feature of every frame.
        count: segments at the least; every frame is one if there are fewer frames (ours).
        threshold: cosine of neighbours below which there is a cut.
    """
    alike = cosine_similarity(frames[:-1], frames[1:], dim=-1)
    cut = alike < threshold
    cut[alike.argsort(stable=True)[: count - 1]] = True
    return runs([0, *cut.long().cumsum(dim=0).tolist()])
