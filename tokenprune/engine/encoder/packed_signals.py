"""Signals of a packed encoder: of its rows, segment by segment, as means over members of units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from tokenprune.engine.encoder.allowance import allowance
from tokenprune.engine.encoder.attention import BlockCall
from tokenprune.engine.encoder.order import Order
from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.pictures import Heads, Pictures, few
from tokenprune.engine.encoder.segments import Segments, Within
from tokenprune.engine.encoder.signals import BlockSignals, of_kept, require_all, take_over
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.lines import each, flat
from tokenprune.engine.stages import EncoderSite
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.interface.records import changed
from tokenprune.interface.signals import PADDED, BlockAttention, BlockBefore, Signal, read

Kind = Literal["masked", "padded", "exact"]
"""Whether windows may be hidden by masks, and segments padded."""


@dataclass(frozen=True)
class PackedStep:
    """One attention over the sequence.

    Attributes:
        query: `[1, H, R, d]`.
        key: the same.
        value: the same.
        segments: within which attention stays.
        biases: added to key logits, see `Segments.biases`.
        order: of the units of these rows.
        others: the segments without masks, and those without padding, of which any signal can be
            computed; None where there are no others.
        gathered: `heads`, once they are.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    segments: Segments | Pictures
    biases: Sequence[Tensor | None]
    order: Order
    others: Callable[[Kind], Within] | None = None
    gathered: list[Heads] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        adapter: PackedEncoderAdapter,
        block: BlockCall,
        state: PackedState,
        hidden: Tensor,
        revived: Sequence[bool],
    ) -> PackedStep:
        """Queries and keys of a block for what enters it.

        Args:
            adapter: the encoder's family.
            block: the block and what it was called with.
            state: of the pass.
            hidden: `[R, D]`.
            revived: of which stacks the dropped units are reconstructed.
        """
        order, cut = state.order, state.cut(block)
        if any(revived):
            hidden, order = state.full(hidden, revived)
            cut = state.cut(block, order)
        query, key, value = adapter.heads(block.block, hidden[None])
        query, key = adapter.rotate(query, key, cut.args, cut.kwargs)
        call = block if order.stackwise else cut
        borders = adapter.borders(call.args, call.kwargs)
        within = _within(borders, state, order, revived)
        others = None
        if order.stackwise and not state.graph:
            others = partial(_within, borders, state, order, revived)
        return cls(query, key, value, *within, order, others)

    @property
    def heads(self) -> Heads:
        """Query, key and value by segment, which the attention and signals read."""
        if not self.gathered:
            query, key, value = map(self.segments.heads, (self.query, self.key, self.value))
            self.gathered.append((query, key, value))
        return self.gathered[0]

    def attended(self, left: Order) -> Tensor:
        """Attended heads `[1, H, R', d]` of the rows of an order of fewer units, or of this one."""
        made = self.segments.attend(self.heads, self.biases)
        if left is self.order:
            return made
        return made[:, :, self.order.find(left.rows)]

    def read(self, wanted: Sequence[Signal]) -> list[dict[str, Tensor]]:
        """Signals of the units of every stack, by name, `[B, K, ...]` each."""
        asked = [signal for signal in wanted if signal.reads(BlockAttention)]
        if not asked:
            return [{} for _ in self.order.shapes]
        if not self.segments.serves(asked):
            if self.others is None:
                raise _padded(asked)
            masked = isinstance(self.segments, Pictures)
            segments, biases = self.others("padded" if masked else "exact")
            return changed(self, segments=segments, biases=biases, gathered=[]).read(wanted)
        parts = [read(asked, view) for view in self._views()]
        rows = {one.name: self.segments.join([part[one.name] for part in parts]) for one in asked}
        means = {name: self.order.means(values) for name, values in rows.items()}
        stacks = range(len(self.order.shapes))
        return [{name: values[one] for name, values in means.items()} for one in stacks]

    def _views(self) -> list[BlockAttention]:
        segments = self.segments
        views = segments.views(self.heads, self.biases)
        if isinstance(segments, Pictures) or segments.share is not None:
            return views
        if segments.count == sum(batch for batch, _ in self.order.shapes):
            return views
        frames = segments.split(self._frames())
        return [
            changed(view, share=length / rows.amax(dim=1))
            for view, rows, length in zip(views, frames, segments.lengths, strict=True)
        ]

    def _frames(self) -> Tensor:
        """`[R]` how many rows the picture or frame of a row has."""
        shapes, members = self.order.shapes, self.order.members
        rows = [count * members for _, count in shapes]
        made = each(
            rows, [b * r for (b, _), r in zip(shapes, rows, strict=True)], self.query.device
        )
        member = self.order.member
        return (made if member is None else made[member]).float()


class PackedSignals(BlockSignals):
    """What has to be captured at which block of a packed encoder."""

    def at_stack(
        self, site: EncoderSite, state: EncoderState, found: dict[str, Tensor], number: int
    ) -> dict[str, Tensor]:
        """What the strategy at a site asks for, of one stack.

        Args:
            site: the site.
            state: of the stack.
            found: what `PackedStep.read` found of it; empty in front of the block.
            number: of the block.

        Raises:
            SignalError: a signal doesn't exist at this block.
        """
        found = _left(found, state, number)
        if state.previous is not None:
            found |= read(site.signals, BlockBefore(state.previous, 0))
        require_all(site, found)
        return found

    def keep_packed(self, state: PackedState, number: int, step: PackedStep) -> None:
        """Capture what comes from the attention of block `number`."""
        found = step.read(self._attention[number])
        for stack, mine in zip(state.stacks, found, strict=True):
            if stack.state.restoring is None:
                mine = _left(mine, stack.state, number)
            take_over(stack.state, mine, {})


def _left(found: dict[str, Tensor], state: EncoderState, number: int) -> dict[str, Tensor]:
    """Signals of the units that are left, where the block's attention sees dropped ones too."""
    revival = state.revived(number)
    return found if revival is None else of_kept(found, revival)


def _within(
    borders: Tensor | Sequence[int] | None,
    state: PackedState,
    order: Order,
    revived: Sequence[bool],
    kind: Kind = "masked",
) -> Within:
    """Segments of an attention and their biases, which many blocks have alike.

    Args:
        borders: as the adapter gives them; of the whole sequence if rows stand stack by stack.
        state: of the pass.
        order: of the rows that enter the block.
        revived: of which stacks the dropped units are reconstructed.
        kind: what is allowed.
    """
    # a compiler finds what is alike by itself
    key = None if state.graph else (id(borders), id(order), *revived, kind)
    if key is not None and key in state.within:
        return state.within[key][1]
    bias = _bias([stack.state for stack in state.stacks], order, revived)
    if order.stackwise and not state.graph:
        segments = _stackwise(borders, state, order, bias, kind)
    else:
        segments = _segments(borders, state, order)
    made = segments, segments.biases(bias)
    if key is not None:
        state.within[key] = (borders, order), made
    return made


def _stackwise(
    borders: Tensor | Sequence[int] | None,
    state: PackedState,
    order: Order,
    bias: Tensor | None,
    kind: Kind,
) -> Segments | Pictures:
    """The segments of rows that stand stack by stack."""
    windows, allowed = state.parted(borders), allowance(order.rows.device)
    shapes = [(batch, count * order.members) for batch, count in order.shapes]
    padded = 1 if kind == "exact" else allowed.padded
    if windows.whole and (few(shapes) or padded == 1):
        return Pictures.of(shapes, bias)
    if windows.whole:
        lengths = [length for batch, length in shapes for _ in range(batch)]
        return Segments.grouped(lengths, order.rows.device, padded=padded)
    if kind == "masked" and few(shapes) and windows.hidden(shapes, allowed):
        return Pictures.of(shapes, bias, windows.number[order.rows])
    return windows.segments(order.rows, state.lengths(order), padded)


def _segments(borders: Tensor | Sequence[int] | None, state: PackedState, order: Order) -> Segments:
    """Within which rows of an order the attention of a block stays.

    Args:
        borders: as the adapter gives them.
        state: of the pass.
        order: of the rows that enter the block.
    """
    device = order.rows.device
    if isinstance(borders, Tensor):  # the models read them too, to split what they attend to
        return Segments.of(borders.tolist(), device)
    if borders is None or list(borders) == state.frames:
        return Segments.of(state.edges(order), device)
    return Segments.padded(borders, order.rows)


def _padded(wanted: Sequence[Signal]) -> UnsupportedCallError:
    """The error for signals of which the functions of some take padding for tokens."""
    one = next(signal for signal in wanted if signal.compute not in PADDED)
    return UnsupportedCallError(
        f"'{one.name}' is computed from windows, which one graph pads to one length.",
        where="torch.compile",
        remedy="Call the encoder without torch.compile.",
    )


def _bias(states: Sequence[EncoderState], order: Order, revived: Sequence[bool]) -> Tensor | None:
    """Logs of sizes `[R]` to add to key logits, if any stack was merged by such a strategy."""
    if not any(state.proportional for state in states):
        return None
    logs = []
    for state, full in zip(states, revived, strict=True):
        size = state.revival.size if full and state.revival is not None else state.size
        bias = state.key_bias(size)
        logs.append(torch.zeros_like(size) if bias is None else bias)
    return order.spread(flat(logs))
