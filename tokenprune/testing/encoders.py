"""Demands on the adapter of a vision encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.attach import attach_stages
from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.testing.keeping import kept_at
from tokenprune.testing.plain.footprint import changes, footprint
from tokenprune.testing.plain.halves import HalvesBesideBlocks
from tokenprune.testing.plain.names import states_of
from tokenprune.testing.record import DoesNotApplyError

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest value, of the same in another order (ours)."""


@dataclass(frozen=True)
class EncoderSubject:
    """A model of the family with its adapter.

    Attributes:
        adapter: the adapter.
        model: the model.
        call: runs it.
    """

    adapter: EncoderAdapter
    model: nn.Module
    call: Callable[[nn.Module], Tensor]

    def shapes(self) -> list[tuple[int, ...]]:
        """How many tokens each used block puts out in a call, and how wide they are."""
        spec, found = self.adapter.spec(), list[tuple[int, ...]]()

        def note(_: nn.Module, __: Any, output: Any) -> None:
            found.append(tuple(states_of(output).shape[1:]))

        with ExitStack() as hooks:
            for block in spec.blocks[: spec.used]:
                hooks.enter_context(block.register_forward_hook(note))
            self.call(self.model)
        return found


def parts(subject: EncoderSubject) -> str:
    """The parts that the spec names are the model's own, and blocks see prefix and grid."""
    spec, own = subject.adapter.spec(), {id(module) for module in subject.model.modules()}
    if id(spec.entry) not in own or not all(id(block) in own for block in spec.blocks):
        return "entry or a block is no part of the model"
    if not 1 <= spec.used <= len(spec.blocks):
        return f"{spec.used} used blocks of {len(spec.blocks)}"
    if len(spec.grid) != 3:
        return f"the grid is {spec.grid}, and it has to be (t, h, w)"
    if spec.packed:
        return ""
    count = spec.prefix + spec.grid[0] * spec.grid[1] * spec.grid[2]
    for number, (length, width) in enumerate(subject.shapes()):
        if length != count:
            return f"block {number} puts out {length} tokens; prefix and grid are {count}"
        if width != spec.width:
            return f"block {number} puts out tokens of width {width}; the spec's is {spec.width}"
    return ""


def halves(subject: EncoderSubject) -> str:
    """Heads, attention, join and feed-forward one after the other are the block."""
    if subject.adapter.spec().packed:
        raise DoesNotApplyError("blocks of a packed encoder heed borders")
    beside = HalvesBesideBlocks(subject.adapter, subject.adapter.spec().used)
    with Patches() as patches:
        beside.install(patches)
        subject.call(subject.model)
    if not beside.difference.values:
        return "no block was called"
    if beside.difference.value > TOLERANCE:
        return f"they differ from the block by {beside.difference.value:.1e} of its largest value"
    return ""


def keep_all(subject: EncoderSubject) -> str:
    """A plan that keeps all tokens changes no bit, and neither does detaching."""
    plain = subject.call(subject.model)
    before = footprint(subject.model)
    for places in ((), (("encoder", None),)):
        plan, stages = kept_at(*places, keep=1.0)
        with attach_stages(subject.model, plan, stages, subject.adapter, checks="always"):
            if not torch.equal(subject.call(subject.model), plain):
                return f"outputs change under a plan with {len(stages)} stages that keeps all"
    left = changes(before, footprint(subject.model))
    if left:
        return f"detaching leaves something: {left[0]}"
    return "" if torch.equal(subject.call(subject.model), plain) else "outputs changed for good"


def shorter(subject: EncoderSubject) -> str:
    """Behind the block where half of the tokens are dropped, blocks see what is left."""
    spec = subject.adapter.spec()
    if spec.packed:
        raise DoesNotApplyError("a packed encoder reads rows of all pictures together")
    count, block = spec.grid[0] * spec.grid[1] * spec.grid[2], spec.used // 2
    plan, stages = kept_at(("encoder", block), keep=0.5)
    with attach_stages(subject.model, plan, stages, subject.adapter, checks="always"):
        found = [length for length, *_ in subject.shapes()]
        output = subject.call(subject.model)
    wanted = [
        spec.prefix + (count // 2 if number >= block else count) for number in range(spec.used)
    ]
    if found != wanted:
        return f"blocks put out {found} tokens, where {wanted} would be right"
    return "" if bool(output.isfinite().all()) else "outputs hold NaN or infinity"


CHECKS: Mapping[str, Callable[[EncoderSubject], str]] = {
    "parts": parts,
    "halves": halves,
    "keep all": keep_all,
    "shorter": shorter,
}
"""Demands by key; the first line of each check's docstring is the demand in words."""
