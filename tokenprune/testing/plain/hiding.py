"""Run an LLM over the full prompt with some of its tokens hidden as keys, layer by layer.

The plain model computes everything itself: embeddings, position ids, rotary rows, masks and cache.
In each layer's mask the columns of the tokens that left in front of it are closed, whatever form
that mask has. So nothing of a family has to be known but how its layers are called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.testing.plain.fate import Fate


class HiddenKeys:
    """The removed tokens of one prompt, hidden in the layers of a plain LLM.

    Args:
        adapter: reads and writes the calls of the LLM's layers.
        fate: when each token of the prompt leaves.
    """

    def __init__(self, adapter: MllmAdapter, fate: Fate) -> None:
        self.adapter, self.fate = adapter, fate
        self.layers, self.flat = adapter.spec().layers, adapter.padding_masks()
        self._seen: Counter[int] = Counter()

    def install(self, patches: Patches) -> None:
        """Wrap the forward of every layer; good for one call of the model or of `generate`."""
        for number, layer in enumerate(self.layers):
            patches.override(layer, "forward", self._layer(number))

    def _layer(self, number: int) -> Callable[..., Any]:
        layer = self.layers[number]

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            given = self.adapter.read_layer(layer, args, kwargs)
            past, hidden = self._seen[number], given.hidden.flatten(2)
            self._seen[number] += hidden.shape[1]
            hide = self.fate.hidden(number, decoding=past > 0)
            if bool(hide.any()):
                mask = closed(given.mask, hide, past, hidden, flat=self.flat)
                new = replace(given, mask=mask)
                args, kwargs = self.adapter.write_layer(layer, new, args, kwargs)
            return original(*args, **kwargs)

        return forward


def closed(mask: Tensor | None, hide: Tensor, past: int, hidden: Tensor, *, flat: bool) -> Tensor:
    """A layer's mask with some keys closed to all queries but their own.

    A hidden token goes on seeing itself: a softmax over nothing is NaN, and nobody reads its state.

    Args:
        mask: None, `[1, K]`, or `[1, 1 or H, Q, K]` bool or additive. K may be shorter than the
            sequence in layers with a sliding window; it then ends with the same tokens.
        hide: `[T]` True for the tokens of the prompt to hide.
        past: tokens that the layer saw in earlier calls.
        hidden: `[1, Q, D]` its input.
        flat: whether its attention takes masks `[B, T]` only.
    """
    queries, total = hidden.shape[1], past + hidden.shape[1]
    gone = torch.zeros(total, dtype=torch.bool, device=hidden.device)
    gone[: hide.shape[0]] = hide.to(hidden.device)
    if mask is None and flat:
        mask = torch.ones(1, total, dtype=torch.long, device=hidden.device)
    if mask is None:
        mask = hidden.new_zeros(1, 1, queries, total)
        places = torch.arange(total, device=hidden.device)
        mask = mask.masked_fill(places > places[past:, None], torch.finfo(mask.dtype).min)
    gone = gone[total - mask.shape[-1] :]
    if mask.dim() == 2:
        return mask * (~gone).to(mask.dtype)
    own = torch.ones(queries, mask.shape[-1], dtype=torch.bool, device=hidden.device)
    own = own.tril(mask.shape[-1] - queries).triu(mask.shape[-1] - queries)
    blocked: bool | float = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.masked_fill(gone & ~own, blocked)
