"""Decoder and pre-LLM stages: every family, every scene, against the plain model with masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.cases import CASES
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import LAYER, layers, staged

EXACT, STEPS = 1e-9, 4
OWN_TOWER = ("llava", "llava-siglip")
"""Families whose tower is followed; they have tests of their own."""
NAMES = [name for name in CASES if name not in OWN_TOWER]
LINEAR = ("qwen3_5", "qwen3_5_moe")
"""Families with linear attention, in which a removed token isn't the same as a hidden one."""
SCENES = [(name, scene, "left") for name in NAMES for scene in CASES[name].scenes]
CELLS = [(*cell, stages) for cell in SCENES for stages in ("decoder", "pre_llm")]
CELLS += [(name, "several", padding, "decoder") for name in NAMES for padding in ("none", "right")]
CELLS += [(name, "several", "left", "both") for name in NAMES]
CELLS = [cell for cell in CELLS if cell[0] not in LINEAR or cell[3] == "decoder"]


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


@contextmanager
def hidden(name: str, model: Any, removed: dict[int, Tensor]) -> Iterator[None]:
    with ExitStack() as stack:
        for first, places in removed.items():
            stack.enter_context(hidden_from(layers(model), first, places))
        yield


@pytest.mark.parametrize(("name", "scene", "padding", "stages"), CELLS)
def test_a_cut_equals_the_full_prompt_with_removed_tokens_hidden(
    name: str, scene: str, padding: str, stages: str
) -> None:
    case = case_of(name, scene)
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    where, prompts = case.positions(call), case.prompts(scene, padding)
    steps = {"decoder": [LAYER.get(name, 2)], "pre_llm": [0], "both": [0, LAYER.get(name, 2)]}

    def removals(handle: Any) -> dict[int, Tensor]:
        ids = call["input_ids"]
        return {
            layer: gone(case, handle.trace, ids, prompts, step)
            for step, layer in enumerate(steps[stages])
        }

    dense = logits(model, call, **where)
    with tokenprune.attach(model, staged(name, stages, 0.5)) as handle:
        short = logits(model, call, **where)
        removed = removals(handle)
        if padding != "right":  # generation would start at a pad token
            tokens, scores = generated(model, call)
            again = removals(handle)
            assert all(torch.equal(removed[layer], again[layer]) for layer in removed)
    assert torch.equal(logits(model, call, **where), dense)
    assert all(bool(places.any()) for places in removed.values())
    with hidden(name, model, removed):
        full = logits(model, call, **where)
    seen = call["attention_mask"].bool() & ~removed[steps[stages][-1]]
    assert float((short - full)[seen].abs().max()) < EXACT
    assert float((short - dense)[seen].abs().max()) > 1e-4
    if padding != "right":
        with hidden(name, model, removed):
            full_tokens, full_scores = generated(model, call)
        assert torch.equal(tokens, full_tokens)
        assert float((scores - full_scores).abs().max()) < EXACT


@pytest.mark.parametrize(("name", "scene", "padding"), SCENES)
@pytest.mark.parametrize("stages", ["decoder", "pre_llm"])
def test_keeping_all_changes_no_bit(name: str, scene: str, padding: str, stages: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene, padding)
    dense = logits(model, call)
    with tokenprune.attach(model, staged(name, stages, 1.0)):
        assert torch.equal(logits(model, call), dense)
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(name.startswith("get_") for name in model.model.__dict__)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_attention_sees_the_shortened_prompt(name: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    given: dict[str, Any] = {}

    def take(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given.update(kwargs)

    hook = model.model.language_model.register_forward_pre_hook(take, with_kwargs=True)
    logits(model, call)
    hook.remove()
    with tokenprune.attach(model, staged(name, "pre_llm", 0.5)) as handle:
        short = logits(model, call)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts("one", "none"))
    kept = (~removed[0]).nonzero()[:, 0]
    with torch.no_grad():
        states = model.model.language_model(
            inputs_embeds=given["inputs_embeds"][:, kept],
            position_ids=given["position_ids"][..., kept],
            attention_mask=torch.ones(1, len(kept), dtype=torch.long),
        ).last_hidden_state
        expected = model.lm_head(states)
    assert float((short[:, kept] - expected).abs().max()) < case.rounding
