"""Signals of the LLM that a plugin defines, against loops over the plain model's own parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.mllm import oracle, signal_oracle
from tests.mllm.calls import LONG, SHORT, inputs, logits, model
from tests.mllm.plans import plan
from tests.models import IMAGE_TOKEN as IMG
from tests.models import PATCHES
from tests.plugin import registering
from tokenprune import Signal, Tokens
from tokenprune.interface.placement import Decoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import LayerAhead, LayerBefore, PromptText
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.ops import attention_rows
from tokenprune.plugins.host import register_plugin

LAYER = 2


def of_text(view: LayerBefore) -> Tensor:
    """What every text token of the prompt gives each slot, mean over heads, `[B, S, T]`."""
    order, real = view.text.slots
    pick = order[:, None, :, None].expand(-1, view.query.shape[1], -1, view.query.shape[3])
    slots = torch.arange(view.query.shape[2])
    seen = view.text.valid[:, None] & (slots <= order[..., None])
    # padding sees everything, so that its row is a softmax, and is 0 then
    weights = attention_rows(view.query.gather(2, pick), view.key, seen=seen | ~real[..., None])
    return weights.mean(dim=1).masked_fill(~real[..., None], 0)


TEXT_ATTENTION = Signal("t_text_attention", "[B, S, N] what text tokens give", LayerBefore, of_text)
LONGEST_KEY = Signal(
    "t_longest_key",
    "[B, N] length of the longest key of any head, not rotated",
    LayerAhead,
    lambda view: view.unrotated.key.norm(dim=-1).amax(dim=1),
)


class Reader(PruningStrategy[StrategyParams]):
    """Keeps the first tokens, and puts aside what it was shown."""

    name = "t-reader"
    stages = (Decoder(),)
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        single = (Signal.TEXT_ATTENTION_BY_HEAD, Signal.TEXT_ROTATION)
        return (TEXT_ATTENTION, Signal.TEXT_ATTENTION, LONGEST_KEY, Signal.TEXT_PLACE, *single)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        first = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(first, tokens.count)


@pytest.fixture(autouse=True)
def _reader() -> Iterator[None]:
    Reader.seen.clear()
    with register_plugin(registering(Reader), "own-llm-signals"):
        yield


@pytest.mark.parametrize("kind", ["clip", "mistral"])
def test_rows_of_text_over_visual_tokens_and_keys_ahead(kind: str) -> None:
    of, call, prompts = model(kind), inputs(SHORT, LONG), (SHORT, LONG)
    stage = {"at": "decoder", "strategy": "t-reader", "layer": LAYER, "keep": 1.0}
    with tokenprune.attach(of, plan(stage)):
        logits(of, call)
    start = 0
    for prompt in prompts:
        count = prompt.count(IMG)
        pictures = call["pixel_values"][start : start + count]
        start += count
        spelt = [token for token in prompt for _ in range(PATCHES if token == IMG else 1)]
        one = oracle.sample(of, spelt, pictures, [tuple(range(PATCHES))] * count)
        entered = signal_oracle.inputs(of, one, {}, {})
        (tokens,) = (seen for seen in Reader.seen if seen.count == count * PATCHES)
        words = [slot for slot, token in enumerate(spelt) if token != IMG]
        behind = entered.hidden[LAYER - 1], entered.place[LAYER - 1]
        by_head = signal_oracle.attention(of, LAYER - 1, *behind)
        weights = by_head.mean(0)
        single = tokens.signal(Signal.TEXT_ATTENTION_BY_HEAD)[0].transpose(0, 1)
        want = by_head[:, words][:, :, one.visual]
        torch.testing.assert_close(single, want, atol=2e-6, rtol=1e-4)
        turned = tokens.signal(Signal.TEXT_ROTATION)[0]
        alone = position_alone(of, entered.place[LAYER - 1], words, one.visual)
        torch.testing.assert_close(turned, alone, atol=2e-5, rtol=1e-4)
        got = tokens.signal(TEXT_ATTENTION)[0]
        torch.testing.assert_close(got, weights[words][:, one.visual], atol=2e-6, rtol=1e-4)
        assert torch.equal(tokens.signal(Signal.TEXT_ATTENTION)[0], got)
        assert tokens.signal(Signal.TEXT_PLACE).shape == (1, len(words))
        layer = of.model.language_model.layers[LAYER]
        with torch.no_grad():
            keys = layer.self_attn.k_proj(layer.input_layernorm(entered.hidden[LAYER]))
        for number, slot in enumerate(one.visual):
            heads = keys[slot].split(layer.self_attn.head_dim)
            longest = max(float(head.norm()) for head in heads)
            assert float(tokens.signal(LONGEST_KEY)[0, number]) == pytest.approx(longest, rel=1e-4)


def position_alone(of: Any, place: Tensor, words: list[int], visual: list[int]) -> Tensor:
    """Inner products of rotated ones, as a sum of cosines of what they are apart, `[S, N]`."""
    speeds = of.model.language_model.rotary_emb.inv_freq.tolist()
    width = of.model.language_model.layers[0].self_attn.head_dim
    rows = []
    for word in words:
        apart = [int(place[word] - place[slot]) for slot in visual]
        rows.append([2 * sum(math.cos(a * s) for s in speeds) / math.sqrt(width) for a in apart])
    return torch.tensor(rows)


def test_axes_of_other_kinds_are_refused() -> None:
    with pytest.raises(tokenprune.errors.SignalError, match=r"\[B, N, \.\.\.\] or \[B, S"):
        Signal("t_words", "[B] text tokens", PromptText, lambda view: view.there.sum(1))
