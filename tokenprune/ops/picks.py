"""What the greedy selections share: picks one by one, the best score first, ties by index."""

import torch
from torch import Tensor

from tokenprune.ops.checks import require

LOWEST = torch.finfo(torch.float32).min
"""Rank of a score that is NaN or -inf: below all others, above -inf, which means taken."""


def comparable(score: Tensor) -> Tensor:
    """The score with NaN and -inf as `LOWEST`, so that no token but a taken one is at -inf."""
    return score.nan_to_num(nan=LOWEST, posinf=torch.inf, neginf=LOWEST)


def on_host(tensor: Tensor) -> Tensor:
    """The tensor in float32 on the CPU, where a short step costs less than the launch of a kernel.

    A device without Triton waits for its copy, which is shorter than a few launches a pick.
    """
    return tensor.to("cpu", torch.float32)


def require_count(k: int, tokens: int) -> None:
    """Checks that `k` of `tokens` can be picked."""
    require(0 <= k <= tokens, "k must be in 0..{}, not {}", tokens, k)


def require_square(name: str, matrix: Tensor) -> None:
    """Checks that a matrix of pairs is `[B, N, N]`."""
    require(
        matrix.dim() == 3 and matrix.shape[1] == matrix.shape[2],
        "{} must be [B, N, N], not {}",
        name,
        tuple(matrix.shape),
    )
