"""How many scores stand out, by their quartiles."""

import torch
from torch import Tensor


def outliers(score: Tensor) -> int:
    """How many scores `[N]` lie above Q3 + 1.5 (Q3 - Q1); at least one (ours)."""
    low, high = torch.quantile(score.double(), score.new_tensor([0.25, 0.75]).double()).tolist()
    return max(1, int((score > high + 1.5 * (high - low)).sum()))
