"""Attention that strategies read in every family, against what the layers themselves compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import begun, case_of, language, logits
from tests.families.cases import CASES
from tests.mllm.calls import cache_of
from tests.mllm.strategies import PLUGIN, Look
from tokenprune import Signal
from tokenprune.errors import SignalError
from tokenprune.plugins.host import register_plugin

BEFORE, AHEAD = Signal.LAST_QUERY_ATTENTION, Signal.AHEAD_ATTENTION
SITE = 1
"""Behind a layer with a window, where there are some."""
UNCUT = {"exaone4_5": 2, "gemma3": 2, "gemma3n": 2, "aya_vision": 2, "cohere2_vision": 2}
UNCUT |= {"cohere_compass": 2, "muse_glimmer": 2, "muse_spark": 2, "step3p7": 2}
"""Behind a layer whose cache no window cuts."""
FIRST = {
    "qwen3_5": 3,
    "qwen3_5_moe": 3,
    "qwen4_exp": 1,
    "glm5_next": 1,
    "lfm2_vl": 1,
    "lfm3_vl": 1,
    "minicpmv4_6": 3,
    "minicpm_ocr": 3,
    "minicpmv4_7": 3,
}
"""The first layer with attention, where it isn't the first one."""
SHARED = {"gemma4-shared"}
NARROW = {"kimi_k25", "dots3_note"}
"""Families whose caches hold narrow rows, of which keys and values are made."""
UNREAD = {"mistral_large4", "hy_v4_vl", "nemotron_h_omni"}
"""Families whose attention isn't read: queries are scaled by their places, or heads have sinks."""
WIDE = {"llama4", "granite4_vision"}
"""Families whose features in front of the LLM aren't of the width of its words."""
MIXED = FIRST.keys() | SHARED
"""Families in which not every layer has attention of its own."""


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Look.seen.clear()
    with register_plugin(PLUGIN, "family-signals"):
        yield


def looking(layer: int, *signals: Signal) -> dict[str, Any]:
    params = {"signals": [signal.name for signal in signals]}
    return {"at": "decoder", "strategy": "t-look", "layer": layer, "keep": 1.0, "params": params}


def plan(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"schema_version": 1, "stages": list(stages)}


def last_rows(
    model: Any, layers: list[int], call: dict[str, Tensor], plan: dict[str, Any]
) -> list[Tensor]:
    """Head means of the last token's softmax row `[T]` in some layers, a plan attached."""
    found: list[Tensor] = []

    def note(module: Any, args: Any, output: Any) -> None:
        found.append(output[1][0].mean(0)[-1])

    of = language(model).layers
    hooks = [of[number].self_attn.register_forward_hook(note) for number in layers]
    try:
        with tokenprune.attach(model, plan):
            logits(model, call)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def within(values: Tensor, row: Tensor) -> bool:
    """Whether the values stand in the row in this order; text and separators are between them."""
    rest = iter(row.tolist())
    return all(any(abs(value - one) < 1e-6 for one in rest) for value in values.tolist())


@pytest.mark.parametrize("name", [name for name in CASES if name not in MIXED | UNREAD])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_attention_before_and_ahead_is_what_the_layers_compute(name: str, cut: bool) -> None:
    case = case_of(name)
    model, call = case.build(attention="eager"), case.inputs("one")
    early = [{"at": "decoder", "strategy": "uniform", "layer": 0, "keep": 0.5}] if cut else []
    stages = plan(*early, looking(SITE, BEFORE, AHEAD))
    rows = last_rows(model, [SITE - 1, SITE], call, stages)
    (tokens,) = Look.seen
    found = [tokens.signal(signal)[0] for signal in (BEFORE, AHEAD)]
    assert all(within(*pair) for pair in zip(found, rows, strict=True))
    assert not any(within(*pair) for pair in zip(found, reversed(rows), strict=True))


@pytest.mark.parametrize("name", [name for name in CASES if name not in MIXED | UNREAD])
def test_keys_and_values_are_those_that_the_layer_caches(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one", "none")
    keys, values = Signal.LAYER_KEYS, Signal.LAYER_VALUES
    site = UNCUT.get(name, SITE)
    with torch.no_grad():
        cached = cache_of(model(**call, **begun(model), use_cache=True)).layers[site - 1]
    with tokenprune.attach(model, plan(looking(site, keys, values))):
        logits(model, call)
    (tokens,) = Look.seen
    held = cached.keys, cached.values
    if name in NARROW:
        held = language(model).layers[site - 1].self_attn.expand_kv(*held)
    for signal, heads in zip((keys, values), held, strict=True):
        if signal is keys and name == "paligemma":
            continue  # its positions begin with 1
        units = iter(heads[0].transpose(0, 1).flatten(1))
        # separators stand between the tokens of the site
        assert all(
            any(torch.allclose(one, other, atol=1e-5) for other in units)
            for one in tokens.signal(signal)[0]
        )


@pytest.mark.parametrize("name", [name for name in CASES if name not in WIDE])
def test_the_text_is_embedded_for_stages_in_front_of_the_llm(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("several")
    signals = [Signal.TEXT_EMBEDDINGS, Signal.TEXT_EMBEDDINGS_PLACE]
    stage = {**looking(0, *signals), "at": "pre_llm"}
    del stage["layer"]
    with tokenprune.attach(model, plan(stage)) as handle:
        logits(model, call)
    table, shown = (
        language(model).get_input_embeddings(),
        case.placeholders(call) | case.sound(call),
    )
    said = []
    for ids, mask, places in zip(call["input_ids"], call["attention_mask"], shown, strict=True):
        with torch.no_grad():
            said.append(table(ids[mask.bool() & ~places]))
    found = [
        (states[place >= 0], place[place >= 0])
        for tokens in Look.seen
        for states, place in zip(*(tokens.signal(signal) for signal in signals), strict=True)
    ]
    assert len(found) == len(handle.trace.images)
    assert all(any(torch.equal(states, one) for one in said) for states, _ in found)
    assert all(place.diff().min() >= 0 and int(place[-1]) == 1 for _, place in found)


@pytest.mark.parametrize("name", sorted(MIXED))
def test_the_layer_ahead_is_read_where_a_stage_may_stand(name: str) -> None:
    case, site = case_of(name), FIRST.get(name, 0)
    model, call = case.build(attention="eager"), case.inputs("one")
    (row,) = last_rows(model, [site], call, plan(looking(site, AHEAD)))
    assert within(Look.seen[0].signal(AHEAD)[0], row)


@pytest.mark.parametrize("name", FIRST)
def test_behind_linear_layers_alone_there_is_no_attention_before(name: str) -> None:
    case, site = case_of(name), FIRST[name]
    told = rf"layer {site - 1}, which (has linear attention|is a convolution)"
    with pytest.raises(SignalError, match=told):
        tokenprune.attach(case.build(), plan(looking(site, BEFORE)))
