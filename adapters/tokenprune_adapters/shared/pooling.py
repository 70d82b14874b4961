"""Size-weighted averages for models that average their tokens after the last block.

A merged token stands for several patches, so a plain mean over the tokens that are left would
weigh patches unequally. The models' own mean is kept: the tokens are scaled before it, so that it
comes out weighted. With all sizes 1 the scale is exactly 1 and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor


class _Scope:
    """One running call of a model that pools."""

    def __init__(self, owner: PoolWeights) -> None:
        self.owner = owner
        self.weight: Tensor | None = None


_scope: ContextVar[_Scope | None] = ContextVar("tokenprune_pooling", default=None)


class PoolWeights:
    """The sizes of one model's tokens, from its last block to its pooling.

    They live in the context of the call that `scoped` wraps: not longer, not in other threads,
    and not after an exception.
    """

    def scoped(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Override for the forward that blocks and pooling both happen in."""
        token = _scope.set(_Scope(self))
        try:
            return original(*args, **kwargs)
        finally:
            _scope.reset(token)

    def set(self, weight: Tensor) -> None:
        """Remember sizes `[B, T]`, prefix included; without a running call nobody pools."""
        scope = _scope.get()
        if scope is not None and scope.owner is self:
            scope.weight = weight

    def get(self) -> Tensor | None:
        """Sizes `[B, T]` of the running call, if its tokens were told to have any."""
        scope = _scope.get()
        return scope.weight if scope is not None and scope.owner is self else None


def scaled_for_mean(hidden: Tensor, weight: Tensor, skip: int, length: int | None = None) -> Tensor:
    """Scale tokens so that their plain mean is the mean weighted by size.

    Args:
        hidden: `[B, T, D]`.
        weight: `[B, T]`, patches that each token stands for.
        skip: leading tokens that the model leaves out of its mean; they stay as they are.
        length: number of tokens the model will divide by; zeros are appended up to it.

    Returns:
        `[B, T, D]`, or `[B, skip + length, D]`.
    """
    part = weight[:, skip:].float()
    divisor = part.shape[1] if length is None else length
    scale = part * (divisor / part.sum(dim=1, keepdim=True))
    patches = (hidden[:, skip:].float() * scale[..., None]).to(hidden.dtype)
    missing = divisor - part.shape[1]
    if missing > 0:
        rows = patches.new_zeros(patches.shape[0], missing, patches.shape[2])
        patches = torch.cat((patches, rows), dim=1)
    return torch.cat((hidden[:, :skip], patches), dim=1) if skip else patches
