"""Pictures of a chat's further turns under plans with stages inside the LLM."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import begun, case_of
from tests.families.chats import (
    STEP,
    answered,
    assert_as_alone,
    behind,
    chat,
    placed,
    said,
    step,
    turns,
)
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import LAYER, decoder, layers, plan, staged
from tests.mllm.calls import cache_of, with_cache
from tests.mllm.plans import trimming
from tests.mllm.strategies import PLUGIN
from tokenprune.plugins.host import register_plugin

EXACT, ROUNDED = 1e-9, 1e-4
CUT = ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "mistral3", "hy_v4_vl", "granite4_vision"]
WINDOWS = ["aya_vision", "muse_glimmer", "dots3_note"]
"""Families whose LLM makes masks of windows by itself."""
READ = [("fastv", name) for name in ("llava", "qwen2_5_vl", "qwen3_vl", "granite4_vision")]
READ += [("pyramiddrop", name) for name in ("llava", "qwen2_5_vl")]
LINEAR = ["qwen3_5", "qwen4_exp", "glm5_next", "lfm2_vl", "lfm3_vl"]
ANSWER = 4
NEW: dict[str, Any] = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER, "do_sample": False}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with register_plugin(PLUGIN, "turns-inside"):
        yield


def inside(strategy: str, layer: int = 2, **rest: Any) -> dict[str, Any]:
    return {"strategy": strategy, "at": "decoder", "layer": layer, "keep": 0.5, **rest}


@pytest.mark.parametrize(
    ("strategy", "name"), [*(("random", name) for name in (*CUT, *WINDOWS)), *READ]
)
@torch.no_grad()
def test_a_further_picture_is_cut_as_in_the_whole_chat(strategy: str, name: str) -> None:
    """The oracle is the plain model over the whole chat, removed tokens hidden layer by layer."""
    case = case_of(name)
    model, prompts = case.create(torch.float64), case.prompts("one", "none")
    first, second = turns(case)
    whole, length = chat(first, second), first["input_ids"].shape[1]
    where, one, two, last = placed(model, whole, length)
    stages = staged(name, "both", 0.5)
    stages["stages"][1]["strategy"] = strategy
    later, given, found, removed = behind(first, second), begun(model), [], []
    with tokenprune.attach(model, stages) as handle:
        for call in ({**first, **one}, {**later, **two}, {**step(whole), **last}):
            out = model(**call, **given, use_cache=True)
            given = with_cache(model, cache_of(out))
            found.append(out.logits)
            if len(removed) < 2:
                ids = first["input_ids"], prompts
                removed.append([gone(case, handle.trace, *ids, at) for at in (0, -1)])
    early, late = (torch.cat(both, dim=1) for both in zip(*removed, strict=True))
    for turn in (slice(length), slice(length, None)):
        assert 0 < int(early[:, turn].sum()) < int(late[:, turn].sum())
    with hidden_from(layers(model), 0, early), hidden_from(layers(model), LAYER.get(name, 2), late):
        wanted = answered(model, whole, where, last)
    kept = torch.cat((~late[0], torch.ones(1, dtype=torch.bool)))
    assert float((torch.cat(found, dim=1) - wanted)[0, kept].abs().max()) < EXACT


def in_turns(model: Any, first: Any, second: Any, stages: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits of the second turn and a step behind it: in turns, and with the chat as one prompt."""
    whole, length = chat(first, second), first["input_ids"].shape[1]
    where, one, two, last = placed(model, whole, length)
    with tokenprune.attach(model, stages):
        given = with_cache(model, cache_of(model(**first, **one, **begun(model), use_cache=True)))
        out = model(**behind(first, second), **two, **given, use_cache=True)
        more = model(**step(whole), **last, **with_cache(model, cache_of(out))).logits
        wanted = answered(model, whole, where, last)[:, length:]
    return torch.cat((out.logits, more), dim=1), wanted


@pytest.mark.parametrize("name", LINEAR)
@torch.no_grad()
def test_linear_attention_sees_what_it_sees_in_one_prompt(name: str) -> None:
    case = case_of(name)
    model, (first, second) = case.create(torch.float64), turns(case)
    stages = plan({**decoder(name, 0.5), "strategy": "uniform"})
    found, wanted = in_turns(model, first, second, stages)
    torch.testing.assert_close(found, wanted, rtol=0, atol=ROUNDED)


PLANS: dict[str, dict[str, Any]] = {
    "all leave": plan(inside("t-exit")),
    "all leave one after another": plan(inside("uniform", 1), inside("t-exit", 3)),
    "merges": plan(inside("t-pairs")),
    "in front of layer 0": plan(inside("uniform", 0), inside("uniform", 2)),
    "three steps": plan(
        inside("uniform", 1), inside("uniform", 2), inside("uniform", 3, keep=1 / 3)
    ),
    "compact": plan(inside("uniform", 1), positions="compact"),
    "compact throughout": plan(
        {"strategy": "uniform", "at": "pre_llm", "keep": 0.5},
        inside("uniform", 0),
        inside("uniform", 3, keep=1 / 3),
        positions="compact",
    ),
}


@pytest.mark.parametrize("stages", PLANS.values(), ids=PLANS)
@torch.no_grad()
def test_turns_are_what_one_prompt_is_with_the_same_plan(stages: dict[str, Any]) -> None:
    case = case_of("llava")
    model, (first, second) = case.create(torch.float64), turns(case)
    found, wanted = in_turns(model, first, second, stages)
    torch.testing.assert_close(found, wanted, rtol=0, atol=EXACT)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", ["llava", "llava_next", "mistral3"])
@torch.no_grad()
def test_a_batch_of_chats_gives_what_they_give_alone(name: str, padding: str) -> None:
    """Rows have other numbers of pictures, and padding in both turns."""
    assert_as_alone(name, padding, plan(inside("fastv", 1), inside("fastv", 3)), atol=EXACT)


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_generation_goes_on_behind_three_turns(name: str) -> None:
    """The same tokens as greedy ones of the plain model with the removed tokens hidden."""
    case = case_of(name)
    model, prompts = case.create(torch.float64), case.prompts("one", "none")
    first, second = turns(case)
    given, removed, whole = begun(model), [], {}
    with tokenprune.attach(model, staged(name, "decoder", 0.5)) as handle:
        for shown in (first, second, first):
            whole = chat(whole, shown) if whole else dict(shown)
            text = {name: value for name, value in whole.items() if said(name)}
            out = model.generate(**{**shown, **text}, **given, **NEW, return_dict_in_generate=True)
            given = with_cache(model, cache_of(out))
            hidden = gone(case, handle.trace, first["input_ids"], prompts)
            removed.append(torch.nn.functional.pad(hidden, (0, ANSWER)))
            whole |= {name: torch.nn.functional.pad(text[name], (0, ANSWER)) for name in text}
            whole["input_ids"], whole["attention_mask"] = out.sequences, out.sequences > 0
    asked = {name: value[:, :-ANSWER] for name, value in whole.items() if said(name)}
    with hidden_from(layers(model), 2, torch.cat(removed, dim=1)[:, :-ANSWER]):
        wanted = model.generate(**{**whole, **asked}, **NEW)
    assert torch.equal(whole["input_ids"], wanted)


@torch.no_grad()
def test_a_question_about_the_second_picture_is_cropped_and_another_asked() -> None:
    case = case_of("llava")
    model, (first, second) = case.create(torch.float64), turns(case)
    with tokenprune.attach(model, staged("llava", "both", 0.5)):
        cache = cache_of(model(**first, use_cache=True))
        cache = cache_of(model(**behind(first, second), **with_cache(model, cache)))
        whole = chat(first, second)
        kept = copy.deepcopy(cache)
        model(**step(whole), **with_cache(model, cache))
        cache.crop(-1)
        again = model(**step(whole), **with_cache(model, cache)).logits
        assert torch.equal(again, model(**step(whole), **with_cache(model, kept)).logits)


@torch.no_grad()
def test_trimmed_caches_are_trimmed_behind_each_turn() -> None:
    """Layers in front of the stage see what they trim in its own turn, and never again."""
    case, layer = case_of("llava"), 2
    model, prompts = case.create(torch.float64), case.prompts("one", "none")
    first, second = turns(case)
    whole, length = chat(first, second), first["input_ids"].shape[1]
    removed, found, given = [], [], {}
    with tokenprune.attach(model, plan(trimming(layer, 4))) as handle:
        for call in (first, behind(first, second), step(whole)):
            out = model(**call, **given, use_cache=True)
            given = with_cache(model, cache_of(out))
            found.append(out.logits)
            if len(found) <= 2:
                removed.append(gone(case, handle.trace, first["input_ids"], prompts)[0])
            held = [part.keys.shape[-2] for part in cache_of(out).layers]
            assert len(set(held)) == 1
    hidden = torch.cat((*removed, torch.zeros(1, dtype=torch.bool)))
    places = torch.arange(2 * length + 1)
    ends = (places // length + 1) * length
    seen = places <= places[:, None]
    trimmed = seen & ~(hidden & (places[:, None] >= ends))
    dropped = seen & ~(hidden & (places != places[:, None]))

    def mask(shows: Tensor) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "attention_mask": shows[None, None]}

        return hook

    hooks = [
        one.register_forward_pre_hook(
            mask(trimmed if number < layer else dropped), with_kwargs=True
        )
        for number, one in enumerate(layers(model))
    ]
    longer = step(whole)["attention_mask"]
    ids = torch.cat((whole["input_ids"], STEP), dim=1)
    wanted = model(**{**whole, "input_ids": ids, "attention_mask": longer}).logits
    for hook in hooks:
        hook.remove()
    assert float((torch.cat(found, dim=1) - wanted)[0, ~hidden].abs().max()) < EXACT
