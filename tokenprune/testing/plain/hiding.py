"""Run an LLM over the full prompt with some of its tokens hidden as keys, layer by layer.

The plain model computes everything itself: embeddings, position ids, rotary rows, masks and cache.
In each layer's mask the columns of the tokens that left in front of it are closed, whatever form
that mask has. So no family has to be known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.patching import Patches
from tokenprune.testing.plain.fate import Fate
from tokenprune.testing.plain.names import LAYER_MASK


class HiddenKeys:
    """The removed tokens of one prompt, hidden in the layers of a plain LLM.

    Args:
        layers: the LLM's decoder layers.
        fate: when each token of the prompt leaves.
        flat: whether the layers' attention takes masks `[B, T]` only.
    """

    def __init__(self, layers: Sequence[nn.Module], fate: Fate, *, flat: bool) -> None:
        self.layers, self.fate, self.flat = layers, fate, flat
        self._seen: Counter[int] = Counter()

    def install(self, patches: Patches) -> None:
        """Wrap the forward of every layer; good for one call of the model or of `generate`."""
        for number, layer in enumerate(self.layers):
            patches.override(layer, "forward", self._layer(number))

    def _layer(self, number: int) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            past, queries = self._seen[number], hidden.shape[-2]
            self._seen[number] += queries
            hide = self.fate.hidden(number, decoding=past > 0)
            if bool(hide.any()):
                mask = kwargs.get(LAYER_MASK)
                kwargs[LAYER_MASK] = closed(mask, hide, past, hidden, flat=self.flat)
            return original(hidden, *args, **kwargs)

        return forward


def closed(mask: Tensor | None, hide: Tensor, past: int, hidden: Tensor, *, flat: bool) -> Tensor:
    """A layer's mask with some keys closed to all queries but their own.

    A hidden token goes on seeing itself: a softmax over nothing is NaN, and nobody reads its state.

    Args:
        mask: None, `[1, K]`, or `[1, 1 or H, Q, K]` bool or additive. K may be shorter than the
            sequence in layers with a sliding window; it then ends with the same tokens.
        hide: `[T]` True for the tokens of the prompt to hide.
        past: tokens that the layer saw in earlier calls.
        hidden: `[..., 1, Q, D]` its input.
        flat: whether its attention takes masks `[B, T]` only.
    """
    queries, total = hidden.shape[-2], past + hidden.shape[-2]
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
