"""What one block of a packed tower computes, from a full-length run, and who looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.adapters.packed_oracle import hidden_units, normed, order, projected, taken, turned
from tests.packed import MEMBERS
from tokenprune import Signal
from tokenprune.interface.placement import Encoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens

BLOCK = 2
"""With attention in windows, where there are some."""
ATTENDED = (
    Signal.ATTENTION_RECEIVED,
    Signal.ATTENTION_GIVEN,
    Signal.LOGITS_RECEIVED,
    Signal.KEYS,
)


class Watch(PruningStrategy[StrategyParams]):
    """Keep the first units, and put what was shown aside."""

    name = "t-watch"
    stages = (Encoder(), PreLlm())
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        if site.stage == "encoder":
            return (*ATTENDED, Signal.PREVIOUS_HIDDEN)
        return (*(signal.at(BLOCK) for signal in ATTENDED), Signal.HIDDEN.at(BLOCK - 1))

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(first, tokens.count)


@dataclass
class Full:
    """A block of the full-length run, by row in the tower's order.

    Attributes:
        hidden, entered, before: `[R, D]` behind its attention half, what entered the block, and
            what entered the one before.
        key: `[H, R, d]`.
        logits: `[H, R, R]`, infinitely low where a query sees no key.
        left: `[R]` rows that are left.
        row: `[R]` where the rows of units stand, unit by unit.
    """

    hidden: Tensor
    entered: Tensor
    before: Tensor
    key: Tensor
    logits: Tensor
    left: Tensor
    row: Tensor

    def check(self, shown: Mapping[str, Tensor], units: Tensor) -> None:
        """Compare signals of the attention, by name, with means over members and the picture.

        Args:
            shown: `[K, ...]` of one picture or frame.
            units: `[K]` the numbers of its units.
        """
        rows = self.row[units]
        own = rows.flatten()
        part = self.logits[:, own][:, :, own]
        inside = self.logits.softmax(-1).nan_to_num()[:, own][:, :, own]
        near(shown["attention_received"], inside.mean(dim=(0, 1)).view(rows.shape).mean(1))
        near(shown["attention_given"], inside.mean(dim=(0, 2)).view(rows.shape).mean(1))
        seen = part.isfinite()
        logits = part.masked_fill(~seen, 0).sum(1).mean(0) / seen[0].sum(0)
        near(shown["logits_received"], logits.view(rows.shape).mean(1))
        near(shown["keys"], self.key.mean(0)[rows].mean(1))


def full(
    model: Any, given: dict[str, Tensor], gone: Mapping[int, Tensor], number: int = BLOCK
) -> Full:
    """What block `number` computes in a full-length run.

    Args:
        model: the tower.
        given: its arguments.
        gone: by block, `[U]` units that are hidden.
        number: of the block.
    """
    found: dict[int, tuple[Tensor, dict[str, Any]]] = {}
    hooks = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs, at=at: found.update({at: (args[0], kwargs)}),
            with_kwargs=True,
        )
        for at, block in enumerate(model.blocks)
    ]
    with torch.no_grad(), hidden_units(model, (gone, given["grid_thw"])):
        model(**taken(model, given))
        states, arguments = found[number]
        block, count = model.blocks[number], len(states)
        entered = block.norm1(states)
        attended = states + block.attn(entered, **arguments)
        query, key, _ = (
            projected(block.attn, entered)
            .view(count, 3, block.attn.num_heads, -1)
            .permute(1, 2, 0, 3)
        )
    for hook in hooks:
        hook.remove()
    query, key = normed(block.attn, query, key)
    query, key = (turned(part, *arguments["position_embeddings"]) for part in (query, key))
    standing = torch.tensor(order(model, given["grid_thw"]))
    left = (~gone[number])[standing].repeat_interleave(MEMBERS)
    borders = arguments["cu_seqlens"][1:].long()
    segment = torch.bucketize(torch.arange(count), borders, right=True)
    seen = (segment[:, None] == segment) & left[:, None] & left
    logits = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    row = standing.argsort()[:, None] * MEMBERS + torch.arange(MEMBERS)
    return Full(attended, states, found[max(number - 1, 0)][0], key, logits, left, row)


def near(found: Tensor, expected: Tensor) -> None:
    """Signals are float32."""
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-6, rtol=1e-5)
