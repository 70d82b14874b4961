"""On the meta device there are shapes without values: costs are counted, choices aren't checked."""

from __future__ import annotations

import pytest
import torch

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, inputs
from tests.mllm.plans import COMBINATIONS, plan
from tokenprune.errors import UnsupportedCallError

X = models.pixels(2)


@pytest.mark.parametrize("strategy", ["tome", "evoprune", "random"])
@torch.no_grad()
def test_flops_of_an_encoder_are_counted_without_weights(strategy: str) -> None:
    given = plan({"at": "encoder", "strategy": strategy, "keep": 18})
    counted = []
    for device in ("cpu", "meta"):
        model = models.clip_vision().to(device)
        with tokenprune.attach(model, given) as handle, handle.count_flops():
            output = model(X.to(device)).last_hidden_state
        counted.append((handle.report().flops, output.shape))
    assert counted[0] == counted[1]
    assert not handle.checks.passed, "no answer was looked at"


def test_a_prompt_without_values_is_refused() -> None:
    model = models.llava_clip().to("meta")
    call = {name: value.to("meta") for name, value in inputs(SHORT).items()}
    with (
        tokenprune.attach(model, COMBINATIONS["decoder"]),
        pytest.raises(UnsupportedCallError, match=r"input_ids.*meta device"),
    ):
        model(**call)
