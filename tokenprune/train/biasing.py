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
        bias: `[B, N]` for the visual tokens at the LLM's input, or `[B, 1]` for all of a row.
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
        least = torch.finfo(hidden.dtype).min
        keys = torch.zeros(valid.shape, dtype=hidden.dtype, device=hidden.device)
        place, bias = self._placed(state)
        keys = keys.index_put(
            tuple(index.to(hidden.device) for index in place), bias.to(hidden).clamp(min=least)
        )
        length = valid.shape[1]
        own = torch.eye(length, dtype=torch.bool, device=hidden.device)
        # padding sees itself, since an empty softmax row is NaN
        seen = (valid[:, None, :] & own.new_ones(length, length).tril()) | own
        return keys[:, None, :].expand(seen.shape).masked_fill(~seen, least)[:, None]

    def _placed(self, state: MllmState) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Rows and columns of all visual tokens, `[n]` each, with their bias `[n]`."""
        columns = [None if row is None else row.column for row in state.rows]
        counts = [0 if column is None else len(column) for column in columns]
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
        column = torch.cat([column for column in columns if column is not None])
        parts = [row.expand(count) for row, count in zip(self._bias, counts, strict=True)]
        return (rows, column), torch.cat(parts)
