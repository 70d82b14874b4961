"""Size-weighted averages for models that average their tokens after the last block.

A merged token stands for several patches, so a plain mean over the tokens that are left would
weigh patches unequally. The models' own mean is kept: the tokens are scaled before it, so that it
comes out weighted. With all sizes 1 the scale is exactly 1 and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    the sizes stay with that very tensor; one that a compiled graph gave has none.
    """

    def __init__(self) -> None:
        self._handed_out: Any = WeakIdKeyDictionary()
        self._compiling: _Scope | None = None

    def scoped(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Override for the forward that blocks and pooling both happen in."""
        with self._within(_Scope(self)):
            return original(*args, **kwargs)

    def handing_out(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Override for a method whose tokens `[B, T, D]` may be pooled by another call."""
        if self._running is not None:
            return original(*args, **kwargs)
        with self._within(_Scope(self)):
            output, weight = original(*args, **kwargs), self.get()
        if weight is not None and not torch.compiler.is_dynamo_compiling():
            self._handed_out[output] = weight
        return output

    def taking_back(self, tokens: Tensor, original: Callable[..., Any], **kwargs: Any) -> Any:
        """Pool tokens `[B, T, D]` that `handing_out` gave, with their sizes at hand."""
        scope = _Scope(self)
        scope.weight = self._handed_out.get(tokens)
        with self._within(scope):
            return original(tokens, **kwargs)

    def handed_out(self, tokens: Tensor) -> bool:
        """Whether `handing_out` gave this very tensor."""
        return tokens in self._handed_out

    def running(self) -> bool:
        """Whether a call is running that blocks and pooling both happen in."""
        return self._running is not None

    def set(self, weight: Tensor) -> None:
        """Remember sizes `[B, T]`, prefix included; without a running call nobody pools."""
        scope = self._running
        if scope is not None:
            scope.weight = weight

    def get(self) -> Tensor | None:
        """Sizes `[B, T]` of the running call, if its tokens were told to have any."""
        scope = self._running
        return None if scope is None else scope.weight

    @contextmanager
    def _within(self, scope: _Scope) -> Iterator[None]:
        """Let `scope` be the running one; a graph can set no context variable, but attributes."""
        if torch.compiler.is_dynamo_compiling():
            before, self._compiling = self._compiling, scope
            try:
                yield
            finally:
                self._compiling = before
            return
        token = _scope.set(scope)
        try:
            yield
        finally:
            _scope.reset(token)

    @property
    def _running(self) -> _Scope | None:
        if torch.compiler.is_dynamo_compiling() and self._compiling is not None:
            return self._compiling
        scope = _scope.get()
        return scope if scope is not None and scope.owner is self else None


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
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    part = weight[:, skip:].to(kind)
    divisor = part.shape[1] if length is None else length
    scale = part * (divisor / part.sum(dim=1, keepdim=True))
    patches = (hidden[:, skip:].to(kind) * scale[..., None]).to(hidden.dtype)
    missing = divisor - part.shape[1]
    if missing > 0:
        rows = patches.new_zeros(patches.shape[0], missing, patches.shape[2])
        patches = torch.cat((patches, rows), dim=1)
    return torch.cat((hidden[:, :skip], patches), dim=1) if skip else patches
