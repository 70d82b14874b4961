"""Stages inside towers whose answers are known, and what they have to come to.

Which patches of which piece leave is noted by the strategies themselves; no state is the engine's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pytest
import torch
from torch import Tensor, nn

from tests.families.plans import core
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.interface.placement import Encoder

PassT = TypeVar("PassT")
Short = Callable[[Callable[..., Any], bool], Callable[..., Any]]
"""What a block runs in place of its forward, given that and whether the block is the first."""
TOWERS = ("vision_tower", "image_tower", "video_tower", "vision_model", "vision_encoder", "visual")
BLOCKS = ("EncoderLayer", "VisionLayer", "EvaBlock")
"""Ends of the names of the classes of blocks."""
LAYER = 1
"""Block in which the strategies below act."""


class Drop(PruningStrategy[StrategyParams]):
    """Drop those whose first feature is small, between attention and MLP of a block."""

    name = "t-tower-drop"
    stages = (Encoder(layer=LAYER),)
    gone: ClassVar[list[tuple[Tensor, int]]] = []

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        order = tokens.hidden[..., 0].argsort(dim=1)
        self.gone.append((order[:, : budget.remove], tokens.count))
        return Reduction.keep(order[:, budget.remove :].sort(dim=1).values, tokens.count)


class Pair(PruningStrategy[StrategyParams]):
    """Merge every third token into the one behind it, in front of a block."""

    name = "t-tower-pair"
    stages = (Encoder(layer=LAYER, where="before"),)
    made: ClassVar[list[tuple[int, int]]] = []
    """Of every pass, how many were merged and how many there were."""

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.made.append((budget.remove, tokens.count))
        source = torch.arange(0, 3 * budget.remove, 3).expand(tokens.hidden.shape[0], -1)
        return Reduction.merge(source, source + 1, tokens.size)


@dataclass(frozen=True)
class Old:
    """The dropped tokens as they were.

    Attributes:
        before: `[B, N, D]` all tokens.
        kept: `[B, K]` those that went on.
        blocks: see `Reconstruction`.
        restore: the same.
    """

    before: Tensor
    kept: Tensor
    blocks: int = 1
    restore: bool = True

    def full(self, hidden: Tensor) -> Tensor:
        return self.before.scatter(1, self.kept[..., None].expand_as(hidden), hidden)


class Revive(PruningStrategy[StrategyParams]):
    """Drop as `Drop`, in front of a block that still sees all, and restore the old states."""

    name = "t-tower-revive"
    stages = (Encoder(layer=LAYER, where="before", restores=True),)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        order = tokens.hidden[..., 0].argsort(dim=1)
        Drop.gone.append((order[:, : budget.remove], tokens.count))
        kept = order[:, budget.remove :].sort(dim=1).values
        return Reduction.keep(kept, tokens.count, reconstruction=Old(tokens.hidden, kept))


PLUGIN = registering(Drop, Pair, Revive)


def towers(model: Any) -> list[list[nn.Module]]:
    """Blocks of every tower of a model."""
    found = [getattr(core(model), name) for name in TOWERS if hasattr(core(model), name)]
    return [
        [part for part in tower.modules() if type(part).__name__.endswith(BLOCKS)]
        for tower in found
    ]


def members(units: Tensor, count: int, patches: int) -> Tensor:
    """Patches of units of a square grid: `[..., R]` -> `[..., R, m]`, by arithmetic.

    Args:
        units: numbers of units.
        count: units of the grid.
        patches: patches of the grid.
    """
    wide, side = math.isqrt(count), math.isqrt(patches // count)
    inside = [(row, column) for row in range(side) for column in range(side)]
    found = [
        (units // wide * side + row) * wide * side + units % wide * side + column
        for row, column in inside
    ]
    return torch.stack(found, dim=-1)


@contextmanager
def running(own: Sequence[Sequence[nn.Module]], short: Short) -> Iterator[None]:
    """Let the blocks of some towers, from `LAYER` on, run what loops make of them."""
    overridden = [(block, block is blocks[LAYER]) for blocks in own for block in blocks[LAYER:]]
    for block, first in overridden:
        plain, called = block.forward, short
        if "hidden_state" in inspect.signature(plain).parameters:
            called = by_name(short)
        block.__dict__["forward"] = called(plain, first)
    try:
        yield
    finally:
        for block, _ in overridden:
            del block.__dict__["forward"]


def by_name(short: Short) -> Short:
    """The same for blocks that are given states by name, and put out tuples (Llama 4)."""

    def called(plain: Callable[..., Any], first: bool) -> Callable[..., Any]:
        own = short(lambda hidden, **rest: plain(hidden_state=hidden, **rest)[0], first)
        return lambda hidden_state, **rest: (own(hidden_state, **rest),)

    return called


@contextmanager
def attending(
    own: Sequence[tuple[nn.Module, nn.Module]],
    passes: Sequence[PassT],
    mask: Callable[[PassT, Tensor, Tensor, Tensor | None], Tensor],
    patch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Give the attention of some blocks masks of its own, pass by pass.

    Args:
        own: of every tower the first and the last of these blocks.
        passes: what every pass through a tower hides.
        mask: the mask, from that, query, key, and the mask that the block gives.
        patch: for the attention that all blocks call.
    """
    waiting, now = list(passes), list[PassT]()
    plain = nn.functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if now:
            kwargs["attn_mask"] = mask(now[-1], query, key, kwargs.get("attn_mask"))
        return plain(query, key, *args, **kwargs)

    hooks = []
    for first, last in own:
        hooks.append(first.register_forward_pre_hook(lambda *_: now.append(waiting.pop(0))))
        hooks.append(last.register_forward_hook(lambda *_: now.clear()))
    patch.setattr(nn.functional, "scaled_dot_product_attention", attend)
    try:
        yield
    finally:
        patch.undo()
        for hook in hooks:
            hook.remove()


def hidden_in(
    model: Any, passes: Sequence[tuple[Tensor, int]], prefix: int, patch: pytest.MonkeyPatch
) -> AbstractContextManager[None]:
    """Hide units as keys in all blocks behind the one in which `Drop` acted.

    Args:
        model: the plain model.
        passes: `[n, R]` units to hide and how many there are, for every pass through a tower.
        prefix: class tokens in front of the patches; -1 for one behind them.
        patch: for the attention that all blocks call.
    """

    def mask(gone: tuple[Tensor, int], query: Tensor, key: Tensor, given: Tensor | None) -> Tensor:
        seen = torch.zeros(len(key), 1, 1, key.shape[2], dtype=query.dtype)
        hide = members(*gone, key.shape[2] - abs(prefix)).flatten(1)
        return seen.scatter(3, hide[:, None, None] + max(prefix, 0), float("-inf"))

    own = [(blocks[LAYER + 1], blocks[-1]) for blocks in towers(model)]
    return attending(own, passes, mask, patch)


def paired_in(
    model: Any, passes: Sequence[tuple[int, int]], prefix: int
) -> AbstractContextManager[None]:
    """Let all blocks from `LAYER` on run on what `Pair` leaves, merged by loops.

    Rows in between are zeros, so every block gets and gives as many as ever.

    Args:
        model: the plain model.
        passes: `Pair.made`, for every pass through a tower.
        prefix: class tokens in front of the patches; -1 for one behind them.
    """
    waiting, now = list(passes), list[tuple[int, int]]()

    def short(plain: Callable[..., Any], first: bool) -> Callable[..., Tensor]:
        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if first:
                now.append(waiting.pop(0))
            merged, gone = _paired(hidden, *now[-1], prefix)
            stay = [place for place in range(hidden.shape[1]) if place not in gone]
            full = torch.zeros_like(hidden)
            given = of_rows(kwargs, stay, prefix)
            hidden = merged if first else hidden
            full[:, stay] = plain(hidden[:, stay], *(None for _ in args), **given)
            return full

        return forward

    return running(towers(model), short)


def revived_in(
    model: Any, passes: Sequence[tuple[Tensor, int]], prefix: int
) -> AbstractContextManager[None]:
    """Let blocks from `LAYER` on run on what `Revive` leaves, piece by piece.

    The rows of dropped units hold what they held in front of block `LAYER`.
    """
    waiting, now = list(passes), list[tuple[Tensor, int]]()

    def short(plain: Callable[..., Any], first: bool) -> Callable[..., Tensor]:
        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if first:
                now.append(waiting.pop(0))
            (units, count), full = now[-1], hidden.clone()
            patches = hidden.shape[1] - abs(prefix)
            gone = members(units, count, patches).flatten(1) + max(prefix, 0)
            for row, lost in enumerate(gone.tolist()):
                stay = [place for place in range(hidden.shape[1]) if place not in lost]
                seen = list(range(hidden.shape[1])) if first else stay
                given = of_rows(kwargs, seen, prefix)
                made = plain(hidden[row : row + 1, seen], *(None for _ in args), **given)[0]
                full[row, stay] = made[stay] if first else made
            return full

        return forward

    return running(towers(model), short)


def of_rows(kwargs: dict[str, Any], rows: Sequence[int], prefix: int) -> dict[str, Any]:
    """What a block is given, for some rows; masks of full towers hide nothing, and have all."""
    patches = [row - prefix for row in rows if row >= prefix]
    given = {name: None if "mask" in name else value for name, value in kwargs.items()}
    own = {"rope": patches, "freqs_ci": list(rows)}
    return {name: value[own[name]] if name in own else value for name, value in given.items()}


def _paired(hidden: Tensor, remove: int, count: int, prefix: int) -> tuple[Tensor, list[int]]:
    """States `[n, T, D]` with every third unit merged into the next one, and rows that are gone."""
    hidden, gone = hidden.clone(), list[int]()
    for number in range(remove):
        units = torch.tensor([3 * number, 3 * number + 1])
        pair = members(units, count, hidden.shape[1] - abs(prefix)) + max(prefix, 0)
        for left, into in zip(*pair.tolist(), strict=True):
            hidden[:, into] = (hidden[:, left] + hidden[:, into]) / 2
            gone.append(left)
    return hidden, gone
