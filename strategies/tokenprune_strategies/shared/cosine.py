"""Cosines of all pairs of tokens, for methods whose greedy selection needs them all."""

from torch import Tensor
from torch.nn.functional import normalize


def cosines(hidden: Tensor) -> Tensor:
    """`[B, N, D]` -> `[B, N, N]` float32; a zero vector has cosine 0 to everything."""
    unit = normalize(hidden.float(), dim=-1)
    return unit @ unit.transpose(1, 2)
