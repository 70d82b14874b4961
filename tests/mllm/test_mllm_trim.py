"""Caches trimmed to what a later layer keeps, and cuts in front of layer 0, while decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.llava import LlavaAdapter
from torch import Tensor

import tokenprune
from tests import models
from tests.mllm import cache_oracle, oracle
from tests.mllm.cache_oracle import Keep
from tests.mllm.calls import (
    LONG,
    NEW,
    SHORT,
    TEXT,
    cache_of,
    greedy,
    inputs,
    logits,
    model,
    split,
    with_cache,
)
from tests.mllm.plans import fastv, pick, plan, trimming
from tests.models import IMAGE_TOKEN, PATCHES, VOCABULARY
from tokenprune.errors import UnsupportedCallError

SPELT = [token for token in SHORT for _ in range(PATCHES if token == IMAGE_TOKEN else 1)]
FIRST = SPELT.index(IMAGE_TOKEN)
TEXT_PLACES = [place for place, token in enumerate(SPELT) if token != IMAGE_TOKEN]


def keep(layer: int, patches: list[int], trims: bool = False, words: Any = TEXT_PLACES) -> Keep:
    return Keep(layer, frozenset([*words, *(FIRST + patch for patch in patches)]), trims)


def at(layer: int, *index: int) -> dict[str, Any]:
    return pick(*index, at="decoder", layer=layer)


START = (1, 2, 5, 6, 9, 20)
CASES: dict[str, tuple[list[dict[str, Any]], list[Keep], tuple[int, ...]]] = {
    "one": ([trimming(2, 3, (1, 4, 30))], [keep(2, [1, 4, 30], True)], tuple(range(PATCHES))),
    "last layer": ([trimming(3, 2, (0, 7))], [keep(3, [0, 7], True)], tuple(range(PATCHES))),
    "behind pre_llm": ([pick(*START), trimming(2, 2, (0, 4))], [keep(2, [1, 9], True)], START),
    "between others": (
        [at(1, 1, 2, 3, 8, 9), trimming(2, 3, (0, 2, 3)), at(3, 0, 2)],
        [keep(1, [1, 2, 3, 8, 9]), keep(2, [1, 3, 8], True), keep(3, [1, 8])],
        tuple(range(PATCHES)),
    ),
    "twice": (
        [trimming(1, 3, (1, 2, 3)), trimming(3, 2, (0, 2))],
        [keep(1, [1, 2, 3], True), keep(3, [1, 3], True)],
        tuple(range(PATCHES)),
    ),
    "layer 0": ([at(0, 1, 2, 8)], [keep(0, [1, 2, 8])], tuple(range(PATCHES))),
    "layer 0 and later": (
        [pick(*START), at(0, 0, 2, 4), at(2, 1, 2)],
        [keep(0, [1, 5, 9]), keep(2, [5, 9])],
        START,
    ),
    "layer 0, trimmed later": (
        [at(0, 1, 2, 8), trimming(2, 1, (1,))],
        [keep(0, [1, 2, 8]), keep(2, [2], True)],
        tuple(range(PATCHES)),
    ),
}


def steps(of: Any, call: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """Logits of greedy generation, `[NEW, V]`."""
    out = of.generate(
        **call,
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=VOCABULARY,
        output_logits=True,
        return_dict_in_generate=True,
        **kwargs,
    )
    return torch.cat(out.logits)


def generates(of: Any, call: dict[str, Tensor], want: Tensor, lengths: list[int]) -> None:
    """The prompt leaves caches of these lengths, and logits are those wanted, also without any."""
    with torch.no_grad():
        cache = cache_of(of(**call, use_cache=True))
    assert [cache.layers[layer].keys.shape[2] for layer in range(4)] == lengths
    for use_cache in (True, False):
        got = steps(of, call, use_cache=use_cache)
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", ["clip", "mistral"])
@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str, kind: str, compact: bool) -> None:
    of, call = model(kind), inputs(SHORT)
    stages, cuts, start = CASES[name]
    one = oracle.sample(of, SPELT, call["pixel_values"], [start])
    want, lengths = cache_oracle.greedy(of, one, NEW, cuts, compact)
    positions = "compact" if compact else "original"
    with tokenprune.attach(of, plan(*stages, positions=positions)):
        generates(of, call, want, lengths)


def test_text_leaves_the_caches_too() -> None:
    of, call = model(), inputs(SHORT)
    stage = trimming(2, 2, (0, 7))
    stage = {**stage, "keep_text": 2, "params": {"index": [0, 7], "text": [1, 2]}}
    words = [place for place in TEXT_PLACES if place != 1]
    one = oracle.sample(of, SPELT, call["pixel_values"], [range(PATCHES)])
    want, lengths = cache_oracle.greedy(of, one, NEW, [keep(2, [0, 7], True, words)])
    with tokenprune.attach(of, plan(stage)):
        generates(of, call, want, lengths)


def test_trimming_changes_what_is_generated() -> None:
    """Otherwise the tests above could pass without it."""
    of, call = model(), inputs(SHORT)
    found = []
    for stage in (trimming(3, 1, (7,)), at(3, 7)):
        with tokenprune.attach(of, plan(stage)), torch.no_grad():
            out = of(**call, use_cache=True)
            new = of(
                input_ids=torch.tensor([[17]]),
                attention_mask=torch.ones(1, len(SPELT) + 1, dtype=torch.long),
                **with_cache(of, cache_of(out)),
            )
            found.append((out.logits, new.logits))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-3)


PLANS = {
    "trim": plan(fastv(1, 9), trimming(2, 4), fastv(3, 0.5)),
    "ragged": plan({"at": "pre_llm", "strategy": "t-ragged", "keep": 1.0}, trimming(2, 3)),
    "exits": plan({"at": "decoder", "strategy": "t-leave", "layers": [1, 2]}, trimming(3, 2)),
    "layer 0": plan({"at": "decoder", "strategy": "t-ragged", "layer": 0, "keep": 1.0}, fastv(2)),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("compact", [False, True])
def test_a_batch_gives_what_its_samples_give_alone(name: str, side: str, compact: bool) -> None:
    of, call = model(), inputs(SHORT, LONG, TEXT, [1, IMAGE_TOKEN, 2, 14], side=side)
    with tokenprune.attach(of, {**PLANS[name], "positions": "compact" if compact else "original"}):
        together, behind = continued(of, call)
        for row, one in enumerate(split(call)):
            alone, next_ = continued(of, one)
            mine = together[row, call["attention_mask"][row].bool()]
            torch.testing.assert_close(mine, alone[0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(behind[row], next_[0], atol=2e-5, rtol=1e-4)


def continued(of: Any, call: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of the prompt, and of three tokens behind its cache, the first two at once."""
    mask = call["attention_mask"]
    more = torch.tensor([[20, 21]]).expand(len(mask), -1)
    length = mask.sum(dim=1, keepdim=True)
    with torch.no_grad():
        place = (mask.cumsum(dim=1) - 1).clamp(min=0)
        out = of(**call, position_ids=place, use_cache=True)
        found = []
        for ids in (more, more[:, :1]):
            mask = torch.cat((mask, torch.ones_like(ids)), dim=1)
            position = length + torch.arange(ids.shape[1])
            length = length + ids.shape[1]
            new = of(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position,
                **with_cache(of, cache_of(out)),
            )
            found.append(new.logits)
    return out.logits, torch.cat(found, dim=1)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cache_and_beams_change_nothing(name: str, attention: str) -> None:
    of, call = model("clip", attention), inputs(SHORT, LONG)
    with tokenprune.attach(of, PLANS[name]):
        tokens = greedy(of, call)
        assert torch.equal(greedy(of, call, use_cache=False), tokens)
        # one image a prompt: generate of transformers 5.17 gives the beams of a prompt with two of
        # them different images
        call = inputs(SHORT, SHORT[1:])
        beams = greedy(of, call, num_beams=2)
        assert torch.equal(greedy(of, call, num_beams=2, use_cache=False), beams)


def test_a_stage_that_keeps_all_changes_nothing() -> None:
    of, call = model(), inputs(SHORT, LONG)
    want, tokens = logits(of, call), greedy(of, call)
    with tokenprune.attach(of, plan(trimming(2, PATCHES))):
        assert torch.equal(logits(of, call), want)
        assert torch.equal(greedy(of, call), tokens)


@pytest.mark.parametrize("name", ["trim", "layer 0"])
def test_sliding_caches_are_trimmed_too(name: str) -> None:
    from transformers import CLIPVisionConfig, MistralConfig

    call, found = inputs(SHORT, LONG), []
    language = MistralConfig(
        **models._language(), sliding_window=call["input_ids"].shape[1] + NEW + 1
    )
    sliding = models._llava(CLIPVisionConfig(**models._vision()), language, "sdpa")
    for of in (sliding, model("mistral")):
        with tokenprune.attach(of, PLANS[name]):
            found.append(greedy(of, call))
            assert torch.equal(greedy(of, call, use_cache=False), found[-1])
    assert torch.equal(*found)


def test_caches_of_another_kind_are_refused_by_name() -> None:
    class Odd:
        keys = torch.zeros(1, 2, 4, 8)

        def get_seq_length(self) -> int:
            return 4

    class Cache:
        layers = (Odd(),)

    with pytest.raises(UnsupportedCallError, match="class Odd") as caught:
        LlavaAdapter(model()).trim_cache(Cache(), 0, torch.zeros(1, 1, dtype=torch.long))
    assert "DynamicCache" in caught.value.remedy
