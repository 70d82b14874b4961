"""Ways to call a pruned family beside a plain prefill: beams, no cache, steps by hand, layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families import scenes
from tests.families.calls import begun, case_of, logits
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import decoder, layers, plan, staged
from tokenprune.errors import UnsupportedCallError

EXACT, NEW = 1e-9, {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
SOME = ("llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm", "gemma3", "paligemma")
SOME += ("granite4_vision",)
ROWED = ("llava_next", "llava_next_video", "llava_onevision", "granite4_vision")
"""Families with a newline behind every row of tiles."""
AT_LAYERS = [
    *(("qwen3_vl", layer) for layer in (0, 1, 3)),
    *(("qwen3_vl_moe", layer) for layer in (0, 1)),
    *(("gemma3", layer) for layer in (0, 1, 3)),
    *(("gemma4", layer) for layer in (0, 1, 3)),
    *(("granite4_vision", layer) for layer in (0, 1, 3)),
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
    model = case.build(torch.float64)
    # releases that encode in every forward mix up the pictures of a prompt with several of them
    scene = "several" if hasattr(model, "_expand_multimodal_outputs") else "two_sizes"
    call = case.inputs(scene, "left", torch.float64)
    beams = {**NEW, "num_beams": 2}
    with tokenprune.attach(model, staged(name, "decoder", 0.4)) as handle:
        logits(model, call)
        removed = cut(case, call, handle, scene, "left").repeat_interleave(2, dim=0)
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
            out = model(**call, **begun(model), use_cache=True)
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


@pytest.mark.parametrize("stages", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", ROWED)
def test_a_newline_leaves_with_its_row(name: str, stages: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("two_sizes", "left", torch.float64)
    with tokenprune.attach(model, staged(name, stages, 0.05)) as handle:
        short = logits(model, call)
        removed = cut(case, call, handle, "two_sizes", "left")
    places = case.placeholders(call)
    assert int((places & ~removed).sum()) < 0.2 * int(places.sum())  # with their newlines
    with hidden_from(layers(model), 2 if stages == "decoder" else 0, removed):
        full = logits(model, call)
    seen = call["attention_mask"].bool() & ~removed
    assert float((short - full)[seen].abs().max()) < EXACT


@pytest.mark.parametrize("stages", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_newlines_stay_where_the_plan_keeps_separators(name: str, stages: str) -> None:
    case: Any = case_of(name)
    model, call = case.build(torch.float64), case.inputs("two_sizes", "left", torch.float64)
    lengths = []
    for keep in (0.05, 0.1):
        content = {**staged(name, stages, keep), "separators": "keep"}
        with tokenprune.attach(model, content) as handle:
            short = logits(model, call)
            ids, prompts = call["input_ids"], case.prompts("two_sizes", "left")
            removed = gone(case, handle.trace, ids, prompts, separators=True)
        kept = sum(image.kept for image in handle.trace.images)
        lengths.append(int((case.placeholders(call) & ~removed).sum()) - kept)
        with hidden_from(layers(model), 2 if stages == "decoder" else 0, removed):
            full = logits(model, call)
        seen = call["attention_mask"].bool() & ~removed
        assert float((short - full)[seen].abs().max()) < EXACT
    newlines = sum(case.shown(image)[0] for image in scenes.images(prompts))
    assert lengths == [newlines, newlines], "all of them, whatever is kept"


@pytest.mark.parametrize("name", ["llava_next", "internvl", "smolvlm"])
def test_compact_positions_are_those_of_a_shorter_prompt(name: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    seen: dict[str, Any] = {}
    language = getattr(model.model, "text_model", None) or model.model.language_model
    hook = language.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    logits(model, call)
    hook.remove()
    with tokenprune.attach(model, {**staged(name, "pre_llm", 0.5), "positions": "compact"}) as h:
        short = logits(model, call)
        kept = (~cut(case, call, h, "one", "none")[0]).nonzero()[:, 0]
    with torch.no_grad():
        states = language(inputs_embeds=seen["inputs_embeds"][:, kept]).last_hidden_state
        expected = model.lm_head(states)
    assert float((short[:, kept] - expected).abs().max()) < EXACT


@pytest.mark.parametrize("name", SOME)
def test_prompts_without_pictures_run_as_ever(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    words = {"input_ids": call["input_ids"].masked_fill(case.placeholders(call), 70)}
    dense = logits(model, words)
    with tokenprune.attach(model, staged(name, "both", 0.5)):
        assert torch.equal(logits(model, words), dense)


@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "smolvlm"])
def test_a_report_counts_units_of_every_picture(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("several")
    with tokenprune.attach(model, staged(name, "both", 0.5)) as handle:
        logits(model, call)
    counted, pictures = handle.report(), handle.trace.images
    whole = sum(image.patches for image in pictures)
    kept = sum(image.kept for image in pictures)
    assert counted.images == len(pictures)
    assert counted.tokens["units"] == pytest.approx(whole / len(pictures))
    assert counted.tokens["decoder[2]"] == pytest.approx(kept / len(pictures))


@pytest.mark.parametrize("strategy", ["uniform", "prunevid", "vscan", "fastv", "cls_inflection"])
def test_other_methods_run_on_tiles_and_clips(strategy: str) -> None:
    case = case_of("llava_next_video", "mixed")
    model, call = case.build(torch.float64), case.inputs("mixed", "left", torch.float64)
    stage = {"strategy": strategy, "at": "decoder", "layer": 2, "keep": 0.5}
    with tokenprune.attach(model, plan(stage)) as handle:
        cached = model.generate(**call, **NEW)
        assert all(image.kept < image.patches for image in handle.trace.images)
        assert torch.equal(model.generate(**call, **NEW, use_cache=False), cached)


TRIMMING = {"strategy": "prunevid", "at": "decoder", "layer": 2, "keep": 0.4}


@pytest.mark.parametrize("name", [name for name in (*SOME, "qwen3_vl_moe") if name != "gemma3"])
def test_trimmed_caches_give_the_tokens_of_no_cache(name: str) -> None:
    case = case_of(name)
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    with tokenprune.attach(model, plan(TRIMMING)):
        cached = model.generate(**call, **NEW)
        assert torch.equal(model.generate(**call, **NEW, use_cache=False), cached)


@pytest.mark.parametrize("name", ["gemma3", "gemma4"])
def test_caches_that_a_window_slid_over_are_not_trimmed(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("several")
    dense = logits(model, call)
    with (
        tokenprune.attach(model, plan(TRIMMING)),
        pytest.raises(UnsupportedCallError, match="a window slid over it"),
    ):
        model.generate(**call, **NEW)
    assert torch.equal(logits(model, call), dense)


@pytest.mark.parametrize("name", ["internvl", "llama4"])
def test_labelled_answers_take_no_part_in_the_choice(name: str) -> None:
    """In Llama 4 the module that reads labels is the core itself."""
    case = case_of(name)
    model, call = case.build(), case.inputs("one", "none")
    answer = torch.arange(90, 94)[None]
    ids = torch.cat((call["input_ids"], answer), dim=1)
    longer = {**call, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.cat((torch.full_like(call["input_ids"], -100), answer), dim=1)
    stage = {"strategy": "fastv", "at": "decoder", "layer": 2, "keep": 0.5}
    with tokenprune.attach(model, plan(stage)) as handle:
        kept = []
        for given in (call, {**longer, "labels": labels}, longer):
            logits(model, given)
            kept.append(handle.trace.images[0].steps[-1].anchor.tolist())
    assert kept[0] == kept[1] != kept[2]
