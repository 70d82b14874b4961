"""What users do to a KV cache between a prompt and what follows: rows move, tokens leave."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.cases import CASES
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import LAYER, layers, staged
from tests.mllm.calls import cache_of, with_cache
from tokenprune.errors import UnsupportedCallError

MOVES: dict[str, list[int]] = {
    "reorder_cache": [2, 0, 1],
    "batch_select_indices": [0, 2],
    "batch_repeat_interleave": [0, 0, 1, 1, 2, 2],
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
}
KEEP = 0.5
FAMILIES = ["llava", "llava_next", "gemma3", "paligemma", "smolvlm"]
TURNS = ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "mistral3"]
TEXTUAL = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
NEW: dict[str, Any] = {
    "max_new_tokens": 4,
    "min_new_tokens": 4,
    "do_sample": False,
    "output_logits": True,
    "return_dict_in_generate": True,
}
ROOM = {"max_cache_len": 90}
QUESTION = torch.tensor([[78, 81, 82]])


def prefilled(model: Any, call: dict[str, Tensor]) -> tuple[dict[str, Any], Any]:
    """The cache of a prompt, as an argument and alone."""
    out = model(**call, use_cache=True)
    named = {"cache": out.cache} if "cache" in out else {"past_key_values": out.past_key_values}
    return named, *named.values()


def moved(model: Any, call: dict[str, Tensor], move: str | None, copied: str = "") -> Tensor:
    """Logits of one step behind a cache whose rows were moved, with the mask that goes along."""
    named, cache = prefilled(model, call)
    if copied:
        cache = COPIES[copied](cache)
        named = dict.fromkeys(named, cache)
    rows = torch.arange(3) if move is None else torch.tensor(MOVES[move])
    if move is not None:
        getattr(cache, move)(2 if move == "batch_repeat_interleave" else rows)
    mask = call["attention_mask"][rows]
    longer = torch.cat((mask, mask.new_ones(len(rows), 1)), dim=1)
    step = torch.tensor([[77], [78], [79]])[rows]
    logits: Tensor = model(input_ids=step, attention_mask=longer, **named).logits
    return logits


@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_rows_of_a_cache_may_be_moved(name: str, stage: str) -> None:
    case = CASES[name]
    model, call = case.build(torch.float64), case.inputs("several", "left", torch.float64)
    with tokenprune.attach(model, staged(name, stage, KEEP)):
        plain = moved(model, call, None)
        for move, copied in itertools.product(MOVES, ("", *COPIES)):
            apart = moved(model, call, move, copied) - plain[MOVES[move]]
            assert float(apart.abs().max()) < 1e-9, f"{move} {copied}"


@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", [*FAMILIES, "qwen2_5_vl", "qwen3_5"])
@torch.no_grad()
def test_a_cache_that_was_emptied_starts_anew(name: str, stage: str) -> None:
    case = CASES[name]
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)

    def answer() -> Tensor:
        named, cache = prefilled(model, call)
        cache.reset()
        if any(getattr(layer, "keys", None) is not None for layer in cache.layers):
            pytest.skip("in this version of transformers reset() fills a cache with zeros")
        model(input_ids=torch.tensor([[1, 30, 31, 32, 33, 34]]), **named)
        logits: Tensor = model(input_ids=torch.tensor([[78]]), **named).logits
        return logits

    dense = answer()
    with tokenprune.attach(model, staged(name, stage, KEEP)):
        torch.testing.assert_close(answer(), dense, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl", "smolvlm", "mistral3"])
@torch.no_grad()
def test_a_question_may_be_cropped_away_and_another_one_asked(
    name: str, stage: str, masked: bool
) -> None:
    case, left = CASES[name], 4
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    ids = call["input_ids"]
    whole = {**call, "input_ids": torch.cat((ids[:, :-left], QUESTION), dim=1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    with tokenprune.attach(model, staged(name, stage, KEEP)) as handle:
        named, cache = prefilled(model, call)
        removed = gone(case, handle.trace, ids, case.prompts("one", "none"))
        cache.crop(-left)
        rest = {"attention_mask": whole["attention_mask"]} if masked else {}
        found = [model(input_ids=QUESTION[:, :1], **named, **_upto(rest, 1)).logits]
        found.append(model(input_ids=QUESTION[:, 1:], **named, **rest).logits)
    hidden = torch.cat((removed[:, :-left], torch.zeros_like(QUESTION, dtype=torch.bool)), dim=1)
    first = LAYER.get(name, 2) if stage == "decoder" else 0
    with hidden_from(layers(model), first, hidden):
        want = model(**whole).logits[:, -QUESTION.shape[1] :]
    torch.testing.assert_close(torch.cat(found, dim=1), want, rtol=1e-8, atol=1e-8)


def _upto(rest: dict[str, Tensor], new: int) -> dict[str, Tensor]:
    """A mask for the first of the new tokens alone."""
    end = new - QUESTION.shape[1]
    return {name: value[:, :end] for name, value in rest.items()}


def answered(model: Any, call: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Sequences, the logits of their new tokens, and the cache as an argument."""
    out = model.generate(**call, **NEW)
    return out.sequences, torch.stack(out.logits), with_cache(model, cache_of(out))


def followed_by(call: dict[str, Tensor], answer: Tensor) -> dict[str, Tensor]:
    """A chat that goes on behind an answer with another question."""
    rows, length = call["input_ids"].shape
    ids = torch.cat((answer, QUESTION.expand(rows, -1)), dim=1)
    new = {"input_ids": 0, "attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0}
    return {**call, "input_ids": ids} | {
        name: torch.nn.functional.pad(call[name], (0, ids.shape[1] - length), value=value)
        for name, value in new.items()
        if name in call and name != "input_ids"
    }


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", TURNS)
def test_generation_goes_on_behind_the_cache_of_a_chat(name: str, stage: str, padding: str) -> None:
    """It counts by the length of a cache, which is that of the unpruned chat."""
    case, scene = CASES[name], "one" if padding == "none" else "several"
    model, call = case.build(torch.float64), case.inputs(scene, padding, torch.float64)
    with tokenprune.attach(model, staged(name, stage, KEEP)) as handle:
        sequences, _, given = answered(model, call)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts(scene, padding))
        whole = followed_by(call, sequences)
        (cache,) = given.values()
        assert cache.get_seq_length() == sequences.shape[1] - 1
        assert cache.get_seq_length(3) < sequences.shape[1] - 1
        text = {name: whole[name] for name in whole if name in TEXTUAL}
        found, scores, _ = answered(model, {**text, **given})
    longer = torch.nn.functional.pad(removed, (0, whole["input_ids"].shape[1] - removed.shape[1]))
    with hidden_from(layers(model), LAYER.get(name, 2) if stage == "decoder" else 0, longer):
        wanted, full, _ = answered(model, whole)
    assert torch.equal(found, wanted)
    torch.testing.assert_close(scores, full, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@torch.no_grad()
def test_crops_that_mean_another_thing_in_each_layer_are_refused(stage: str) -> None:
    case = CASES["llava"]
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    with tokenprune.attach(model, staged("llava", stage, KEEP)):
        named, cache = prefilled(model, call)
        with pytest.raises(UnsupportedCallError, match=r"crop\(-n\)"):
            cache.crop(9)
        cache.crop(-12)  # into the picture
        with pytest.raises(UnsupportedCallError, match="12 tokens of the prompt have left"):
            model(input_ids=QUESTION, **named)
    named, cache = prefilled(model, call)
    cache.crop(-12)  # without a plan it's the user's affair


@torch.no_grad()
def test_a_crop_counts_removed_tokens_too() -> None:
    """The tokens of a turn with its picture may be more than are left of the whole chat."""
    case = CASES["llava"]
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    dense, whole = model(input_ids=QUESTION).logits, call["input_ids"].shape[1]
    with tokenprune.attach(model, staged("llava", "pre_llm", KEEP)):
        named, cache = prefilled(model, call)
        with pytest.raises(UnsupportedCallError, match=f"{whole - 1} of {whole} tokens can't"):
            cache.crop(1 - whole)
        cache.crop(-whole)
        assert torch.equal(model(input_ids=QUESTION, **named).logits, dense)


@pytest.mark.parametrize("copied", ["", *COPIES])
@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl", "qwen3_5"])
@torch.no_grad()
def test_a_model_without_the_plan_is_refused_behind_its_cache(
    name: str, stage: str, copied: str
) -> None:
    case = CASES[name]
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    with tokenprune.attach(model, staged(name, stage, KEEP)):
        named, cache = prefilled(model, call)
        if copied:
            named = dict.fromkeys(named, COPIES[copied](cache))
        model(input_ids=QUESTION[:, :1], **named)
        held = named[next(iter(named))].get_seq_length()
    ids = torch.cat((call["input_ids"], QUESTION), dim=1)
    with pytest.raises(UnsupportedCallError, match="shortened by a plan"):
        model(input_ids=QUESTION[:, 1:], **named)
    with pytest.raises(UnsupportedCallError, match="shortened by a plan"):
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **named)
    assert named[next(iter(named))].get_seq_length() == held


@pytest.mark.parametrize(("kind", "room"), [("DynamicCache", {}), ("StaticCache", ROOM)])
@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@pytest.mark.parametrize("name", ["llava", "internvl", "mistral3"])
@torch.no_grad()
def test_a_cache_that_is_given_is_filled_where_none_is_wanted_back(
    name: str, stage: str, kind: str, room: dict[str, int]
) -> None:
    import transformers

    case, found = CASES[name], []
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    with tokenprune.attach(model, staged(name, stage, KEEP)):
        for use_cache in (True, False):
            cache = getattr(transformers, kind)(config=model.config.text_config, **room)
            given = with_cache(model, cache)
            model(**call, **given, use_cache=use_cache)
            found.append(model(input_ids=QUESTION, **given).logits)
    assert torch.equal(*found)


@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@torch.no_grad()
def test_a_quantized_cache_is_counted_as_it_counts_itself(stage: str) -> None:
    from transformers import cache_utils

    if not hasattr(cache_utils, "Fp8QuantizedLayer"):
        pytest.skip("this version of transformers quantizes by other packages only")
    case = CASES["paligemma"]
    model, call = case.build(), case.inputs("one", "none")
    wanted = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    fp8 = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    with tokenprune.attach(model, staged("paligemma", stage, KEEP)):
        plain, found = model.generate(**call, **wanted), model.generate(**call, **wanted, **fp8)
    assert found.shape == plain.shape
