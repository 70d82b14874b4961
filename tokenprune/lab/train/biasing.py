"""A differentiable bias on the attention keys of visual tokens, inside the LLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current_state
from tokenprune.engine.llm.state import MllmState
from tokenprune.errors import UnsupportedCallError
from tokenprune.errors.words import indefinite
from tokenprune.interface.adapter import MllmAdapter


class KeyBias:
    """Overrides the LLM's layers, outside of the engine's own overrides, for one forward.

    A layer's own mask, or plain causal order where it has none, becomes an additive one of the
    length of the LLM's input; stages that shorten the sequence cut it as any other mask.

    Args:
        attachment: whose model runs; its stages must not be empty.
        adapter: the model's family.
        bias: `[B, N]` for the visual tokens at the LLM's input, or `[B, 1]` for all of a row.
        first: the first layer that it acts in.

    Raises:
        UnsupportedCallError: the model runs FlashAttention, which knows no additive masks, or has
            layers with linear attention or convolutions; in the forward, a layer has a mask of an
            unknown kind.
    """

    def __init__(
        self, attachment: Attachment, adapter: MllmAdapter, bias: Tensor, first: int
    ) -> None:
        if adapter.padding_masks():
            raise UnsupportedCallError(
                "FlashAttention takes no additive mask, and this loss needs one.",
                where="train",
                remedy="Load the model with attn_implementation='sdpa'.",
            )
        if any(number >= first for number in adapter.spec().flat_layers):
            raise UnsupportedCallError(
                "layers with linear attention or convolutions have no keys that a bias could act "
                "on.",
                where="train",
                remedy="Train another method, or on a model whose layers all have attention.",
            )
        self._attachment, self._adapter = attachment, adapter
        self._bias, self._first = bias, first
        self._keys: Tensor | None = None
        # by the mask it was made of, which is kept so that its id stays its own
        self._masks: dict[int, tuple[Any, Tensor]] = {}
        for number, layer in enumerate(adapter.spec().layers):
            attachment.patches.override(layer, "forward", self._layer(number, layer))

    def _layer(self, number: int, layer: nn.Module) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            given = self._adapter.read_layer(layer, args, kwargs)
            if self._keys is None:
                self._keys = self._placed(given.hidden)
            if number >= self._first:
                new = replace(given, mask=self._mask(given.mask))
                args, kwargs = self._adapter.write_layer(layer, new, args, kwargs)
            return original(*args, **kwargs)

        return forward

    def _mask(self, given: Any) -> Tensor:
        """A layer's mask with the bias; layers that share a mask share this one too."""
        assert self._keys is not None
        if id(given) not in self._masks:
            layout = self._state().layout
            assert layout is not None
            made = biased_mask(self._keys, layout.entry.valid, given)
            self._masks[id(given)] = (given, made)
        return self._masks[id(given)][1]

    def _state(self) -> MllmState:
        state = current_state(self._attachment, MllmState)
        assert state is not None
        return state

    def _placed(self, hidden: Tensor) -> Tensor:
        """The bias at its places of the LLM's input, `[B, T]`, 0 elsewhere."""
        place, bias = self._visual(self._state())
        keys = torch.zeros(hidden.shape[:2], dtype=hidden.dtype, device=hidden.device)
        places = tuple(index.to(hidden.device) for index in place)
        least = torch.finfo(hidden.dtype).min
        return keys.index_put(places, bias.to(hidden).clamp(min=least))

    def _visual(self, state: MllmState) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Rows and slots of all visual tokens, `[n]` each, with their bias `[n]`."""
        slots = [None if row is None else row.slot for row in state.left.rows]
        counts = [0 if slot is None else len(slot) for slot in slots]
        width = self._bias.shape[1]
        if len(counts) != self._bias.shape[0] or (width != 1 and {*counts} != {width}):
            raise UnsupportedCallError(
                f"a bias of shape {tuple(self._bias.shape)} for {len(counts)} prompts with "
                f"{sorted({*counts})} visual tokens at the LLM's input.",
                where="train",
                remedy="Give every prompt one picture of one size, and train the stage before "
                "others inside the LLM.",
            )
        rows = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        slot = torch.cat([slot for slot in slots if slot is not None])
        parts = [row.expand(count) for row, count in zip(self._bias, counts, strict=True)]
        return (rows, slot), torch.cat(parts)


def biased_mask(keys: Tensor, valid: Tensor, given: Any) -> Tensor:
    """An additive mask: the bias where a key may be seen, the least number elsewhere.

    Args:
        keys: bias on the keys, `[B, T]`.
        valid: `[B, T]` False for padding.
        given: the layer's own mask `[B or 1, 1 or H, T, T]`, bool or additive, such as that of a
            sliding window; None for plain causal order.

    Returns:
        `[B, 1 or H, T, T]` of the type of `keys`. Every token sees itself, since an empty softmax
        row is NaN.

    Raises:
        UnsupportedCallError: a mask of another kind.
    """
    length, least = keys.shape[1], torch.finfo(keys.dtype).min
    own = torch.eye(length, dtype=torch.bool, device=keys.device)
    bias = keys[:, None, None, :]
    if given is None:
        causal = own.new_ones(length, length).tril()
        seen = valid.to(keys.device)[:, None, None, :] & causal
    elif not isinstance(given, Tensor) or given.dim() != 4 or given.shape[-1] != length:
        raise UnsupportedCallError(
            f"a bias can't be put on top of {indefinite(type(given).__name__)} as attention mask.",
            where="train",
            remedy="Load the model with attn_implementation='sdpa' or 'eager'.",
        )
    elif given.dtype == torch.bool:
        seen = given
    else:
        seen = given > torch.finfo(given.dtype).min / 2
        bias = bias + given.to(keys).masked_fill(~seen, 0)
    return torch.where(seen | own, bias, least)
