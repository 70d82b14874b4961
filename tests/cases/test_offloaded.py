"""Models whose weights are on `meta` between calls are served as if they weren't."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models, towers
from tests.mllm.calls import SHORT, inputs, logits
from tests.mllm.plans import COMBINATIONS, plan, tome

accelerate = pytest.importorskip("accelerate", reason="accelerate is no dependency")

LEARNED = {
    "at": "decoder",
    "strategy": "covipal_style",
    "keep": 9,
    "params": {"init_seed": 0, "dim": models.WIDTH, "width": 32, "heads": 4},
}
PLANS = {**{name: COMBINATIONS[name] for name in ("all", "compact")}, "learned": plan(LEARNED)}
ENCODERS: dict[str, Callable[[], Any]] = {
    "clip": models.clip_vision,
    "timm": models.timm_vit,
    "timm with layer scale": partial(models.timm_vit, init_values=0.5),
    "siglip": partial(models.siglip_vision, vision_use_head=False),
    "dinov2": towers.dinov2,
    "internvl": towers.internvl,
}


def offload(model: Any) -> None:
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert any(parameter.device.type == "meta" for parameter in model.parameters())


@pytest.mark.parametrize("first", ["offload", "attach"])
@pytest.mark.parametrize("name", PLANS)
def test_an_offloaded_multimodal_llm_is_the_same(name: str, first: str) -> None:
    model = models.llava_clip()
    with tokenprune.attach(model, PLANS[name]):
        expected = logits(model, inputs(SHORT))
    if first == "offload":
        offload(model)
    with tokenprune.attach(model, PLANS[name]) as handle:
        if first == "attach":
            offload(model)
        torch.testing.assert_close(logits(model, inputs(SHORT)), expected)
        for stage in handle.stages:
            modules = stage.strategy.modules()
            assert modules is None or all(p.device.type == "cpu" for p in modules.parameters())


@pytest.mark.parametrize("first", ["offload", "attach"])
@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_an_offloaded_encoder_is_the_same(name: str, first: str) -> None:
    def run() -> Tensor:
        output = model(models.pixels())
        return output if isinstance(output, Tensor) else output.last_hidden_state

    model = ENCODERS[name]()
    with tokenprune.attach(model, plan(tome())):
        expected = run()
    if first == "offload":
        offload(model)
    with tokenprune.attach(model, plan(tome())):
        if first == "attach":
            offload(model)
        torch.testing.assert_close(run(), expected)
