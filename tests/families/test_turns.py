"""A chat that shows further pictures behind its KV cache, pruned in front of the LLM."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import tokenprune
from tests.families.calls import begun, case_of
from tests.families.cells import UNFOLLOWED
from tests.families.chats import (
    answered,
    assert_as_alone,
    behind,
    chat,
    placed,
    said,
    step,
    taken_in_turns,
    turns,
)
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import layers, plan
from tests.mllm.calls import cache_of, with_cache
from tokenprune.errors import UnsupportedCallError

EXACT, ROUNDED = 1e-9, 1e-4
ATTENDING = ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "aya_vision", "mistral3"]
ATTENDING += ["muse_glimmer", "dots3_note", "hy_v4_vl", "granite4_vision"]
LINEAR = ["qwen3_5", "qwen4_exp", "lfm2_vl", "lfm3_vl"]
TEXT = torch.tensor([[1, 60, 61, 62]])
NEW: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


def early(strategy: str, at: str = "pre_llm", **rest: Any) -> dict[str, Any]:
    return plan({"strategy": strategy, "at": at, "keep": 0.5}, **rest)


@pytest.mark.parametrize("name", ATTENDING)
@torch.no_grad()
def test_a_further_picture_is_cut_as_in_the_whole_chat(name: str) -> None:
    case = case_of(name)
    model, prompts = case.create(torch.float64), case.prompts("one", "none")
    first, second = turns(case)
    whole, length = chat(first, second), first["input_ids"].shape[1]
    where, one, two, last = placed(model, whole, length)
    later, given, found, removed = behind(first, second), begun(model), [], []
    with tokenprune.attach(model, early("random")) as handle:
        for call in ({**first, **one}, {**later, **two}, {**step(whole), **last}):
            out = model(**call, **given, use_cache=True)
            given = with_cache(model, cache_of(out))
            found.append(out.logits)
            if len(removed) < 2:
                assert all(image.kept < image.patches for image in handle.trace.images)
                removed.append(gone(case, handle.trace, first["input_ids"], prompts))
    hidden = torch.cat(removed, dim=1)
    with hidden_from(layers(model), 0, hidden):
        wanted = answered(model, whole, where, last)
    kept = torch.cat((~hidden[0], torch.ones(1, dtype=torch.bool)))
    assert float((torch.cat(found, dim=1) - wanted)[0, kept].abs().max()) < EXACT


@pytest.mark.parametrize(
    ("name", "at"),
    [
        (name, at)
        for name in (*LINEAR, "qwen3_vl")
        for at in ("encoder", "pre_llm")
        if at == "pre_llm" or name not in UNFOLLOWED
    ],
)
@torch.no_grad()
def test_turns_are_what_one_prompt_is_with_the_same_plan(name: str, at: str) -> None:
    case = case_of(name)
    model, (first, second) = case.create(torch.float64), turns(case)
    whole, length = chat(first, second), first["input_ids"].shape[1]
    where, one, two, last = placed(model, whole, length)
    with tokenprune.attach(model, early("uniform", at)):
        out = model(**first, **one, use_cache=True)
        given = with_cache(model, cache_of(out))
        found = model(**behind(first, second), **two, **given, use_cache=True)
        given = with_cache(model, cache_of(found))
        more = model(**step(whole), **last, **given).logits
        wanted = answered(model, whole, where, last)
    torch.testing.assert_close(found.logits, wanted[:, length:-1], rtol=0, atol=ROUNDED)
    torch.testing.assert_close(more, wanted[:, -1:], rtol=0, atol=ROUNDED)


@pytest.mark.parametrize("positions", ["original", "compact"])
@torch.no_grad()
def test_pictures_may_stand_behind_turns_of_text_alone(positions: str) -> None:
    case = case_of("llava")
    model, (first, second) = case.create(torch.float64), turns(case)
    talk = {"input_ids": TEXT, "attention_mask": torch.ones_like(TEXT)}
    calls = [talk, behind(talk, first)]
    calls.append(behind({"attention_mask": calls[1]["attention_mask"]}, second))
    whole = chat(first, second)
    for name in ("input_ids", "attention_mask"):
        whole[name] = torch.cat((talk[name], whole[name]), dim=1)
    with tokenprune.attach(model, early("uniform", positions=positions)):
        found = taken_in_turns(model, calls, whole)
        wanted = answered(model, whole, {}, {})
    torch.testing.assert_close(found, wanted, rtol=0, atol=EXACT)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", ["llava", "llava_next", "mistral3"])
@torch.no_grad()
def test_a_batch_of_chats_gives_what_they_give_alone(name: str, padding: str) -> None:
    """Rows have other numbers of pictures, and padding in both turns."""
    assert_as_alone(name, padding, early("uniform"), atol=EXACT)


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_generation_takes_the_whole_chat_and_the_new_pictures(name: str) -> None:
    case = case_of(name)
    model, (first, second) = case.create(torch.float64), turns(case)
    with tokenprune.attach(model, early("uniform")):
        out = model.generate(**first, **NEW, return_dict_in_generate=True)
        answer = {"input_ids": out.sequences, "attention_mask": torch.ones_like(out.sequences)}
        whole = chat({**first, **answer}, second)
        shown = {name: value for name, value in second.items() if not said(name)}
        text = {name: value for name, value in whole.items() if said(name)}
        found = model.generate(**text, **shown, **with_cache(model, cache_of(out)), **NEW)
        assert torch.equal(found, model.generate(**whole, **NEW))


@pytest.mark.parametrize("scene", ["one", "two_sizes"])
@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_a_budget_of_a_prompt_is_that_of_its_new_pictures(name: str, scene: str) -> None:
    """Features may be made before the forward, when `generate` holds the whole chats."""
    case = case_of(name, scene)
    model, (first, second) = case.create(torch.float64), turns(case, scene)
    total = plan({"strategy": "uniform", "at": "pre_llm", "keep": {"total": 5}})
    whole = {name: value for name, value in chat(first, second).items() if said(name)}
    with tokenprune.attach(model, total) as handle, torch.no_grad():
        cache = cache_of(model(**first, use_cache=True))
        given = with_cache(model, copy.deepcopy(cache))
        found = model.generate(**{**second, **whole}, **with_cache(model, cache), **NEW)
        assert [image.kept for image in handle.trace.images] == [5] * len(whole["input_ids"])
        wanted = model.generate(**behind(first, second), **given, **NEW)
    assert torch.equal(found[:, -4:], wanted[:, -4:])


@pytest.mark.parametrize(
    ("name", "stages", "why"),
    [
        ("gemma3", early("uniform"), "said by masks of one whole prompt"),
        ("llava", early("uniform"), "a mask of shape"),
    ],
)
@torch.no_grad()
def test_what_turns_cant_serve_is_refused(name: str, stages: dict[str, Any], why: str) -> None:
    case = case_of(name)
    model, (first, second) = case.build(torch.float64), turns(case)
    later = second if why == "a mask of shape" else behind(first, second)
    with tokenprune.attach(model, stages):
        given = with_cache(model, cache_of(model(**first, use_cache=True)))
        with pytest.raises(UnsupportedCallError, match=why):
            model(**later, **given)


@torch.no_grad()
def test_linear_attention_would_see_padding_of_a_turn() -> None:
    case = case_of("qwen3_5", "several")
    model, (first, second) = case.build(torch.float64), turns(case, "several", "left")
    with tokenprune.attach(model, early("uniform")):
        given = with_cache(model, cache_of(model(**first, use_cache=True)))
        where = torch.zeros(3, *second["input_ids"].shape, dtype=torch.int64)
        with pytest.raises(UnsupportedCallError, match="take no mask behind a cache"):
            model(**behind(first, second), position_ids=where, **given)
