"""A differentiable bias on the attention keys of visual tokens, inside the LLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenprune.adapter import MllmAdapter
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current
from tokenprune.engine.mllm_state import MllmState
from tokenprune.errors import UnsupportedCallError


class KeyBias:
    """Overrides the LLM's layers, outside of the engine's own overrides, for one forward.

    The mask is built anew from the causal order and the padding, as an additive one of the length
    of the LLM's input; stages that shorten the sequence cut it as any other mask.

    Args:
        attachment: whose model runs; its stages must not be empty.
        adapter: the model's family.
        bias: `[B, N]` for the visual tokens at the LLM's input.
        first: the first layer that it acts in.

    Raises:
        UnsupportedCallError: the model runs FlashAttention, which knows no additive masks.
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
        self._attachment, self._bias, self._first = attachment, bias, first
        self._mask: Tensor | None = None
        for number, layer in enumerate(adapter.spec().layers):
            attachment.patches.override(layer, "forward", self._layer(number))

    def _layer(self, number: int) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._mask is None:
                self._mask = self._build(hidden)
            if number >= self._first:
                kwargs = {**kwargs, "attention_mask": self._mask}
            return original(hidden, *args, **kwargs)

        return forward

    def _build(self, hidden: Tensor) -> Tensor:
        """`[B, 1, T, T]`: the bias where a key may be seen, the least number elsewhere."""
        call = current(self._attachment)
        state = None if call is None else call.mllm
        assert isinstance(state, MllmState)
        assert state.layout is not None
        valid = state.layout.base.valid.to(hidden.device)
        columns = self._columns(state).to(hidden.device)
        least = torch.finfo(hidden.dtype).min
        bias = self._bias.to(hidden).clamp(min=least)
        keys = torch.zeros(valid.shape, dtype=hidden.dtype, device=hidden.device)
        keys = keys.scatter(1, columns, bias)
        length = valid.shape[1]
        own = torch.eye(length, dtype=torch.bool, device=hidden.device)
        # padding sees itself, since an empty softmax row is NaN
        seen = (valid[:, None, :] & own.new_ones(length, length).tril()) | own
        return keys[:, None, :].expand(seen.shape).masked_fill(~seen, least)[:, None]

    def _columns(self, state: MllmState) -> Tensor:
        rows = [row for row in state.rows if row is not None]
        counts = {row.column.shape[0] for row in rows}
        if len(rows) != self._bias.shape[0] or counts != {self._bias.shape[1]}:
            raise UnsupportedCallError(
                f"a bias of shape {tuple(self._bias.shape)} for {len(rows)} prompts with "
                f"{sorted(counts)} visual tokens.",
                where="train",
                remedy="Give every prompt one picture, and all pictures one size.",
            )
        return torch.stack([row.column for row in rows])
