"""Text tokens in decoder stages: never touched unless the plan opts in, and then exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.llava import LlavaAdapter
from torch import Tensor

import tokenprune
from tests.mllm import oracle
from tests.mllm.calls import (
    IMG,
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
)
from tests.mllm.plans import fastv, pick, plan
from tests.mllm.strategies import Look, Spy
from tests.models import EOS_TOKEN, PAD_TOKEN, PATCHES
from tokenprune import Signal
from tokenprune.errors import PlanError, ReductionError, TokenpruneError, UnsupportedModelError
from tokenprune.interface.specs import MllmSpec

TALK = [1, 10, 14, IMG, 11, EOS_TOKEN, 12, PAD_TOKEN, 15, 16, 13]
PRUNABLE = [1, 2, *(place + PATCHES for place in (3, 5, 7, 8))]


def spying(keep_text: Any = None, layer: int = 2, keep: Any = 0.25) -> dict[str, Any]:
    stage = {"at": "decoder", "strategy": "t-spy", "layer": layer, "keep": keep}
    return stage if keep_text is None else {**stage, "keep_text": keep_text}


def reading(layer: int, keep: Any, keep_text: Any) -> dict[str, Any]:
    return {**fastv(layer, keep), "keep_text": keep_text}


def test_without_the_key_no_text_token_is_ever_shown() -> None:
    of, call = model(), inputs(TALK, LONG)
    with tokenprune.attach(of, plan(spying(), spying(layer=3))) as handle:
        greedy(of, call)
        assert not [name for name in handle.report().tokens if name.startswith("text")]
    assert {tokens.kind for tokens in Spy.seen} == {"visual"}


def test_special_tokens_padding_and_the_last_token_are_never_shown() -> None:
    of, call = model(), inputs(TALK, [*LONG, *range(26, 40)])
    with tokenprune.attach(of, plan(spying(3))):
        logits(of, call)
    texts = {tokens.grid[2]: tokens for tokens in Spy.seen if tokens.kind == "text"}
    mine = texts[len(TALK) + PATCHES - 1]
    assert mine.index.tolist() == [PRUNABLE]
    assert mine.grid == (1, 1, len(TALK) + PATCHES - 1)
    assert mine.position.tolist() == [[[0, 0, place] for place in PRUNABLE]]
    assert mine.size.tolist() == [[1.0] * len(PRUNABLE)]
    assert mine.hidden.shape[1] == len(PRUNABLE)


def test_labelled_answers_are_no_part_of_the_prompt_that_text_is_counted_in() -> None:
    of, call = model(), inputs(TALK, [*LONG, *range(26, 40)])
    labels = torch.full_like(call["input_ids"], -100)
    labels[:, -2:] = call["input_ids"][:, -2:]
    with tokenprune.attach(of, plan(spying(3))), torch.no_grad():
        of(**call, labels=labels)
    texts = {tokens.grid[2]: tokens for tokens in Spy.seen if tokens.kind == "text"}
    mine = texts[len(TALK) + PATCHES - 1 - 2]
    assert mine.index.tolist() == [PRUNABLE[:-2]]


def test_text_behind_the_images_is_told_from_text_before_where_some_has_left() -> None:
    look = {**spying(1.0, layer=3), "strategy": "t-look", "params": {"signals": ["behind_images"]}}
    Look.seen.clear()
    with tokenprune.attach(model(), plan(reading(2, 1.0, 3), look)):
        logits(model(), inputs(TALK))
    visual, texts = Look.seen
    assert not visual.signal(Signal.BEHIND_IMAGES).any()
    assert texts.count == 3
    behind = texts.signal(Signal.BEHIND_IMAGES)
    assert torch.equal(behind, texts.index > PRUNABLE[1] + PATCHES)
    assert behind.any()


@pytest.mark.parametrize(("keep_text", "left"), [(4, 4), (1, 1), (0.5, 3), (1.0, 6), (100, 6)])
def test_counts_are_exact(keep_text: Any, left: int) -> None:
    of, call = model(), inputs(TALK)
    with tokenprune.attach(of, plan(reading(2, 9, keep_text))) as handle, torch.no_grad():
        cache = cache_of(of(**call, use_cache=True))
        assert handle.report().tokens["text[2]"] == left
        assert handle.report().tokens["decoder[2]"] == 9
        assert f"per prompt: text[2] {left}.0" in str(handle.report())
    whole, others = len(TALK) - 1 + PATCHES, len(TALK) - 1 - len(PRUNABLE)
    lengths = [cache.get_seq_length(layer) for layer in range(4)]
    assert lengths == [whole, whole, 9 + left + others, 9 + left + others]


def best(row: Tensor, places: list[int], keep: int) -> list[int]:
    return sorted(places, key=lambda place: (-float(row[place]), place))[:keep]


def gone_by_attention(call: dict[str, Tensor], eager: Any, layer: int) -> list[int]:
    """What layer `layer - 1` looks at least: all but 9 placeholders and 2 text tokens."""
    with torch.no_grad():
        row = eager(**call, output_attentions=True).attentions[layer - 1][0].float().mean(0)[-1]
    visual = oracle.visual_columns(call)
    kept = {*best(row, visual, 9), *best(row, PRUNABLE, 2)}
    return sorted({*visual, *PRUNABLE} - kept)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["clip", "mistral"])
@pytest.mark.parametrize("layer", [1, 3])
def test_it_is_the_dense_model_with_hidden_keys(kind: str, attention: str, layer: int) -> None:
    eager, of, call = model(kind, "eager"), model(kind, attention), inputs(TALK)
    gone = gone_by_attention(call, eager, layer)
    with oracle.hidden_keys(eager, layer, gone):
        want = logits(eager, call)
    with tokenprune.attach(of, plan(reading(layer, 9, 2))):
        pruned = logits(of, call)
    stay = [place for place in range(want.shape[1]) if place not in gone]
    assert len(gone) == PATCHES - 9 + len(PRUNABLE) - 2
    torch.testing.assert_close(pruned[:, stay], want[:, stay], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("early", [False, True])
def test_by_hand_at_two_layers_and_while_decoding(compact: bool, early: bool) -> None:
    of, call = model(), inputs(TALK)
    start = (1, 2, 5, 6, 9) if early else tuple(range(PATCHES))
    first, second = [0, 2, 4], [0, 2]
    stages = [
        {**pick(*first, at="decoder", layer=1), "keep_text": 3},
        {**pick(*second, at="decoder", layer=3), "keep_text": 2},
    ]
    stages[0]["params"]["text"], stages[1]["params"]["text"] = [0, 3, 5], [1, 2]
    texts = {1: [PRUNABLE[i] for i in (1, 2, 4)], 3: [PRUNABLE[0]]}
    edits: dict[int, oracle.Edit] = {
        1: lambda states, columns: (states[first], [columns[i] for i in first]),
        3: lambda states, columns: (states[second], [columns[i] for i in second]),
    }
    with torch.no_grad():
        one = oracle.sample(of, call["input_ids"][0].tolist(), call["pixel_values"], [start])
        want, place = oracle.run(of, one, edits, compact, texts)
        tokens = oracle.greedy(of, one, NEW, edits, compact, texts)
    ahead = [pick(*start)] if early else []
    positions = "compact" if compact else "original"
    with tokenprune.attach(of, plan(*ahead, *stages, positions=positions)):
        pruned = logits(of, call)
        assert greedy(of, call)[0].tolist() == tokens
        assert greedy(of, call, use_cache=False)[0].tolist() == tokens
    torch.testing.assert_close(pruned[0, place], want, atol=2e-5, rtol=1e-4)


PLANS = {
    "fastv": plan(reading(2, 0.25, 0.5)),
    "random": plan({**fastv(2, 0.25), "strategy": "random", "keep_text": 2}),
    "pyramid": plan(reading(1, 18, 4), fastv(2, 9), reading(3, 2, 0.5), positions="compact"),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", PLANS)
def test_a_batch_gives_what_its_samples_give_alone(name: str, side: str) -> None:
    of, call = model(), inputs(TALK, LONG, TEXT, SHORT, side=side)
    with tokenprune.attach(of, PLANS[name]):
        together = logits(of, call)
        new = greedy(of, call) if side == "left" else None
        for row, alone in enumerate(split(call)):
            mine = together[row, call["attention_mask"][row].bool()]
            torch.testing.assert_close(mine, logits(of, alone)[0], atol=2e-5, rtol=1e-4)
            if new is not None:
                assert torch.equal(new[row], greedy(of, alone)[0])


def test_prompts_without_an_image_are_left_alone() -> None:
    of, call = model(), inputs(TALK, [*TEXT, *range(33, 50)])
    plain = logits(of, call)
    with tokenprune.attach(of, PLANS["fastv"]):
        pruned = logits(of, call)
    text = call["attention_mask"][1].bool()
    torch.testing.assert_close(pruned[1, text], plain[1, text], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", PLANS)
def test_cache_and_beams_change_nothing(name: str) -> None:
    of, call = model(), inputs(TALK, LONG)
    with tokenprune.attach(of, PLANS[name]) as handle:
        tokens = greedy(of, call)
        counts = handle.report().tokens
        assert torch.equal(greedy(of, call, use_cache=False), tokens)
        beams = greedy(of, call, num_beams=2)
        assert torch.equal(greedy(of, call, num_beams=2, use_cache=False), beams)
        assert handle.report().tokens == counts


def test_answers_and_what_follows_are_never_shown() -> None:
    of, call = model(), inputs([*TALK, 50, 51, 52])
    labels = call["input_ids"].clone()
    labels[:, :-3] = -100
    with torch.no_grad(), tokenprune.attach(of, plan(spying(3))):
        of(**call, labels=labels)
    assert Spy.seen[-1].kind == "text"
    assert Spy.seen[-1].index.tolist() == [PRUNABLE]


REFUSED = {
    "encoder": ({"at": "encoder", "strategy": "random", "keep": 9, "keep_text": 2}, "encoder"),
    "pre_llm": ({"at": "pre_llm", "strategy": "random", "keep": 9, "keep_text": 2}, "pre_llm"),
    "strategy": ({**fastv(), "strategy": "uniform", "keep_text": 2}, "fastv, .*random"),
    "none": ({**fastv(), "keep_text": 0}, "greater than or equal to 1"),
    "more than all": ({**fastv(), "keep_text": 1.5}, "less than or equal to 1"),
    "average": ({**fastv(), "keep_text": {"average": 3}}, "a ratio"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_plans_that_are_refused(name: str) -> None:
    stage, said = REFUSED[name]
    with pytest.raises(PlanError, match=said):
        tokenprune.load_plan(plan(stage))


def test_adapters_that_name_no_special_tokens_are_refused() -> None:
    class Silent(LlavaAdapter):
        def spec(self) -> MllmSpec:
            return replace(super().spec(), special_ids=None)

    of = model()
    with pytest.raises(UnsupportedModelError, match="special"):
        tokenprune.attach(of, PLANS["fastv"], adapter=Silent)
    with tokenprune.attach(of, plan(fastv()), adapter=Silent):
        logits(of, inputs(SHORT))


def test_merged_text_is_refused_and_the_model_works_on() -> None:
    of, call = model(), inputs(TALK)
    want = logits(of, call)
    stage = {"at": "decoder", "strategy": "t-pairs", "layer": 2, "keep": 18, "keep_text": 4}
    with tokenprune.attach(of, plan(stage)), pytest.raises(ReductionError, match="text"):
        logits(of, call)
    assert issubclass(ReductionError, TokenpruneError)
    assert torch.equal(logits(of, call), want)
