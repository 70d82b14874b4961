"""Keys and values of LLM layers, and the prompt's embedded text, against loops and hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.mllm import oracle, signal_oracle
from tests.mllm.calls import IMG, LONG, SHORT, TEXT, greedy, inputs, logits, model
from tests.mllm.plans import plan
from tests.mllm.strategies import Look
from tests.models import PATCHES
from tokenprune import Signal
from tokenprune.errors import LayerError

OF_LAYER = {
    Signal.LAYER_KEYS: Signal.TEXT_LAYER_KEYS,
    Signal.LAYER_KEYS_UNROTATED: None,
    Signal.LAYER_VALUES: Signal.TEXT_LAYER_VALUES,
}
EMBEDDED = [Signal.TEXT_EMBEDDINGS, Signal.TEXT_EMBEDDINGS_PLACE, Signal.TEXT_STATES]


def look(at: str, *signals: Signal | None, **rest: Any) -> dict[str, Any]:
    names = [signal.name for signal in signals if signal is not None]
    return {"at": at, "strategy": "t-look", "keep": 1.0, "params": {"signals": names}, **rest}


def joined(heads: Tensor) -> Tensor:
    """`[T, H, d]` -> `[T, H * d]`, head by head."""
    return torch.stack([torch.cat(list(token)) for token in heads])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_keys_and_values_are_those_of_the_layer_before(kind: str) -> None:
    of, prompts = model(kind), [SHORT, LONG]
    call, number = inputs(*prompts), 1
    asked = [signal for pair in OF_LAYER.items() for signal in pair]
    with tokenprune.attach(of, plan(look("decoder", *asked, layer=number + 1))):
        logits(of, call)
    start = 0
    for prompt, tokens in zip(prompts, sorted(Look.seen, key=lambda one: one.count), strict=True):
        ids = [token for token in prompt for _ in range(PATCHES if token == IMG else 1)]
        count = prompt.count(IMG)
        pictures = call["pixel_values"][start : start + count]
        start += count
        one = oracle.sample(of, ids, pictures, [tuple(range(PATCHES))] * count)
        hidden = signal_oracle.inputs(of, one, {}, {}).hidden[number]
        places = torch.arange(len(ids))
        keys = joined(signal_oracle.query_key(of, number, hidden, places)[1])
        bare = joined(signal_oracle.query_key(of, number, hidden, None)[1])
        layer = of.model.language_model.layers[number]
        with torch.no_grad():
            values = layer.self_attn.v_proj(layer.input_layernorm(hidden))
        visual = torch.tensor([token == IMG for token in ids])
        for wanted, (signal, of_text) in zip((keys, bare, values), OF_LAYER.items(), strict=True):
            torch.testing.assert_close(
                tokens.signal(signal)[0], wanted[visual], atol=1e-5, rtol=1e-4
            )
            if of_text is not None:
                found = tokens.signal(of_text)[0]
                torch.testing.assert_close(found, wanted[~visual], atol=1e-5, rtol=1e-4)


def test_in_front_of_layer_0_there_are_no_values() -> None:
    with pytest.raises(LayerError, match="layer_values"):
        tokenprune.attach(model(), plan(look("decoder", Signal.LAYER_VALUES, layer=0)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_embedded_text_is_what_enters_layer_0(side: str) -> None:
    of, call = model(), inputs(SHORT, LONG, TEXT, side=side)
    stages = [look("pre_llm", *EMBEDDED[:2]), look("decoder", *EMBEDDED[2:], layer=0)]
    with tokenprune.attach(of, plan(*stages)):
        logits(of, call)
    (early, *late) = Look.seen
    table = of.get_input_embeddings().weight
    rows = [SHORT, LONG, LONG]  # a prompt with two pictures counts for both
    for number, prompt in enumerate(rows):
        text = [token for token in prompt if token != IMG]
        last = max(at for at, token in enumerate(prompt) if token == IMG)
        behind = [int(at > last) for at, token in enumerate(prompt) if token != IMG]
        states = early.signal(Signal.TEXT_EMBEDDINGS)[number]
        assert torch.equal(states[: len(text)], table[torch.tensor(text)])
        assert not bool(states[len(text) :].any())
        place = early.signal(Signal.TEXT_EMBEDDINGS_PLACE)[number].tolist()
        assert place == behind + [-1] * (len(place) - len(text))
    states = [one.signal(Signal.TEXT_STATES)[0] for one in late]
    assert any(torch.equal(one, table[torch.tensor([1, 10, 11, 12, 13])]) for one in states)


def test_generation_without_cache_goes_on_with_the_prompts_text() -> None:
    of, call = model(), inputs(SHORT)
    with tokenprune.attach(of, plan(look("pre_llm", *EMBEDDED[:2]))):
        greedy(of, call, use_cache=False)
        logits(of, {**call, "labels": torch.where(call["input_ids"] == 13, 13, -100)})
    *first, labelled = [one.signal(Signal.TEXT_EMBEDDINGS) for one in Look.seen]
    assert len(first) > 0
    assert all(torch.equal(one, first[0]) for one in first)
    assert labelled.shape[1] == first[0].shape[1] - 1
