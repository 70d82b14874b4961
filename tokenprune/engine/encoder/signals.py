"""Encoder signals, from one block's queries and keys or its output, beside its attention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from tokenprune.engine.encoder.attention import BlockCall, Projected
from tokenprune.engine.encoder.revival import Revival
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.stages import EncoderSite, ResolvedStage, wanted
from tokenprune.errors import SignalError
from tokenprune.interface.signals import (
    BlockAttention,
    BlockBefore,
    BlockOutput,
    ClassAttention,
    ClassFeature,
    Signal,
    View,
    both_means,
    read,
)
from tokenprune.interface.sites import Site
from tokenprune.interface.specs import EncoderSpec
from tokenprune.ops import attention_margins, take


class BlockSignals:
    """What has to be captured at which block; other blocks keep nothing.

    Args:
        stages: the plan's pre-LLM stages.
        spec: the encoder; signals without a block are of the last used one.
    """

    def __init__(self, stages: Sequence[ResolvedStage], spec: EncoderSpec) -> None:
        site = Site.behind(spec.used)
        self._class_token = spec.class_token
        self._attention: dict[int, list[Signal]] = defaultdict(list)
        self._output: dict[int, list[Signal]] = defaultdict(list)
        for kept, view in ((self._attention, BlockAttention), (self._output, BlockOutput)):
            for signal in wanted(stages, site, view):
                kept[spec.used - 1 if signal.block is None else signal.block].append(signal)

    @property
    def attention(self) -> bool:
        """Whether the queries and keys of any block are asked for."""
        return bool(self._attention)

    @property
    def asks(self) -> bool:
        """Whether anything of any block is asked for."""
        return bool(self._attention or self._output)

    def reads(self, number: int) -> bool:
        """Whether the queries and keys of a block are asked for."""
        return number in self._attention

    def reads_output(self, number: int) -> bool:
        """Whether the output of a block is asked for."""
        return number in self._output

    def at_site(
        self, site: EncoderSite, state: EncoderState, parts: Projected | None
    ) -> dict[str, Tensor]:
        """What the strategy at an encoder site asks for, `[B, N, ...]` each.

        Args:
            site: the block and the stage that acts there.
            state: of the pass.
            parts: of the block's attention; None in front of the block.

        Raises:
            SignalError: a signal doesn't exist at this block.
        """
        wanted = site.signals
        found: dict[str, Tensor] = {}
        if parts is not None and wanted:
            means = {"received": parts.received, "given": parts.given}
            view = self._view(*parts[:4], state.prefix, means)
            found, prefixed = _parted(state, wanted, view)
            found.update(prefixed)
        if state.previous is not None:
            before = BlockBefore(state.previous, state.prefix)
            if state.members is not None:
                before = BlockBefore(state.units(state.previous), 0)
            found |= read(wanted, before)
        require_all(site, found)
        return found

    def keep_attention(
        self, block: BlockCall, state: EncoderState, hidden: Tensor, parts: Projected
    ) -> None:
        """Capture what comes from the attention of a block.

        Args:
            block: the block and what it was called with.
            state: of the pass; it takes the signals.
            hidden: what entered the block, `[B, P + N, D]`.
            parts: of its attention.
        """
        query, key, value, bias = parts[:4]
        known, restoring, number = state.revived(block.number), state.restoring, block.number
        if restoring is not None and number >= restoring.until:
            # all tokens leave this encoder, so all of them need a score
            query, key, value = block.heads(state.full(hidden), state.revived_rows(restoring))
            bias = state.key_bias(restoring.size)
        wanted = self._attention[number]
        means = _means(wanted, query, key, bias, state.prefix)
        view = self._view(query, key, value, bias, state.prefix, means)
        found, prefixed = _parted(state, wanted, view)
        if known is not None and restoring is None:
            found = of_kept(found, known)
        take_over(state, found, prefixed)

    def keep_attention_ahead(self, block: BlockCall, state: EncoderState, hidden: Tensor) -> None:
        """Capture what a block behind the used ones would compute of their output.

        Args:
            block: the block, with what the last used one was called with.
            state: of the pass; it takes the signals.
            hidden: what enters it, `[B, P + K, D]`.
        """
        revival, rows, size = state.restoring, state.rows(state.index), state.size
        if revival is not None:
            hidden, rows, size = state.full(hidden), state.revived_rows(revival), revival.size
        query, key, value = block.heads(hidden, rows)
        wanted, bias = self._attention[block.number], state.key_bias(size)
        means = _means(wanted, query, key, bias, state.prefix)
        view = self._view(query, key, value, bias, state.prefix, means)
        take_over(state, *_parted(state, wanted, view))

    def keep_output(self, state: EncoderState, number: int, hidden: Tensor) -> None:
        """Capture what block `number` put out, `[B, P + K, D]`; a view where nothing was dropped.

        Tokens that will be restored are reconstructed.
        """
        if not self.reads_output(number):
            return
        if state.restoring is not None:
            hidden = state.full(hidden)
        kind = ClassFeature if self._class_token else BlockOutput
        wanted = self._output[number]
        found, prefixed = _parted(state, wanted, kind(hidden, state.prefix))
        if state.members is not None:
            wide = [signal for signal in wanted if signal.per_token and signal.needs is BlockOutput]
            found |= read(wide, BlockOutput(state.units(hidden), 0))
        take_over(state, found, prefixed)

    def _view(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        prefix: int,
        means: Mapping[str, Tensor | None],
    ) -> BlockAttention:
        kind = ClassAttention if self._class_token else BlockAttention
        # all fields, see `interface.records`
        return kind(
            *(query, key, value, bias, prefix),
            share=None,
            received=means.get("received"),
            given=means.get("given"),
            real=None,
            mask=None,
        )


def _means(
    wanted: Sequence[Signal], query: Tensor, key: Tensor, bias: Tensor | None, prefix: int
) -> dict[str, Tensor]:
    """What patches receive and what they give, of the same weights, if both are asked for."""
    if not prefix or not both_means(wanted):
        return {}
    received, given = attention_margins(query, key, bias=bias, skip=prefix)
    return {"received": received, "given": given}


def require_all(site: EncoderSite, found: Mapping[str, Tensor]) -> None:
    """Refuse a site at which a signal that its strategy asks for doesn't exist.

    Raises:
        SignalError: naming it.
    """
    if len(found) == len(site.signals):
        return  # nothing is found that wasn't asked for
    missing = [signal for signal in site.signals if signal.name not in found]
    if missing:
        raise SignalError(
            f"'{site.stage.strategy.name}' needs {', '.join(map(str, missing))}, which doesn't "
            f"exist at {site.site}.",
            where=site.stage.where,
            remedy="Let it act at a later block.",
        )


def _parted(
    state: EncoderState, wanted: Sequence[Signal], view: View
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Signals of the tokens, means over the members of units, and those of the prefix tokens."""
    found, prefixed = read(wanted, view), {}
    for signal in wanted:
        if signal.name in found and not signal.per_token:
            prefixed[signal.name] = found.pop(signal.name)
    if state.members is None:
        return found, prefixed
    return {name: state.means(value) for name, value in found.items()}, prefixed


def take_over(
    state: EncoderState, found: Mapping[str, Tensor], prefixed: Mapping[str, Tensor]
) -> None:
    """Put signals beside the tokens that they belong to: those that the encoder hands on."""
    state.prefixed = {**state.prefixed, **prefixed}
    revival = state.restoring
    if revival is not None:
        revival.signals = {**revival.signals, **found}
    else:
        state.signals = {**state.signals, **found}


def of_kept(found: Mapping[str, Tensor], revival: Revival) -> dict[str, Tensor]:
    """Signals `[B, N, ...]` of reconstructed tokens as those of the kept ones, `[B, K, ...]`."""
    return {name: take(value, revival.rows) for name, value in found.items()}
