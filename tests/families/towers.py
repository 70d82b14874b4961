"""Stages inside towers whose answers are known, and what they have to come to.

Which patches of which piece leave is noted by the strategies themselves; no state is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.interface.placement import Encoder

TOWERS = ("vision_tower", "image_tower", "video_tower", "vision_model", "visual")
BLOCKS = ("EncoderLayer", "VisionLayer")
"""Ends of the names of the classes of blocks."""
LAYER = 1
"""Block in which the strategies below act."""


class Drop(PruningStrategy[StrategyParams]):
    """Drop those whose first feature is small, between attention and MLP of a block."""

    name = "t-tower-drop"
    stages = (Encoder(layer=LAYER),)
    gone: ClassVar[list[Tensor]] = []

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        order = tokens.hidden[..., 0].argsort(dim=1)
        self.gone.append(order[:, : budget.remove])
        return Reduction.keep(order[:, budget.remove :].sort(dim=1).values, tokens.count)


class Pair(PruningStrategy[StrategyParams]):
    """Merge every fourth token into the one behind it, in front of a block."""

    name = "t-tower-pair"
    stages = (Encoder(layer=LAYER, where="before"),)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        source = torch.arange(0, 4 * budget.remove, 4).expand(tokens.hidden.shape[0], -1)
        return Reduction.merge(source, source + 1, tokens.size)


PLUGIN = registering(Drop, Pair)


def towers(model: Any) -> list[list[nn.Module]]:
    """Blocks of every tower of a model."""
    found = [getattr(model.model, name) for name in TOWERS if hasattr(model.model, name)]
    return [
        [part for part in tower.modules() if type(part).__name__.endswith(BLOCKS)]
        for tower in found
    ]


@contextmanager
def hidden_in(
    model: Any, passes: Sequence[Tensor], prefix: int, patch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Hide patches as keys in all blocks behind the one in which `Drop` acted.

    Args:
        model: the plain model.
        passes: `[n, R]` patches to hide, for every pass through a tower.
        prefix: class tokens in front of the patches.
        patch: for the attention that all blocks call.
    """
    waiting, now, plain = list(passes), list[Tensor](), nn.functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if now:
            mask = torch.zeros(len(key), 1, 1, key.shape[2], dtype=query.dtype)
            hide = now[-1][:, None, None] + prefix
            kwargs["attn_mask"] = mask.scatter(3, hide, float("-inf"))
        return plain(query, key, *args, **kwargs)

    hooks = []
    for blocks in towers(model):
        behind = blocks[LAYER + 1]
        hooks.append(behind.register_forward_pre_hook(lambda *_: now.append(waiting.pop(0))))
        hooks.append(blocks[-1].register_forward_hook(lambda *_: now.clear()))
    patch.setattr(nn.functional, "scaled_dot_product_attention", attend)
    try:
        yield
    finally:
        patch.undo()
        for hook in hooks:
            hook.remove()


@contextmanager
def paired_in(model: Any, remove: int, prefix: int) -> Iterator[None]:
    """Let all blocks from `LAYER` on run on what `Pair` leaves, merged by loops.

    Rows in between are zeros, so every block gets and gives as many as ever.
    """
    overridden = []
    for blocks in towers(model):
        for block in blocks[LAYER:]:
            block.forward = _short(block, block is blocks[LAYER], remove, prefix)
            overridden.append(block)
    try:
        yield
    finally:
        for block in overridden:
            del block.forward


def _short(block: Any, first: bool, remove: int, prefix: int) -> Callable[..., Tensor]:
    plain = block.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        gone = [prefix + 4 * number for number in range(remove)]
        if first:
            hidden = hidden.clone()
            for row in range(len(hidden)):
                for place in gone:
                    hidden[row, place + 1] = (hidden[row, place] + hidden[row, place + 1]) / 2
        stay = [place for place in range(hidden.shape[1]) if place not in gone]
        full = torch.zeros_like(hidden)
        full[:, stay] = plain(hidden[:, stay], *args, **kwargs)
        return full

    return forward
