"""New tokens take the places of old ones, also where they are as many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tokenprune
from tests.families.calls import case_of, language, logits
from tests.families.plans import plan
from tests.mllm.strategies import Fresh
from tests.plugin import registering
from tokenprune.plugins.host import register_plugin

FRESH = {"at": "pre_llm", "strategy": "t-fresh", "keep": 1.0}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with register_plugin(registering(Fresh), "new-tokens"):
        yield


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "gemma3"])
def test_as_many_new_tokens_as_arrive(name: str) -> None:
    case = case_of(name, "several")
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    visual = case.placeholders(call)[..., None]

    def raised(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embeds = kwargs["inputs_embeds"]
        return args, {**kwargs, "inputs_embeds": embeds + visual.to(embeds.dtype)}

    hook = language(model).register_forward_pre_hook(raised, with_kwargs=True)
    try:
        wanted = logits(model, call)
    finally:
        hook.remove()
    with tokenprune.attach(model, plan(FRESH)) as handle:
        found = logits(model, call)
        assert all(image.kept == image.patches for image in handle.trace.images)
    real = call["attention_mask"] == 1
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-9, atol=1e-9)
