"""The grouping layer: every patch joins one semantic token, every group becomes one new token.

Source: VisToG (arXiv 2411.17773) for the idea; the concrete form follows the grouping block of
GroupViT (arXiv 2202.11094), which the paper's design resembles, and is our reading.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

MLP_RATIO = 4


class Grouping(NamedTuple):
    """Result of the grouping layer: new tokens `[B, G, D]`, group of every patch `[B, N]`."""

    created: Tensor
    group: Tensor


class SemanticGrouping(nn.Module):
    """Semantic tokens Z_0 and the grouping layer; everything that VisToG learns.

    Args:
        groups: number of semantic tokens G.
        dim: width D of the vision encoder.
        tau: temperature of the assignment in training.
        eps: added to each group's count.
    """

    def __init__(self, groups: int, dim: int, *, tau: float = 1.0, eps: float = 1.0) -> None:
        super().__init__()
        self.tau, self.eps = tau, eps
        self.semantic = nn.Parameter(torch.randn(groups, dim) * 0.02)
        self.norm_semantic, self.norm_tokens = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        hidden = MLP_RATIO * dim
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )

    def forward(self, semantic: Tensor, tokens: Tensor, noise: Tensor | None = None) -> Grouping:
        """Assign and pool.

        Args:
            semantic: final states of the semantic tokens, `[B, G, D]`.
            tokens: encoder outputs of the patches, `[B, N, D]`.
            noise: Gumbel noise `[B, G, N]`; with it the assignment passes gradients straight
                through, without it the choice is hard and deterministic.
        """
        kind = self.query.weight.dtype
        semantic, tokens = semantic.to(kind), self.norm_tokens(tokens.to(kind))
        logits = self.query(self.norm_semantic(semantic)) @ self.key(tokens).mT
        # In float32: half-precision logits make spurious ties.
        logits = logits.float() / logits.new_tensor(tokens.shape[-1]).float().sqrt()
        assign, group = assignment(logits, noise, self.tau)
        assign = assign.to(kind)
        pooled = assign @ self.value(tokens) / (assign.sum(-1, keepdim=True) + self.eps)
        created = semantic + self.out(pooled)
        return Grouping(created + self.mlp(created), group)


def assignment(logits: Tensor, noise: Tensor | None, tau: float) -> tuple[Tensor, Tensor]:
    """One group for every patch.

    Args:
        logits: `[B, G, N]` float32.
        noise: Gumbel noise of the same shape, or None for inference.
        tau: temperature; matters for gradients only.

    Returns:
        One-hot `[B, G, N]`, with the softmax's gradient if there is noise, and the group `[B, N]`.
    """
    scores = logits if noise is None else (logits + noise) / tau
    group = scores.argmax(dim=1)
    hot = (group[:, None] == torch.arange(logits.shape[1], device=logits.device)[:, None]).float()
    if noise is None:
        return hot, group
    soft = scores.softmax(dim=1)
    return hot - soft.detach() + soft, group


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, `[*shape]` float32 on the CPU."""
    # Exponential samples can be 0, whose logarithm is infinite.
    waiting = torch.empty(shape, dtype=torch.float32, device="cpu")
    return -waiting.exponential_(generator=generator).clamp_(min=1e-20).log()
