"""An answer that was changed after it was made is carried out as it stands now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.interface.placement import Encoder
from tokenprune.plugins.host import register_plugin

Change = Callable[[Tokens, Reduction], Reduction]


def merge(tokens: Tokens) -> Reduction:
    """Token 1 joins token 0."""
    zero = torch.zeros(tokens.size.shape[0], 1, dtype=torch.int64)
    return Reduction.merge(zero + 1, zero, tokens.size)


def keep(tokens: Tokens) -> Reduction:
    """Token 1 leaves."""
    rest = [0, *range(2, tokens.count)]
    return Reduction.keep(torch.tensor([rest] * tokens.size.shape[0]), tokens.count)


class Changed(PruningStrategy[StrategyParams]):
    """Answers with what a test gives it."""

    name = "t-changed"
    stages = (Encoder(schedule="mean"),)
    answer: Any = None

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        made: Reduction = type(self).answer(tokens)
        return made


def new(tokens: Tokens, made: Reduction) -> Reduction:
    width = tokens.hidden.shape[2]
    return replace(made, created=torch.zeros(tokens.size.shape[0], tokens.count - 1, width))


def dropping(tokens: Tokens, made: Reduction) -> Reduction:
    assert made.slot is not None
    return replace(made, slot=torch.where(torch.arange(tokens.count) == 1, -1, made.slot))


def joining(tokens: Tokens, made: Reduction) -> Reduction:
    assert made.slot is not None
    return replace(made, slot=made.slot.clamp(min=0))


def copying(tokens: Tokens, made: Reduction) -> Reduction:
    return replace(made, weight=None)


def weighing(tokens: Tokens, made: Reduction) -> Reduction:
    return replace(made, weight=torch.ones_like(tokens.size))


@pytest.mark.parametrize("build", [models.clip_vision, models.siglip_vision])
@pytest.mark.parametrize(
    ("made", "change"),
    [
        (merge, new), (merge, dropping), (merge, copying), (merge, weighing),
        (keep, new), (keep, joining), (keep, weighing),
    ],
)  # fmt: skip
@torch.no_grad()
def test_a_changed_answer_is_what_it_says(
    build: Callable[[], Any], made: Callable[[Tokens], Reduction], change: Change
) -> None:
    model, pictures = build(), models.pixels(2)
    stage = {"at": "encoder", "strategy": "t-changed", "keep": 35, "layer": 1}

    def run(bare: bool) -> tuple[Tensor, Tensor]:
        def answer(tokens: Tokens) -> Reduction:
            found = change(tokens, made(tokens))
            return replace(found, pairs=None, made=None) if bare else found

        Changed.answer = staticmethod(answer)
        with (
            register_plugin(registering(Changed), "changed-tests"),
            tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}) as handle,
        ):
            return model(pictures).last_hidden_state, handle.trace.records[0].slot

    found, want = run(bare=False), run(bare=True)
    torch.testing.assert_close(found[0], want[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], want[1])
