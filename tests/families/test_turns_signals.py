"""What stages inside the LLM are told of a further turn, against attention over the whole chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import tokenprune
from tests.families.calls import case_of
from tests.families.chats import behind, chat, placed, step, turns
from tests.families.fate import gone
from tests.families.layer_oracle import ran
from tests.families.masked import hidden_from
from tests.families.models.common import IMAGE
from tests.families.plans import decoder, layers, plan
from tests.mllm.calls import cache_of, with_cache
from tests.mllm.strategies import PLUGIN, Look
from tokenprune import Signal
from tokenprune.errors import StrategyFailedError, UnsupportedCallError
from tokenprune.plugins.host import register_plugin

EXACT = 1e-6
"""Rows of softmaxes are float32."""
SITE = 2
WANTED = [
    Signal.LAST_QUERY_ATTENTION,
    Signal.AHEAD_ATTENTION,
    Signal.QUESTION_ATTENTION_MEAN,
    Signal.QUESTION_ATTENTION_MAX,
    Signal.PROMPT_ATTENTION_MEAN,
    Signal.TEXT_ATTENTION,
]


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Look.seen.clear()
    with register_plugin(PLUGIN, "turns-signals"):
        yield


def looking(*signals: Signal) -> dict[str, Any]:
    params = {"signals": [signal.name for signal in signals]}
    return {"at": "decoder", "strategy": "t-look", "layer": SITE, "keep": 1.0, "params": params}


def looped(before: Tensor, ahead: Tensor, kept: list[int], shown: list[int]) -> dict[str, Any]:
    """Signals of the turn's visual tokens, in plain loops over weights `[H, T, T]` of the chat.

    Args:
        before: of the layer before.
        ahead: of the layer at the site.
        kept: places of the turn that are left.
        shown: places of the turn's placeholders.
    """
    visual = [place for place in kept if place in shown]
    words = [place for place in kept if place not in shown]
    asking = [place for place in words if place > shown[-1]]
    heads = range(before.shape[0])

    def mean(weights: Tensor, queries: list[int], key: int) -> float:
        found = [float(weights[head, query, key]) for head in heads for query in queries]
        return sum(found) / len(found)

    def row(weights: Tensor, query: int) -> list[float]:
        return [mean(weights, [query], key) for key in visual]

    def largest(key: int) -> float:
        return max(float(before[head, query, key]) for head in heads for query in asking)

    return {
        "last_query_attention": row(before, kept[-1]),
        "ahead_attention": row(ahead, kept[-1]),
        "question_attention_mean": [mean(before, asking, key) for key in visual],
        "question_attention_max": [largest(key) for key in visual],
        "prompt_attention_mean": [mean(before, kept, key) for key in visual],
        "text_attention": [row(before, query) for query in words],
    }


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "mistral3"])
@torch.no_grad()
def test_keys_in_the_cache_have_their_share_of_each_softmax(name: str) -> None:
    case = case_of(name)
    model, prompts = case.create(torch.float64, "eager"), case.prompts("one", "none")
    first, second = turns(case)
    whole, length = chat(first, second), first["input_ids"].shape[1]
    where, one, two, _ = placed(model, whole, length)
    early = {"strategy": "random", "at": "pre_llm", "keep": 0.5}
    stages = plan(early, {**decoder(name, 0.5), "layer": 1}, looking(*WANTED))
    removed = []
    with tokenprune.attach(model, stages) as handle:
        out = model(**first, **one, use_cache=True)
        for given in ({}, with_cache(model, cache_of(out))):
            if given:
                model(**behind(first, second), **two, **given)
            ids = first["input_ids"], prompts
            removed.append([gone(case, handle.trace, *ids, at) for at in (0, 1)])
    left, hidden = (torch.cat(both, dim=1) for both in zip(*removed, strict=True))
    with hidden_from(layers(model), 0, left), hidden_from(layers(model), 1, hidden):
        calls = ran(model, layers(model), {**whole, **where})
    weights = [call.weights for call in calls[SITE - 1 : SITE + 1]]
    kept = [place for place in range(length, 2 * length) if not hidden[0, place]]
    shown = (case.told_apart(second["input_ids"])[0] == IMAGE).nonzero()[:, 0] + length
    assert weights[0] is not None
    assert weights[1] is not None
    # the cache's keys have a part of what the last query gives
    assert float(weights[0][0, :, -1, :length].sum(dim=-1).min()) > 1e-3
    expected = looped(weights[0][0], weights[1][0], kept, shown.tolist())
    for signal in WANTED:
        found, values = Look.seen[-1].signal(signal)[0], torch.tensor(expected[signal.name])
        assert float((found - values).abs().max()) < EXACT, signal.name


Break = Callable[[Any], Any]


def quantized(cache: Any) -> Any:
    """A cache of another class of layers."""
    from transformers.cache_utils import DynamicSlidingWindowLayer

    cache.layers[1].__class__ = DynamicSlidingWindowLayer
    return cache


def offloaded(cache: Any) -> Any:
    cache.offloading = True
    return cache


def inside(strategy: str, **rest: Any) -> dict[str, Any]:
    return plan({"strategy": strategy, "at": "decoder", "layer": SITE, "keep": 0.5, **rest})


UNTOLD = inside("vscan", params={"rope_in_scoring": False})


@pytest.mark.parametrize(
    ("name", "stages", "of", "why"),
    [
        ("llava", UNTOLD, None, "'ahead_attention_unrotated', which is of whole prompts"),
        ("llava", inside("pact"), None, "'pact_agreement', which is of whole prompts"),
        ("llava", inside("aim"), None, "'aim_page_rank', which is of whole prompts"),
        ("kimi_k25", inside("fastv"), None, "of layer 1, which caches narrow rows"),
        ("aya_vision", inside("pyramiddrop"), None, "of layer 2, which has a window"),
        ("llava", inside("fastv"), quantized, "is of class DynamicSlidingWindowLayer"),
        ("llava", inside("fastv"), offloaded, "this one is offloaded"),
    ],
)
@torch.no_grad()
def test_what_a_turn_cant_tell_is_refused(
    name: str, stages: dict[str, Any], of: Break | None, why: str
) -> None:
    case = case_of(name)
    model, (first, second) = case.create(torch.float64), turns(case)
    with tokenprune.attach(model, stages):
        cache = cache_of(model(**first, use_cache=True))
        held = [part.keys for part in cache.layers]
        given = with_cache(model, cache if of is None else of(cache))
        with pytest.raises(UnsupportedCallError, match=why):
            model(**behind(first, second), **given)
        assert all(part.keys is keys for part, keys in zip(cache.layers, held, strict=True))


@torch.no_grad()
def test_batches_of_turns_with_linear_attention_are_refused() -> None:
    case = case_of("qwen3_5")
    model, (first, second) = case.create(torch.float64), turns(case)
    first, second = (
        {k: v.repeat(2, *[1] * (v.ndim - 1)) for k, v in c.items()} for c in (first, second)
    )
    with tokenprune.attach(model, plan(decoder("qwen3_5", 0.5))):
        given = with_cache(model, cache_of(model(**first, use_cache=True)))
        where = torch.zeros(3, *second["input_ids"].shape, dtype=torch.int64)
        with pytest.raises(UnsupportedCallError, match="take no mask behind a cache"):
            model(**behind(first, second), position_ids=where, **given)


@torch.no_grad()
def test_a_turn_that_ends_in_an_error_leaves_a_cache_that_is_refused() -> None:
    """Layers in front of the stage hold the turn then, and those behind it don't."""
    case = case_of("llava")
    model, (first, second) = case.create(torch.float64), turns(case)
    cache = DynamicCache()
    with tokenprune.attach(model, inside("t-broken")):
        model(input_ids=first["input_ids"][:, :3], **with_cache(model, cache), use_cache=True)
        ids = torch.ones(1, 3 + second["input_ids"].shape[1], dtype=torch.int64)
        with pytest.raises(StrategyFailedError, match="on purpose"):
            model(**{**second, "attention_mask": ids}, **with_cache(model, cache))
        assert cache.layers[0].keys.shape != cache.layers[SITE].keys.shape
        with pytest.raises(UnsupportedCallError, match="ended in an error"):
            model(**step({**second, "attention_mask": ids}), **with_cache(model, cache))
