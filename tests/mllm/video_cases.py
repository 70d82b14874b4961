"""Prompts and plans that the tests of videos share."""

from __future__ import annotations

from typing import Any

from tests import models
from tests.mllm.calls import IMG, TEXT
from tests.mllm.plans import plan

THREE = [1, 10, IMG, 11, IMG, 12, IMG, 13, 14]  # with frame numbers in between
TWO = [1, 2, 20, IMG, IMG, 21]
ONE = [1, IMG, 7, 8, 9, 15]
PROMPTS = [THREE, ONE, TEXT, TWO]
FRAMES = [3, 1, 2]
VISTOG_STAGE = {
    "at": "pre_llm",
    "strategy": "vistog",
    "keep": 9,
    "params": {"init_seed": 0, "dim": models.WIDTH, "groups": 9},
}


def video_plan(*stages: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return plan(*stages, images="frames", **rest)
