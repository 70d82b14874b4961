"""Ways to call a pruned family beside a plain prefill: beams, no cache, steps by hand, layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import decoder, layers, plan, staged

EXACT, NEW = 1e-9, {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
SOME = ("llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm", "gemma3", "paligemma")
AT_LAYERS = [
    *(("qwen3_vl", layer) for layer in (0, 1, 3)),
    *(("qwen3_vl_moe", layer) for layer in (0, 1)),
    *(("gemma3", layer) for layer in (0, 1, 3)),
    *(("gemma4", layer) for layer in (0, 1, 3)),
    *((name, 0) for name in ("llava_next", "qwen2_vl", "paligemma", "smolvlm")),
]


def cut(case: Any, call: dict[str, Tensor], handle: Any, scene: str, padding: str) -> Tensor:
    return gone(case, handle.trace, call["input_ids"], case.prompts(scene, padding))


@pytest.mark.parametrize(("name", "layer"), AT_LAYERS)
def test_any_layer_can_be_cut_in_front_of(name: str, layer: int) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    stage = {**decoder(name, 0.4), "layer": layer}
    with tokenprune.attach(model, plan(stage)) as handle:
        short = logits(model, call)
        removed = cut(case, call, handle, "several", "left")
        tokens = model.generate(**call, **NEW)
    with hidden_from(layers(model), layer, removed):
        full = logits(model, call)
    with hidden_from(layers(model), layer, removed):
        expected = model.generate(**call, **NEW)
    seen = call["attention_mask"].bool() & ~removed
    assert float((short - full)[seen].abs().max()) < EXACT
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("name", SOME)
def test_beams_are_those_of_the_reference(name: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    beams = {**NEW, "num_beams": 2}
    with tokenprune.attach(model, staged(name, "decoder", 0.4)) as handle:
        logits(model, call)
        removed = cut(case, call, handle, "several", "left").repeat_interleave(2, dim=0)
        tokens = model.generate(**call, **beams)
    with hidden_from(layers(model), 2, removed):
        assert torch.equal(tokens, model.generate(**call, **beams))


@pytest.mark.parametrize("stages", ["pre_llm", "decoder", "both"])
@pytest.mark.parametrize("name", SOME)
def test_without_a_cache_the_tokens_are_the_same(name: str, stages: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("two_sizes", "left", torch.float64)
    with tokenprune.attach(model, staged(name, stages, 0.5)):
        cached = model.generate(**call, **NEW)
        assert torch.equal(model.generate(**call, **NEW, use_cache=False), cached)


@pytest.mark.parametrize("stages", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", SOME)
def test_steps_by_hand_count_positions_on_from_the_whole_prompt(name: str, stages: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    del call["attention_mask"]

    def prefill() -> dict[str, Any]:
        with torch.no_grad():
            out = model(**call, use_cache=True)
        return {"cache": out.cache} if "cache" in out else {"past_key_values": out.past_key_values}

    def step(cache: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            return model(input_ids=torch.tensor([[77]]), **cache).logits

    with tokenprune.attach(model, staged(name, stages, 0.5)) as handle:
        cache = prefill()
        removed = cut(case, call, handle, "one", "none")
        short = step(cache)
    with hidden_from(layers(model), 2 if stages == "decoder" else 0, removed):
        full = step(prefill())
    assert float((short - full).abs().max()) < EXACT


@pytest.mark.parametrize("name", SOME)
def test_hidden_states_and_loss_have_the_shape_of_the_prompt(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("two_sizes")
    labels = call["input_ids"].masked_fill(case.placeholders(call), -100)
    with tokenprune.attach(model, staged(name, "both", 0.5)), torch.no_grad():
        out = model(**call, labels=labels, output_hidden_states=True)
    assert torch.isfinite(out.loss)
    shapes = {tuple(states.shape[:2]) for states in out.hidden_states}
    assert shapes == {tuple(call["input_ids"].shape)}
