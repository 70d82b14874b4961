"""Encoder signals, from one block's queries and keys or its output, beside its attention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from tokenprune.engine.encoder.attention import Attended
from tokenprune.engine.encoder.state import EncoderState, Revival
from tokenprune.engine.stages import ResolvedStage
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.signals import Signal
from tokenprune.interface.tokens import Site
from tokenprune.ops import attention_received, attention_row, take

FROM_ELSEWHERE = frozenset({Signal.COMPANIONS, Signal.QUESTION_STATE})
"""Signals of pre-LLM stages that no encoder block computes."""
OF_OUTPUT = frozenset({Signal.HIDDEN, Signal.CLS_SIMILARITY})
"""Signals that are read from what a block puts out."""


def encoder_signals(
    wanted: Iterable[Signal], query: Tensor, key: Tensor, bias: Tensor | None, prefix: int
) -> dict[str, Tensor]:
    """Signals by name.

    Args:
        wanted: what to compute; names that don't come from attention are left out.
        query: `[B, H, P + N, d]`.
        key: `[B, H, P + N, d]`.
        bias: `[B, P + N]` added to key logits, or None.
        prefix: P, tokens in front of the patches.

    Returns:
        `[B, N]` float32 each, keys `[B, N, d]`.
    """
    found = {}
    for signal in wanted:
        value = _signal(signal.kind, query, key, bias, prefix)
        if value is not None:
            found[signal.name] = value
    return found


def _signal(
    signal: Signal, query: Tensor, key: Tensor, bias: Tensor | None, prefix: int
) -> Tensor | None:
    scale = float(query.shape[-1] ** -0.5)
    if signal == Signal.ATTENTION_RECEIVED:
        return attention_received(query, key, bias=bias, skip=prefix)
    if signal == Signal.ATTENTION_GIVEN:
        return attention_given(query, key, bias, prefix)
    if signal == Signal.CLS_ATTENTION:
        return attention_row(query, key, bias=bias, row=0)[:, prefix:]
    if signal == Signal.KEYS:
        return key[:, :, prefix:].mean(dim=1)
    patches_q, patches_k = query[:, :, prefix:].float(), key[:, :, prefix:].float()
    if signal == Signal.LOGITS_RECEIVED:  # the mean over queries of q.k is mean(q).k
        mean_query = patches_q.mean(dim=2, keepdim=True)
        return (patches_k * mean_query).sum(-1).mean(dim=1) * scale
    if signal == Signal.LOGITS_GIVEN:
        mean_key = patches_k.mean(dim=2, keepdim=True)
        return (patches_q * mean_key).sum(-1).mean(dim=1) * scale
    return None


def attention_given(query: Tensor, key: Tensor, bias: Tensor | None, prefix: int) -> Tensor:
    """Row mean of softmax(q k^T) over patch keys, `[B, N]`: (1 - weight on the prefix) / N.

    A softmax row sums to one, so only the prefix columns have to be looked at.
    """
    count = query.shape[2] - prefix
    if prefix == 0:
        return query.new_full((query.shape[0], count), 1.0 / count).float()
    heads = range(query.shape[1])  # a head at a time, so that no [B, H, T, T] exists
    shares = torch.stack([_prefix_share(query[:, h], key[:, h], bias, prefix) for h in heads])
    return (1.0 - shares.mean(dim=0)) / count


def _prefix_share(query: Tensor, key: Tensor, bias: Tensor | None, prefix: int) -> Tensor:
    logits = query.float() @ key.float().transpose(-1, -2) * float(query.shape[-1] ** -0.5)
    if bias is not None:
        logits = logits + bias[:, None, :].float()
    return logits.softmax(-1)[:, prefix:, :prefix].sum(-1)


class BlockSignals:
    """What has to be captured at which block; other blocks keep nothing.

    Args:
        stages: the plan's pre-LLM stages.
        used: encoder blocks that run; signals without a block are of the last one.
    """

    def __init__(self, stages: Sequence[ResolvedStage], used: int) -> None:
        site = Site("pre_llm", used, used)
        wanted = {signal for stage in stages for signal in stage.strategy.signals(site)}
        self._attention: dict[int, list[Signal]] = defaultdict(list)
        self._output: dict[int, list[Signal]] = defaultdict(list)
        for signal in sorted(wanted, key=str):
            if signal.kind in FROM_ELSEWHERE:
                continue
            block = used - 1 if signal.block is None else signal.block
            of = self._output if signal.kind in OF_OUTPUT else self._attention
            of[block].append(signal)

    def reads(self, number: int) -> bool:
        """Whether the queries and keys of a block are asked for."""
        return number in self._attention

    def keep_attention(
        self,
        adapter: EncoderAdapter,
        block: nn.Module,
        state: EncoderState,
        number: int,
        hidden: Tensor,
        step: Attended,
    ) -> None:
        """Capture what comes from the attention of block `number`.

        Args:
            adapter: the encoder's family.
            block: the block.
            state: of the pass; it takes the signals.
            number: of the block.
            hidden: what entered the block, `[B, P + N, D]`.
            step: what its attention left behind.
        """
        query, key, bias = step.query, step.key, step.bias
        revival = state.revival
        if revival is not None and revival.reconstruction.restore and number >= revival.until:
            # all tokens leave this encoder, so all of them need a score
            query, key, _ = adapter.heads(block, revival.full(hidden, state.prefix))
            bias = state.key_bias(revival.size)
        found = encoder_signals(self._attention[number], query, key, bias, state.prefix)
        if revival is not None and not revival.reconstruction.restore and number < revival.until:
            found = _of_kept(found, revival)
        _take_over(state, found)

    def keep_output(self, state: EncoderState, number: int, hidden: Tensor) -> None:
        """Capture what block `number` put out, `[B, P + K, D]`; a view where nothing was dropped.

        Tokens that will be restored are reconstructed.
        """
        if number not in self._output:
            return
        revival = state.revival
        if revival is not None and revival.reconstruction.restore:
            hidden = revival.full(hidden, state.prefix)
        patches = hidden[:, state.prefix :]
        found = {}
        for signal in self._output[number]:
            alike = signal.kind == Signal.CLS_SIMILARITY
            found[signal.name] = _cosine(hidden[:, :1], patches) if alike else patches
        _take_over(state, found)


def _cosine(one: Tensor, patches: Tensor) -> Tensor:
    """Cosine of `[B, 1, D]` with each of `[B, K, D]`, `[B, K]` float32."""
    return cosine_similarity(one.float(), patches.float(), dim=-1)


def _take_over(state: EncoderState, found: Mapping[str, Tensor]) -> None:
    """Put signals beside the tokens that they belong to: those that leave the encoder."""
    revival = state.revival
    if revival is not None and revival.reconstruction.restore:
        revival.signals = {**revival.signals, **found}
    else:
        state.signals = {**state.signals, **found}


def _of_kept(found: Mapping[str, Tensor], revival: Revival) -> dict[str, Tensor]:
    """Signals of the kept ones of reconstructed tokens."""
    return {name: take(value, revival.rows) for name, value in found.items()}
