"""Decoder stages: every family, every scene, against the plain model with masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.cases import CASES
from tests.families.fate import gone
from tests.families.masked import hidden_from

EXACT, STEPS = 1e-9, 4
OWN_TOWER = ("llava", "llava-siglip")
"""Families whose tower is followed; they have tests of their own."""
NAMES = [name for name in CASES if name not in OWN_TOWER]
CELLS = [(name, scene, "left") for name in NAMES for scene in CASES[name].scenes]
CELLS += [(name, "several", padding) for name in NAMES for padding in ("none", "right")]
LAYER = {"qwen3_5": 3, "qwen3_5_moe": 3, "gemma4-shared": 0}
"""In front of which layer is cut; 2 for most families."""


def plan(name: str, keep: float) -> dict[str, Any]:
    layer = LAYER.get(name, 2)
    stage = {"strategy": "random", "at": "decoder", "layer": layer, "keep": keep}
    return {"schema_version": 1, "seed": 3, "stages": [stage]}


def layers(model: Any) -> list[nn.Module]:
    core = model.model
    language = core.text_model if hasattr(core, "text_model") else core.language_model
    return list(language.layers)


def generated(model: Any, call: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """New tokens `[B, S]` and the logits `[S, B, V]` that they were chosen by."""
    out = model.generate(
        **call,
        max_new_tokens=STEPS + 1,
        min_new_tokens=STEPS + 1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(out.sequences[:, : call["input_ids"].shape[1]], call["input_ids"])
    return out.sequences[:, call["input_ids"].shape[1] :], torch.stack(out.logits)


@pytest.mark.parametrize(("name", "scene", "padding"), CELLS)
def test_a_cut_equals_the_full_prompt_with_removed_tokens_hidden(
    name: str, scene: str, padding: str
) -> None:
    case = case_of(name, scene)
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    where = case.positions(call)
    dense = logits(model, call, **where)
    with tokenprune.attach(model, plan(name, 0.4)) as handle:
        short = logits(model, call, **where)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts(scene, padding))
        if padding != "right":  # generation would start at a pad token
            tokens, steps = generated(model, call)
            again = gone(case, handle.trace, call["input_ids"], case.prompts(scene, padding))
            assert torch.equal(removed, again)
    assert torch.equal(logits(model, call, **where), dense)
    assert bool(removed.any())
    first = LAYER.get(name, 2)
    with hidden_from(layers(model), first, removed):
        full = logits(model, call, **where)
    seen = call["attention_mask"].bool() & ~removed
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4
    if padding != "right":
        with hidden_from(layers(model), first, removed):
            full_tokens, full_steps = generated(model, call)
        assert torch.equal(tokens, full_tokens)
        assert float((steps - full_steps).abs().max()) < EXACT


@pytest.mark.parametrize(("name", "scene", "padding"), CELLS)
def test_keeping_all_changes_no_bit(name: str, scene: str, padding: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene, padding)
    dense = logits(model, call)
    with tokenprune.attach(model, plan(name, 1.0)):
        assert torch.equal(logits(model, call), dense)
