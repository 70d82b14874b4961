"""Shortened prompts that are padded on the right, and what linear attention sees of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.cases import CASES
from tests.families.cells import LINEAR, llm_way, thorough
from tests.families.fate import gone
from tests.families.masked import hidden_from, windows_in_places
from tests.families.plans import LAYER, beside, head, language, layers, staged

EXACT = 1e-9


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if thorough(case, llm_way)])
def test_padding_on_the_right_changes_nothing(name: str) -> None:
    """Nothing is generated here: new tokens would stand behind padding."""
    case = case_of(name, "several")
    model, call = case.build(torch.float64), case.inputs("several", "right", torch.float64)
    where, layer = case.positions(call), LAYER.get(name, 2)
    dense = logits(model, call, **where)
    with tokenprune.attach(model, staged(name, "decoder", 0.5)) as handle:
        short = logits(model, call, **where)
        prompts = case.prompts("several", "right")
        removed = gone(case, handle.trace, call["input_ids"], prompts)
    with hidden_from(layers(model), layer, removed):
        full = logits(model, call, **where)
    seen = call["attention_mask"].bool() & ~removed
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4


@pytest.mark.parametrize("name", LINEAR)
def test_linear_attention_sees_the_shortened_prompt(name: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    given: dict[str, Any] = {}

    def take(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given.update(kwargs)

    hook = language(model).register_forward_pre_hook(take, with_kwargs=True)
    logits(model, call)
    hook.remove()
    with tokenprune.attach(model, staged(name, "pre_llm", 0.5)) as handle:
        short = logits(model, call)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts("one", "none"))
    kept = (~removed[0]).nonzero()[:, 0]
    places = given.get("position_ids")
    places = torch.arange(len(removed[0]))[None] if places is None else places
    own, length = layers(model), len(removed[0])
    with torch.no_grad(), windows_in_places(own, kept, length):
        states = language(model)(
            inputs_embeds=given["inputs_embeds"][:, kept],
            position_ids=places[..., kept],
            attention_mask=torch.ones(1, len(kept), dtype=torch.long),
            **beside(given, kept),
        ).last_hidden_state
        expected = head(model)(states)
    assert float((short[:, kept] - expected).abs().max()) < case.rounding
