"""Steps behind a shortened prompt by hand, and of `generate`, where positions have three axes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, language, logits
from tests.families.cells import OMNI
from tests.families.fate import gone
from tests.families.masked import hidden_from, windows_in_places
from tests.families.plans import LAYER, WAYS, beside, core, head, layers, staged
from tokenprune.errors import UnsupportedCallError

EXACT, NEW = 1e-9, 4
GLM = ("glm4v", "glm4v_moe", "glm_ocr")
PACKED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", *OMNI, *GLM)
APART = (*PACKED, "paddleocr_vl", "ernie4_5_vl_moe")
"""Families whose positions have three axes."""
AXES = {"hunyuan_vl": 4}
"""Families with other numbers of them; left to themselves, they count on from the cache."""
LINEAR = ("qwen3_5", "qwen3_5_moe", "qwen4_exp", "glm5_next", "minicpmv4_7")
SHORT = (*LINEAR, "lfm2_vl", "lfm3_vl", "minicpmv4_6", "minicpm_ocr", "nemotron_h_omni")
"""Families in which a removed token isn't the same as a hidden one."""
SCORES = 1e-6
"""How far scores of `generate`, which are of float32, may be from others."""
NEXT = (77, 90, 41, 120)

Steps = list[Tensor]


def staged_apart(names: Sequence[str]) -> list[tuple[str, str]]:
    """Families and what acts on them: both stages, and each by itself on one of each of `WAYS`."""
    single = [
        (name, at) for name in names if name in WAYS.values() for at in ("pre_llm", "decoder")
    ]
    return [*((name, "both") for name in names), *single]


def cache_of(out: Any) -> dict[str, Any]:
    return {"cache": out.cache} if "cache" in out else {"past_key_values": out.past_key_values}


def by_hand(model: Any, call: dict[str, Tensor], how: str) -> Steps:
    """Logits of steps with given tokens; `how` says what the user passes beside them."""
    mask, found = call["attention_mask"], []
    call = call if how != "alone" else {k: v for k, v in call.items() if k != "attention_mask"}
    core(model).rope_deltas = None  # without a mask, thinkers count on by those of a call before
    with torch.no_grad():
        out = model(**call, use_cache=True)
        for token in NEXT:
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
            more = {} if how == "alone" else {"attention_mask": mask}
            if how == "positions":
                last = mask.cumsum(-1)[:, -1:] - 1 + model.model.rope_deltas
                more["position_ids"] = last.expand(AXES.get(model.config.model_type, 3), -1, -1)
            out = model(input_ids=torch.full((len(mask), 1), token), **more, **cache_of(out))
            found.append(out.logits[:, -1])
    return found


def apart(left: Steps, right: Steps) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("how", ["alone", "positions"])
@pytest.mark.parametrize(("name", "stages"), staged_apart([*APART, *AXES]))
def test_steps_by_hand_equal_those_of_the_full_prompt(name: str, how: str, stages: str) -> None:
    case = case_of(name)
    # without a mask there is no padding, so prompts of one length
    scene, padding = ("one", "none") if how == "alone" else ("two_sizes", "left")
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    dense = by_hand(model, call, how)
    with tokenprune.attach(model, staged(name, stages, 0.5)) as handle:
        short = by_hand(model, call, how)
        logits(model, call)  # a trace is of the last call
        prompts = case.prompts(scene, padding)
        removed = [gone(case, handle.trace, call["input_ids"], prompts, at) for at in (0, -1)]
    first, last = {"pre_llm": (0, 0), "decoder": (2, 2), "both": (0, 2)}[stages]
    with (
        hidden_from(layers(model), first, removed[0]),
        hidden_from(layers(model), last, removed[1]),
    ):
        full = by_hand(model, call, how)
    assert apart(short, full) < EXACT
    assert apart(short, dense) > 1e-4


@pytest.mark.parametrize("stages", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", [*APART, *LINEAR])
def test_a_mask_without_positions_is_refused_behind_a_short_cache(name: str, stages: str) -> None:
    """The plain models count the positions of the whole sequence then, and fail."""
    case = case_of(name)
    model, call = case.build(), case.inputs("two_sizes")
    if name == "glm5_next":
        pytest.skip("it rotates nothing, and counts no positions")
    if name != "qwen4_exp":  # which takes the last ones, and counts on from all of them
        with pytest.raises(RuntimeError):
            by_hand(model, call, "mask")
    with (
        tokenprune.attach(model, staged(name, stages, 0.5)),
        pytest.raises(UnsupportedCallError, match="position ids for 1 new tokens"),
    ):
        by_hand(model, call, "mask")


def reference(
    model: Any,
    call: dict[str, Tensor],
    kept: Tensor,
    tokens: Tensor,
    later: Sequence[AbstractContextManager[None]] = (),
) -> Steps:
    """Logits of the prompt's end and of `tokens` behind it, of a prompt that is short throughout.

    Args:
        model: the plain model.
        call: one prompt without padding.
        kept: `[K]` its places that are left.
        tokens: `[S]` new ones.
        later: what acts on those places from later layers on.
    """
    of, seen = language(model), dict[str, Any]()
    hook = of.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    logits(model, call)
    hook.remove()
    every = seen.get("position_ids")  # families that count in one axis leave them to the LLM
    every = torch.arange(seen["inputs_embeds"].shape[1])[None] if every is None else every
    where = every[..., kept]
    embeds, found, cache = seen["inputs_embeds"][:, kept], [], dict[str, Any]()
    more = beside(seen, kept)
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(windows_in_places(layers(model), kept, every.shape[-1]))
        for one in later:
            stack.enter_context(one)
        for token in tokens:
            out = of(inputs_embeds=embeds, position_ids=where, use_cache=True, **cache, **more)
            found.append(head(model)(out.last_hidden_state[:, -1]))
            cache, embeds = cache_of(out), model.get_input_embeddings()(token.view(1, 1))
            where = every[..., -1:] + len(found)
            more = {name: token.view(1, 1) for name in more}
    return found


@pytest.mark.parametrize("name", SHORT)
def test_generating_behind_linear_attention_goes_on_from_the_short_prompt(name: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    more = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    out = {"output_logits": True, "return_dict_in_generate": True}
    with tokenprune.attach(model, staged(name, "pre_llm", 0.5)) as handle:
        made = model.generate(**call, **more, **out)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts("one", "none"))
        again = model.generate(**call, **more, use_cache=False)
        steps = by_hand(model, call, "alone")
    length = call["input_ids"].shape[1]
    assert torch.equal(again, made.sequences)
    kept = (~removed[0]).nonzero()[:, 0]
    assert len(kept) < length
    expected = reference(model, call, kept, made.sequences[0, length:])
    assert apart(list(made.logits), expected) < max(case.rounding, SCORES)
    following = reference(model, call, kept, torch.tensor([*NEXT, 0]))
    assert apart(steps, following[1:]) < case.rounding


@pytest.mark.parametrize(("name", "stages"), staged_apart(SHORT))
def test_padded_prompts_generate_what_they_generate_alone(name: str, stages: str) -> None:
    case = case_of(name, "several")
    model, more = case.build(torch.float64), {"max_new_tokens": NEW, "min_new_tokens": NEW}
    call = case.inputs("several", "left", torch.float64)
    pick = {"strategy": "uniform", "keep": 0.5}
    plan = staged(name, stages, 0.5)
    plan["stages"] = [{**stage, **pick} for stage in plan["stages"]]
    with tokenprune.attach(model, plan):
        together = model.generate(**call, **more, do_sample=False)
        for row, alone in enumerate(case.alone("several", "left", torch.float64)):
            single = model.generate(**alone, **more, do_sample=False)
            assert torch.equal(single[0, -NEW:], together[row, -NEW:])
    assert LAYER[name] == 3
