"""Counting operations of whole models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tokenprune
from tests import models
from tests.contract.cases import shipped, stage_of
from tokenprune.ops.flops import count_flops


def test_the_sum_is_that_of_torchs_counter() -> None:
    model, inputs = models.llava_clip("eager"), models.llava_inputs([[1, models.IMAGE_TOKEN, 7]])
    with torch.no_grad(), count_flops() as counter:
        model(**inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        model(**inputs)
    assert counter.total == plain.get_total_flops() > 0


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_operators_that_are_made_of_others_are_counted_by_these(
    guard: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is taken apart, which takes longer than most operators of small models."""
    kind, tried = torch._ops.OpOverload, []
    plain = kind.decompose

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(self)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(kind, "decompose", noted)
    with guard(), count_flops() as counter:
        found = torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3)).relu()
    assert found.shape == (2, 4)
    assert counter.total == 2 * 2 * 3 * 4
    # without inference mode the dispatcher itself takes composites apart
    assert (torch.ops.aten.linear.default in tried) == (guard is torch.inference_mode)
    assert not {torch.ops.aten.mm.default, torch.ops.aten.relu.default} & {*tried}


def test_learned_tokens_are_counted_without_gradients() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs([[1, models.IMAGE_TOKEN, 7]])
    counts = {}
    for name in ("vistog", "uniform"):
        plan = {"schema_version": 1, "stages": [stage_of(shipped()[name], "pre_llm")]}
        with tokenprune.attach(model, plan), torch.no_grad(), count_flops() as counter:
            model(**inputs)
        counts[name] = counter.total
    assert counts["vistog"] > counts["uniform"] > 0, "the tokens' own way through the encoder"
