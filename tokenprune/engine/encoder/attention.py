"""The first half of an encoder block, with its queries and keys at hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tokenprune.engine.encoder.state import EncoderState
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.calls import Arguments, Given
from tokenprune.ops import attend as attend_once
from tokenprune.ops import attend_margins
from tokenprune.ops.attend_short import attend_short_op, suits


class BlockCall(NamedTuple):
    """One call of a block by its encoder, which hands it arguments for all N patches.

    Attributes:
        adapter: the encoder's family.
        block: the block.
        number: of the block among those of the encoder, from 0.
        args: what the block was called with behind the hidden states.
        kwargs: the same, by name.
    """

    adapter: EncoderAdapter
    block: nn.Module
    number: int
    args: tuple[Any, ...]
    kwargs: Arguments

    def arguments(self, index: Tensor) -> Given:
        """`args` and `kwargs` for tokens that hold the places `[B, K]`."""
        return self.adapter.arguments(self.args, self.kwargs, index)

    def turning(self, index: Tensor) -> Given:
        """What `rotate` reads of `args` and `kwargs`, for rows `[R']` in any order."""
        adapter: Any = self.adapter
        made: Given = adapter.turning(self.args, self.kwargs, index)
        return made

    def heads(self, hidden: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key, value `[B, H, P + K, d]` of `[B, P + K, D]`, which holds places `[B, K]`."""
        query, key, value = self.adapter.heads(self.block, hidden)
        return *self.adapter.rotate(query, key, *self.arguments(index)), value

    def join(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Input `[B, T, D]` and attended heads `[B, H, T, d]` -> first half `[B, T, D]`."""
        return self.adapter.join(self.block, hidden, attended)

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """Second half: `[B, T, D]` -> `[B, T, D]`."""
        return self.adapter.feed_forward(self.block, hidden)


class Projected(NamedTuple):
    """What one attention is made of, and what tokens receive of it.

    Attributes:
        query: `[B, H, T, d]`; of the reconstructed full set while tokens are revived.
        key: `[B, H, T', d]`.
        value: `[B, H, T', d]`.
        bias: `[B, T']` added to key logits, or None.
        received: float32 `[B, N]` mean weight that patches receive from patches, behind an
            attention that was asked for it.
        given: float32 `[B, N]` mean weight that patches give to patches, likewise.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    received: Tensor | None = None
    given: Tensor | None = None


def project(block: BlockCall, state: EncoderState, hidden: Tensor) -> Projected:
    """Queries, keys and values of a block, which `hidden` `[B, P + N, D]` enters."""
    revival = state.revived(block.number)
    if revival is None:
        heads = block.heads(hidden, state.rows(state.index))
        return Projected(*heads, state.key_bias(state.size))
    heads = block.heads(state.full(hidden), state.revived_rows(revival))
    return Projected(*heads, state.key_bias(revival.size))


def attend(
    block: BlockCall,
    state: EncoderState,
    hidden: Tensor,
    parts: Projected,
    *,
    sums: bool = False,
    gives: bool = False,
) -> tuple[Tensor, Projected]:
    """Attention half of a block, residual included: `[B, P + N, D]` -> `[B, P + N, D]`.

    Args:
        block: the block and what it was called with.
        state: of the pass.
        hidden: what enters the block.
        parts: see `project`.
        sums: whether the weight that each patch receives is asked for, at a block whose tokens are
            reduced, which therefore needn't give the plain model's bits.
        gives: whether the weight that each patch gives is asked for besides.

    Returns:
        What leaves the half, and the parts, with that weight.
    """
    query, key, value, bias = parts[:4]
    revival = state.revived(block.number)
    if revival is not None:
        # the kept rows attend to everything; nobody reads the rows of dropped tokens
        own = revival.rows if state.members is None else state.members.slots(revival.rows)
        rows = kept_rows(own, state.prefix)[:, None, :, None]
        query = query.gather(2, rows.expand(-1, query.shape[1], -1, query.shape[3]))
    elif sums:
        # without class or register tokens all that a patch gives goes to patches
        both = gives and state.prefix > 0
        attended, *means = (attend_margins if both else attend_once)(
            query, key, value, bias=bias, skip=state.prefix
        )
        parts = Projected(query, key, value, bias, *means)
        return block.join(hidden, attended), parts
    return block.join(hidden, attention(query, key, value, bias)), parts


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention with an additive bias per key `[B, T]`: `[B, H, T, d]`."""
    if bias is None:
        return scaled_dot_product_attention(query, key, value)
    if suits(query, key):
        attended: Tensor = attend_short_op(query, key, value, bias)  # of the adapter's shapes
        return attended
    mask = bias[:, None, None, :].to(query.dtype)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def kept_rows(rows: Tensor, prefix: int) -> Tensor:
    """Rows of kept patches `[B, K]` as rows of the whole sequence, prefix first: `[B, P + K]`."""
    front = torch.arange(prefix, device=rows.device).expand(rows.shape[0], prefix)
    return torch.cat((front, rows + prefix), dim=1)


def advance_companions(block: BlockCall, state: EncoderState, parts: Projected) -> None:
    """Run the companion tokens `[B, G, D]` through a block.

    They attend to the image's tokens and to one another; no image token attends to them, so the
    image's states stay what they are without them (VisToG's isolated attention). They hold no
    place of a patch, so nothing rotates them.
    """
    for number, companion in state.companions.items():
        query, key, value = block.adapter.heads(block.block, companion)
        keys = torch.cat((parts.key, key), dim=2)
        values = torch.cat((parts.value, value), dim=2)
        bias = parts.bias
        if bias is not None:
            bias = torch.cat((bias, bias.new_zeros(bias.shape[0], key.shape[2])), dim=1)
        attended = attention(query, keys, values, bias)
        joined = block.join(companion, attended)
        state.companions[number] = block.feed_forward(joined)
