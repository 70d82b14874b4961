"""What strategies are shown of packed towers, against the attention of a full-length run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.adapters.packed_oracle import hidden_units, order, removed, turned
from tests.packed import GRIDS, MEMBERS, UNIT_WIDTH, call, plan, run, tower
from tests.plugin import registering
from tokenprune import Signal
from tokenprune.errors import SignalError
from tokenprune.interface.placement import Encoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import BlockAttention
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.plugins.host import register_plugin

BLOCK = 2
ASKED = (
    Signal.ATTENTION_RECEIVED,
    Signal.ATTENTION_GIVEN,
    Signal.LOGITS_RECEIVED,
    Signal.KEYS,
    Signal.PREVIOUS_HIDDEN,
)
FIRST = {"strategy": "random", "layer": 0, "keep": 0.5}
WATCH = {"strategy": "t-watch", "layer": BLOCK, "keep": 0.5}


class Watch(PruningStrategy[StrategyParams]):
    """Keep the first units, and put what was shown aside."""

    name = "t-watch"
    stages = (Encoder(),)
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return ASKED

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(first, tokens.count)


class Ahead(Watch):
    """Asks for a value of tokens in front, of which a packed tower has none."""

    name = "t-ahead"

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (
            Signal("t_front", "[B, P] none", BlockAttention, lambda view: view.key[:, 0, :0, 0]),
        )


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Watch.seen.clear()
    with register_plugin(registering(Watch, Ahead), "packed-signals"):
        yield


@dataclass
class Full:
    """A block of the full-length run, by row in the tower's order.

    Attributes:
        hidden, before: `[R, D]` behind its attention half, and what entered the block before.
        key: `[H, R, d]`.
        logits: `[H, R, R]`, infinitely low where a query sees no key.
        left: `[R]` rows that are left.
        row: `[R]` where the rows of units stand, unit by unit.
    """

    hidden: Tensor
    before: Tensor
    key: Tensor
    logits: Tensor
    left: Tensor
    row: Tensor


def full(model: Any, given: dict[str, Tensor], gone: dict[int, Tensor]) -> Full:
    found: dict[int, tuple[Tensor, dict[str, Any]]] = {}
    hooks = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs, at=at: found.update({at: (args[0], kwargs)}),
            with_kwargs=True,
        )
        for at, block in enumerate(model.blocks)
    ]
    with torch.no_grad(), hidden_units(model, gone, given["grid_thw"]):
        model(**given)
        states, arguments = found[BLOCK]
        block, count = model.blocks[BLOCK], len(states)
        normed = block.norm1(states)
        attended = states + block.attn(normed, **arguments)
        query, key, _ = (
            block.attn.qkv(normed).view(count, 3, block.attn.num_heads, -1).permute(1, 2, 0, 3)
        )
    for hook in hooks:
        hook.remove()
    query, key = (turned(part, *arguments["position_embeddings"]) for part in (query, key))
    standing = torch.tensor(order(model, given["grid_thw"]))
    left = (~gone[BLOCK])[standing].repeat_interleave(MEMBERS)
    borders = arguments["cu_seqlens"][1:].long()
    segment = torch.bucketize(torch.arange(count), borders, right=True)
    seen = (segment[:, None] == segment) & left[:, None] & left
    logits = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    row = standing.argsort()[:, None] * MEMBERS + torch.arange(MEMBERS)
    return Full(attended, found[BLOCK - 1][0], key, logits, left, row)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_signals_are_means_over_members_and_over_the_picture(family: str) -> None:
    model, given = tower(family, torch.float64), call(dtype=torch.float64)
    with tokenprune.attach(model, plan(FIRST, WATCH)) as handle:
        run(model, given)
    gone = removed(handle.trace, len(model.blocks))
    whole = full(model, given, gone)
    weights = whole.logits.softmax(-1).nan_to_num()
    firsts = {(1, 2, 4): [[0], [28]], (1, 4, 5): [[8]], (1, 2, 5): [[36], [46]]}
    assert {tokens.grid for tokens in Watch.seen} == firsts.keys()
    for tokens in Watch.seen:
        for picture, (first,) in enumerate(firsts[tokens.grid]):
            units = first + tokens.index[picture]
            assert not bool(gone[BLOCK][units].any())
            rows = whole.row[units]
            shown = {name: value[picture] for name, value in tokens.signals.items()}
            own = rows.flatten()
            inside = weights[:, own][:, :, own]
            received = inside.mean(dim=(0, 1)).view(rows.shape).mean(1)
            near(shown["attention_received"], received)
            near(shown["attention_given"], inside.mean(dim=(0, 2)).view(rows.shape).mean(1))
            part = whole.logits[:, own][:, :, own]
            seen = part.isfinite()
            logits = part.masked_fill(~seen, 0).sum(1).mean(0) / seen[0].sum(0)
            near(shown["logits_received"], logits.view(rows.shape).mean(1))
            near(shown["keys"], whole.key.mean(0)[rows].mean(1))
            assert tokens.hidden.shape[2] == UNIT_WIDTH
            near(tokens.hidden[picture], whole.hidden[rows].flatten(1))
            near(shown["previous_hidden"], whole.before[rows].flatten(1))


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-6, rtol=1e-5)


def test_windows_of_different_sizes_count_by_their_queries() -> None:
    """Every query gives one in all, so a picture's units receive one in all, cut or not."""
    model = tower("qwen2_5_vl")
    with tokenprune.attach(model, plan(FIRST, WATCH)):
        run(model, call())
    assert len(Watch.seen) == len(set(GRIDS))
    for tokens in Watch.seen:
        total = tokens.signal(Signal.ATTENTION_RECEIVED).sum(dim=1) * MEMBERS
        near(total, torch.ones_like(total))


def test_values_of_tokens_in_front_are_refused() -> None:
    with pytest.raises(SignalError, match="t_front"):
        tokenprune.attach(tower(), plan({"strategy": "t-ahead", "layer": 1, "keep": 0.5}))
