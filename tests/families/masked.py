"""The oracle of cuts: the plain model over the full prompt, removed tokens hidden in its masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

POOLING = "Glm5Next"
"""How classes of layers begin in which keys are chosen in pools of neighbours."""
STREAMED = (POOLING, "HYV4VL")
"""How classes of layers begin behind whose tokens stand streams of them."""


@contextmanager
def hidden_from(layers: Sequence[nn.Module], first: int, gone: Tensor) -> Iterator[None]:
    """Hide tokens of the prompts as keys in layer `first` and those behind it.

    Good for one prefill and the steps behind it. Hidden tokens go on seeing themselves, since an
    empty row of a softmax is NaN; nobody reads what becomes of them.

    Args:
        layers: the LLM's layers, which are called with their mask by keyword.
        first: number of the first layer in which they are hidden.
        gone: `[B, T]` True for tokens to hide, by prompt place.
    """
    if type(layers[0]).__name__.startswith(POOLING):
        with taken_out(layers, first, gone):
            yield
        return
    hooks = [
        layer.register_forward_pre_hook(_hide(gone), with_kwargs=True) for layer in layers[first:]
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def taken_out(layers: Sequence[nn.Module], first: int, gone: Tensor) -> Iterator[None]:
    """The same where a hidden key parts those around it: each layer runs without them.

    Rows that keep fewer tokens begin with padding; what was taken out gets zeros, unread.
    """
    kept = [(~row).nonzero()[:, 0] for row in gone]
    longest = max(map(len, kept))
    index, valid = torch.zeros(len(gone), longest, dtype=torch.int64), ~gone[:, :longest]
    for number, row in enumerate(kept):
        index[number, longest - len(row) :] = row
        valid[number] = torch.arange(longest) >= longest - len(row)
    rows = torch.arange(len(gone))[:, None]

    def short(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(hidden: Tensor, **kwargs: Any) -> Any:
            # behind a cache, or within a layer that runs without more of them
            if hidden.shape[1] != gone.shape[1]:
                return original(hidden, **kwargs)
            mask = kwargs.pop("attention_mask")[rows, index] & valid
            made, *rest = original(hidden[rows, index], attention_mask=mask, **kwargs)
            whole = torch.zeros_like(hidden)
            for number, row in enumerate(kept):
                whole[number, row] = made[number, longest - len(row) :]
            return whole, *rest

        return forward

    with pytest.MonkeyPatch.context() as patch:
        for layer in layers[first:]:
            patch.setitem(vars(layer), "forward", short(layer.forward))
        yield


@contextmanager
def windows_in_places(layers: Sequence[nn.Module], kept: Tensor, length: int) -> Iterator[None]:
    """Let windows of a prompt that is short throughout count the places of the whole one.

    Good for one prefill and the steps behind it, of one sample without padding.

    Args:
        layers: the LLM's layers, which are called with their mask by keyword.
        kept: `[K]` places of the prompt that are left.
        length: places of the whole one.
    """
    sizes = [getattr(getattr(one, "self_attn", None), "sliding_window", None) for one in layers]
    hooks = [
        layer.register_forward_pre_hook(_near(kept, length, size), with_kwargs=True)
        for layer, size in zip(layers, sizes, strict=True)
        if size is not None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _near(kept: Tensor, length: int, window: int) -> Callable[..., Any]:
    seen = 0

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal seen
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        queries = hidden.shape[-2]
        tail = torch.arange(length, length + seen + queries)
        places = torch.cat((kept, tail))[: seen + queries]
        # a cache holds the last keys that any window could reach
        keys = places[-(min(seen, window - 1) + queries) :]
        own = places[-queries:, None]
        far = (keys > own) | (keys <= own - window)
        mask = torch.zeros(far.shape, dtype=hidden.dtype)
        mask = mask.masked_fill(far, torch.finfo(hidden.dtype).min)[None, None]
        seen += queries
        return args, {**kwargs, "attention_mask": mask}

    return hook


def _hide(gone: Tensor) -> Callable[..., Any]:
    seen = 0

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal seen
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        queries = hidden.shape[1 if type(layer).__name__.startswith(STREAMED) else -2]
        # layers that share keys may compute the end of the prompt only
        past = seen or gone.shape[1] - queries
        mask = closed(kwargs.get("attention_mask"), gone, past, queries, hidden.dtype)
        seen = past + queries
        return args, {**kwargs, "attention_mask": mask}

    return hook


def closed(
    mask: Tensor | None, gone: Tensor, past: int, queries: int, dtype: torch.dtype
) -> Tensor:
    """A layer's mask, made additive, with the columns of some keys closed.

    Args:
        mask: None (causal), or `[B or 1, 1, Q, K]`, whose keys are the last K of the sequence.
        gone: `[B, T]` True for keys to close, by prompt place.
        past: tokens of the sequence in front of the queries.
        queries: Q.
        dtype: of the result.
    """
    batch, total = len(gone), past + queries
    places = torch.arange(total)
    if mask is None:
        seen = (places <= places[past:, None]).expand(batch, 1, -1, -1)
    else:
        seen = (mask if mask.dtype == torch.bool else mask == 0).expand(batch, -1, -1, -1)
    keys = places[total - seen.shape[-1] :]
    closing = torch.zeros(batch, total, dtype=torch.bool)
    closing[:, : gone.shape[1]] = gone[:, :total]
    own = keys == places[past:, None]
    seen = seen & ~(closing[:, keys][:, None, None] & ~own)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
