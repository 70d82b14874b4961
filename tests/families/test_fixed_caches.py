"""Static caches in all families: what is generated is that with a cache that grows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.llm_names import LONGEST_CACHE
from torch import Tensor

import tokenprune
from tests.families.calls import case_of
from tests.families.cases import LLMS
from tests.families.cells import LINEAR
from tests.families.models.common import library
from tests.families.plans import WAYS, core, staged
from tests.mllm.calls import cache_of, with_cache
from tests.mllm.test_mllm_fixed_cache import STATIC, compiled, counted
from tokenprune.errors import UnsupportedCallError

SCORES = 1e-5
"""How far scores may be from others: half of them are sums in another order."""
WIDE = 500
"""A window that no prompt here fills."""
TINY = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
CHOOSING = ("qwen4_exp", "glm5_next", "mistral_large4", "minimax_m3_vl", "dots3_note", "hy_v4_vl")
"""Families whose layers choose keys, or share a choice; their caches are of kinds of their own."""
TWICE = ("aya_vision", "nemotron_h_omni")
"""Families whose steps are two graphs without a plan, too, in transformers 5.24."""
STATED = tuple(name for name in LINEAR if name not in CHOOSING)


def widened(model: Any, window: int = WIDE) -> Any:
    """The model with sliding windows of another size, if it has any."""
    model = copy.deepcopy(model)
    config = model.config.get_text_config()
    if getattr(config, "sliding_window", None):
        config.sliding_window = window
        for module in model.modules():
            if getattr(module, "sliding_window", None):
                module.sliding_window = window
    return model


def own(model: Any, room: int) -> dict[str, Any]:
    """A static cache of a user's own, as an argument."""
    from transformers import StaticCache

    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=room)
    return with_cache(model, cache)


def states(cache: Any) -> list[int]:
    """Where the states of layers without keys are."""
    parts = [layer for layer in cache.layers if hasattr(layer, "conv_states")]
    held = [one for part in parts for one in (part.conv_states, part.recurrent_states)]
    return [state.data_ptr() for one in held for state in one.values() if state is not None]


def scores(model: Any, call: dict[str, Tensor], **how: Any) -> Tensor:
    """Logits of generated tokens `[S, B, V]`; positions aren't counted by those of calls before."""
    if hasattr(core(model), "rope_deltas"):
        core(model).rope_deltas = None
    wanted = {**TINY, "output_logits": True, "return_dict_in_generate": True}
    return torch.stack(model.generate(**call, **wanted, **how).logits)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        *((name, "both") for name in LLMS),
        *((name, stage) for name in WAYS.values() for stage in ("pre_llm", "decoder")),
    ],
)
def test_generation_is_that_with_a_cache_that_grows(name: str, stage: str) -> None:
    case = case_of(name, "several")
    model, call = widened(case.build()), case.inputs("several", "left")
    with tokenprune.attach(model, staged(name, stage, 0.5)):
        want = scores(model, call)
        if name == "llama4" and library() < (5, 24):
            pytest.skip("generate makes no masks for its static cache in this release")
        if name in CHOOSING:
            with pytest.raises(UnsupportedCallError, match="can't be filled with what a plan"):
                scores(model, call, **STATIC)
        else:
            found = scores(model, call, **STATIC)
            torch.testing.assert_close(found, want, rtol=0, atol=SCORES)


def graphs_of(model: Any, call: dict[str, Tensor]) -> tuple[int, Tensor]:
    """Graphs of the steps behind a prompt, and their scores."""
    torch._dynamo.reset()
    counted()
    found = scores(model, call, **compiled())
    return counted()[0], found


@pytest.mark.parametrize("name", WAYS.values())
def test_steps_are_as_many_graphs_as_without_a_plan(name: str) -> None:
    case = case_of(name)
    model, call = widened(case.build()), case.inputs("one")
    with tokenprune.attach(model, staged(name, "both", 0.5)):
        want = scores(model, call)
        graphs, found = graphs_of(model, call)
    torch.testing.assert_close(found, want, rtol=0, atol=SCORES)
    few = 2 if name in TWICE else 1
    assert graphs <= few or graphs <= graphs_of(model, call)[0]


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "aya_vision", "exaone4_5"])
def test_a_window_that_slides_is_refused(name: str) -> None:
    case = case_of(name)
    model, call = case.create(), case.inputs("one")
    with tokenprune.attach(model, staged(name, "pre_llm", 0.5)):
        with pytest.raises(UnsupportedCallError, match="the window of layer 0") as caught:
            scores(model, call, **STATIC)
        assert "Keep prompt and answer below" in str(caught.value.remedy)
        scores(model, call)


@pytest.mark.parametrize("name", ["gemma3", "aya_vision"])
def test_a_long_call_before_lengthens_no_cache_over_which_a_window_slides(name: str) -> None:
    case = case_of(name)
    call = case.inputs("one")
    model = widened(case.build(), call["input_ids"].shape[1] + 20)
    long = {**STATIC, "max_new_tokens": 30}
    model.generate(**call, **long)
    longest = getattr(model, LONGEST_CACHE)
    with tokenprune.attach(model, staged(name, "both", 0.5)):
        want = scores(model, call)
        found = scores(model, call, **STATIC)
        with pytest.raises(UnsupportedCallError, match="slides over"):
            model.generate(**call, **long)
    torch.testing.assert_close(found, want, rtol=0, atol=SCORES)
    assert getattr(model, LONGEST_CACHE) == longest


@pytest.mark.parametrize("name", STATED)
def test_states_stay_where_they_are_and_skip_padding(name: str) -> None:
    case = case_of(name, "several")
    model, call = widened(case.build()), case.inputs("several", "left")
    rows, length = call["input_ids"].shape
    mask = torch.cat((call["attention_mask"], torch.ones(rows, 4).long()), dim=1)
    mask[:, -3] = 0  # the second of three tokens at once
    places = torch.arange(length, length + 4).expand(rows, -1)
    new = torch.tensor([[33, 30, 31, 32]]).expand(rows, -1)
    given, found = own(model, 99), []
    cache, *_ = given.values()
    with tokenprune.attach(model, staged(name, "both", 0.5)), torch.no_grad():
        for one in (None, cache, cache):
            out = model(**call, **with_cache(model, one))
            rest, kept = with_cache(model, cache_of(out)), states(cache_of(out))
            steps = [
                model(
                    input_ids=new[:, part],
                    position_ids=places[:, part],
                    attention_mask=mask[:, : length + part.stop],
                    **rest,
                ).logits
                for part in (slice(0, 1), slice(1, 4))
            ]
            assert states(cache_of(out)) == kept
            found.append(torch.cat((out.logits, steps[0], steps[1][:, ::2]), dim=1))
            cache.reset()
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], rtol=0, atol=SCORES)


@pytest.mark.parametrize("stage", ["pre_llm", "both"])
@pytest.mark.parametrize("name", ["gemma3", "aya_vision"])
def test_a_window_that_slides_over_the_prompt_alone_counts_its_places(
    name: str, stage: str
) -> None:
    case = case_of(name)
    call = case.inputs("several", "left")
    window = call["input_ids"].shape[1] - 3
    model = widened(case.build(), window)
    torch._dynamo.reset()
    # compiled where most meets: masks that the model makes, and two levels
    most = name == "gemma3" and stage == "both"
    ways = [{}, {"compile_config": compiled()["compile_config"]}] if most else [{}]
    with tokenprune.attach(model, staged(name, stage, 1)):
        want = scores(model, call)
        for how in ways:
            found = scores(model, call, **own(model, window - 1), **how)
            torch.testing.assert_close(found, want, rtol=0, atol=SCORES)


@pytest.mark.parametrize("name", ["gemma3", "gemma4"])
def test_no_cache_without_room_slides(name: str) -> None:
    case = case_of(name)
    model, call = widened(case.build()), case.inputs("one")
    length = call["input_ids"].shape[1]
    plan = staged(name, "decoder", 1)
    plan["stages"][0]["layer"] = 1  # the only layer in front of it has a window
    with tokenprune.attach(model, plan):
        with pytest.raises(UnsupportedCallError, match=f"has room for {length + 1}") as caught:
            scores(model, call, **own(model, length + 1))
        assert "larger max_cache_len" in str(caught.value.remedy)
        scores(model, call, **own(model, length + 2))


def test_positions_of_a_whole_mask_are_refused_behind_it() -> None:
    case = case_of("qwen2_5_vl")
    model, call = case.create(), case.inputs("one")
    mask = torch.ones(1, call["input_ids"].shape[1] + 1, dtype=torch.long)
    step = {"input_ids": torch.tensor([[33]])}
    with tokenprune.attach(model, staged("qwen2_5_vl", "both", 0.5)), torch.no_grad():
        want = model(**step, **with_cache(model, cache_of(model(**call)))).logits
        given = own(model, 99)
        model(**call, **given)
        with pytest.raises(UnsupportedCallError, match="position ids for 1 new tokens"):
            model(**step, attention_mask=mask, **given)
        found = model(**step, **given).logits
    torch.testing.assert_close(found, want, rtol=0, atol=SCORES)
