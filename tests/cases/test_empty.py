"""A batch without pictures goes through, as it does without a plan, where the family takes one."""

from __future__ import annotations

import pytest
import torch

import tokenprune
from tests import models
from tests.mllm.plans import plan


@pytest.mark.parametrize("strategy", ["tome", "evoprune", "random"])
@torch.no_grad()
def test_an_empty_batch_gives_an_empty_answer(strategy: str) -> None:
    model, nothing = models.timm_vit(), models.pixels(0)
    dense = model(nothing)
    with tokenprune.attach(
        model, plan({"at": "encoder", "strategy": strategy, "keep": 18})
    ) as handle:
        assert model(nothing).shape == dense.shape
        assert model(models.pixels(2)).isfinite().all()
        assert handle.report().tokens["encoder"] == 18
