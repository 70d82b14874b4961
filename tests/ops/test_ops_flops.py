"""Counting operations of whole models."""

from __future__ import annotations

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


def test_learned_tokens_are_counted_without_gradients() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs([[1, models.IMAGE_TOKEN, 7]])
    counts = {}
    for name in ("vistog", "uniform"):
        plan = {"schema_version": 1, "stages": [stage_of(shipped()[name], "pre_llm")]}
        with tokenprune.attach(model, plan), torch.no_grad(), count_flops() as counter:
            model(**inputs)
        counts[name] = counter.total
    assert counts["vistog"] > counts["uniform"] > 0, "the tokens' own way through the encoder"
