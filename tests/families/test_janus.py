"""Janus draws pictures, too: what it draws is what the plain model draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune
from tests.families.calls import case_of
from tests.families.models.common import START, library
from tests.families.plans import plan, staged
from tokenprune.errors import UnsupportedCallError

INSIDE = plan({"strategy": "tome", "at": "encoder", "keep": 0.5})


@pytest.fixture
def drawing() -> dict[str, Any]:
    """How `generate` is called for pictures, from prompts of words."""
    if library() < (5, 24):
        pytest.skip("the plain model makes no cache for its pictures in this release")
    ids = torch.tensor([[1, 50, 51, 52, START], [1, 60, 61, 62, START]])
    settings = {"guidance_scale": 2, "max_length": 60, "do_sample": False}
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **settings}
    return {**call, "generation_mode": "image"}


@pytest.mark.parametrize("content", [staged("janus", "both", 0.5), INSIDE], ids=["llm", "tower"])
def test_pictures_are_drawn_as_without_a_plan(
    content: dict[str, Any], drawing: dict[str, Any]
) -> None:
    model = case_of("janus").create()
    model.generation_config.generation_kwargs = {"boi_token_id": START}
    drawn = model.generate(**drawing)
    assert len(set(drawn.flatten().tolist())) > 1
    with tokenprune.attach(model, content):
        assert torch.equal(model.generate(**drawing), drawn)


def test_pictures_that_it_would_not_look_at_are_refused(drawing: dict[str, Any]) -> None:
    case = case_of("janus")
    model, shown = case.create(), case.inputs("one", "none")
    model.generation_config.generation_kwargs = {"boi_token_id": START}
    with (
        tokenprune.attach(model, staged("janus", "both", 0.5)),
        pytest.raises(UnsupportedCallError, match="get_image_features wasn't called for them"),
    ):
        model.generate(**{**drawing, **shown})
