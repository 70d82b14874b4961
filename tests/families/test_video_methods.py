"""Methods for videos, on clips of models that take clips."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.plans import plan
from tokenprune.plugins.host import host

FAMILIES = ("llava_onevision", "qwen2_5_vl")
METHODS: dict[str, dict[str, Any]] = {
    "evs": {"keep": 0.5},
    "vidcom2": {"keep": 0.25},
    "dycoke": {},
    "fastvid": {"keep": 0.5, "params": {"context": 1}},  # without attention of the encoder
    "scissor": {"keep": 0.5},
    "aim": {"keep": 0.25},
    "holitom": {"keep": 0.5, "params": {"contextual": 1}},
    "flashvid": {"keep": 0.5, "params": {"alpha": 0}},
}


def stage(name: str) -> dict[str, Any]:
    return {"at": "pre_llm", "strategy": name, **METHODS[name]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_clips_is_its_clips(name: str, family: str) -> None:
    case = case_of(family, "video")
    model = case.build(torch.float64)
    call = case.inputs("video", "left", torch.float64)
    alone = case.alone("video", "left", torch.float64)
    with tokenprune.attach(model, plan(stage(name), positions="original")) as handle:
        together = logits(model, call, **case.positions(call))
        images = handle.trace.images
        assert len(images) == len(alone)
        for image in images:
            assert image.grid[0] > 1
            assert 0 < image.kept < image.patches
            most = int(METHODS[name].get("keep", 1) * image.patches)
            exact = host().strategies[name].length == "planned"
            assert image.kept == most if exact else image.kept <= most
        for row, one in enumerate(alone):
            last = logits(model, one, **case.positions(one))[0, -1]
            assert float((together[row, -1] - last).abs().max()) < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_a_clip_and_a_picture_in_one_prompt(name: str) -> None:
    case = case_of("qwen2_5_vl", "mixed")
    model, call = case.build(), case.inputs("mixed")
    with tokenprune.attach(model, plan(stage(name), positions="original")) as handle:
        out = model.generate(**call, max_new_tokens=2, do_sample=False)
        assert torch.equal(out[:, : call["input_ids"].shape[1]], call["input_ids"])
        assert all(image.kept > 0 for image in handle.trace.images)
