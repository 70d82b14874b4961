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
from torch.utils.weak import WeakIdKeyDictionary


class _Scope:
    """One running call of a model that pools."""

    def __init__(self, owner: PoolWeights) -> None:
        self.owner = owner
        self.weight: Tensor | None = None


_scope: ContextVar[_Scope | None] = ContextVar("tokenprune_pooling", default=None)


class PoolWeights:
    """The sizes of one model's tokens, from its last block to its pooling.

    They live in the context of the call that `scoped` wraps: not longer, not in other threads,
    and not after an exception. Where a model hands out its tokens to be pooled by another call,
    the sizes stay with that very tensor.
    """

    def __init__(self) -> None:
        self._handed_out: Any = WeakIdKeyDictionary()

    def scoped(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Override for the forward that blocks and pooling both happen in."""
        token = _scope.set(_Scope(self))
        try:
            return original(*args, **kwargs)
        finally:
            _scope.reset(token)

    def handing_out(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Override for a method whose tokens `[B, T, D]` may be pooled by another call."""
        if _scoped(self) is not None:
            return original(*args, **kwargs)
        token = _scope.set(_Scope(self))
        try:
            output, weight = original(*args, **kwargs), self.get()
        finally:
            _scope.reset(token)
        if weight is not None:
            self._handed_out[output] = weight
        return output

    def taking_back(self, tokens: Tensor, original: Callable[..., Any], **kwargs: Any) -> Any:
        """Pool tokens `[B, T, D]` that `handing_out` gave, with their sizes at hand."""
        scope = _Scope(self)
        scope.weight = self._handed_out.get(tokens)
        token = _scope.set(scope)
        try:
            return original(tokens, **kwargs)
        finally:
            _scope.reset(token)

    def handed_out(self, tokens: Tensor) -> bool:
        """Whether `handing_out` gave this very tensor."""
        return tokens in self._handed_out

    def running(self) -> bool:
        """Whether a call is running that blocks and pooling both happen in."""
        return _scoped(self) is not None

    def set(self, weight: Tensor) -> None:
        """Remember sizes `[B, T]`, prefix included; without a running call nobody pools."""
        scope = _scoped(self)
        if scope is not None:
            scope.weight = weight

    def get(self) -> Tensor | None:
        """Sizes `[B, T]` of the running call, if its tokens were told to have any."""
        scope = _scoped(self)
        return None if scope is None else scope.weight


def _scoped(owner: PoolWeights) -> _Scope | None:
    scope = _scope.get()
    return scope if scope is not None and scope.owner is owner else None


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
