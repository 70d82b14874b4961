"""What decoder strategies can ask for, against loops over the plain model's own parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.mllm import oracle, signal_oracle
from tests.mllm.calls import LONG, SHORT, TEXT, inputs, logits, model
from tests.mllm.plans import pick, plan
from tests.mllm.strategies import Look
from tests.models import IMAGE_TOKEN as IMG
from tests.models import PATCHES
from tokenprune import Signal, Tokens
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.signals import LayerBefore, PromptText

ASKING = [1, 10, IMG, 14, 11, 15, 16, 17, 18, 12]
PROMPTS = [SHORT, LONG, ASKING, TEXT]
ATTENTION = {
    Signal.LAST_QUERY_ATTENTION,
    Signal.QUESTION_ATTENTION_MAX,
    Signal.QUESTION_ATTENTION_MEAN,
    Signal.PROMPT_ATTENTION_MEAN,
}
AHEAD = {Signal.AHEAD_ATTENTION, Signal.AHEAD_ATTENTION_UNROTATED}
TEXTS = {Signal.TEXT_STATES, Signal.TEXT_PLACE}
EARLIER = {Signal.EARLIER_STATES, Signal.LAST_QUERY_ATTENTION_AMONG_VISUAL}
OF_TOKENS = {
    Signal.KEY_LENGTH: Signal.TEXT_KEY_LENGTH,
    Signal.OUTPUT_STATES: Signal.TEXT_OUTPUT_STATES,
}


def looking(layer: int, signals: set[Signal], **rest: Any) -> dict[str, Any]:
    params = {"signals": sorted(signal.name for signal in signals)}
    stage = {"at": "decoder", "strategy": "t-look", "layer": layer, "keep": 1.0}
    return {**stage, "params": params, **rest}


KEPT, LATER = (1, 2, 5, 6, 9, 20), [0, 2, 3]
CUT = {
    "at": "decoder",
    "strategy": "t-shy",
    "layer": 1,
    "keep_text": 1.0,
    "params": {"index": LATER, "text": [0]},
}
EARLY: dict[str, list[dict[str, Any]]] = {"at once": [], "late": [pick(*KEPT), CUT]}


def spelt(prompt: list[int]) -> list[int]:
    """With a placeholder for every patch."""
    return [token for token in prompt for _ in range(PATCHES if token == IMG else 1)]


def expected(
    of: Any, prompt: list[int], pictures: Tensor, layer: int, late: bool
) -> tuple[signal_oracle.Inputs, list[int], list[int], list[int]]:
    """What enters the layers, and columns in front of `layer`: visual, question, other text."""
    kept = KEPT if late else tuple(range(PATCHES))
    count = prompt.count(IMG)
    one = oracle.sample(of, spelt(prompt), pictures, [kept] * count)
    edits: dict[int, oracle.Edit] = {}
    words: dict[int, Sequence[int]] = {}
    places, place = [], 0
    for token in prompt:
        places.append(place)
        place += PATCHES if token == IMG else 1
    if late:
        edits[1] = lambda states, columns: (states[LATER], [columns[i] for i in LATER])
        special = {IMG, 0, 1, 2}
        prunable = [p for p, token in zip(places, prompt, strict=True) if token not in special]
        words[1] = prunable[1:-1]  # the last token of the prompt is never offered
    entered = signal_oracle.inputs(of, one, edits, words)
    final = max(i for i, token in enumerate(prompt) if token == IMG)
    behind = places[final] + PATCHES
    text = {p for p, token in zip(places, prompt, strict=True) if token != IMG}
    stand = entered.place[layer].tolist()
    visual = [c for c, p in enumerate(stand) if p not in text]
    question = [c for c, p in enumerate(stand) if p in text and p >= behind]
    return entered, visual, question, [c for c, p in enumerate(stand) if p in text and p < behind]


def matching(states: Tensor) -> tuple[Tokens, int]:
    """Where a sample's states were shown."""
    for tokens in Look.seen:
        for row, shown in enumerate(tokens.hidden):
            if shown.shape == states.shape and torch.allclose(shown, states, atol=2e-5, rtol=1e-4):
                return tokens, row
    raise AssertionError("never shown")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize(("kind", "layer"), [("clip", 3), ("mistral", 2)])
def test_every_signal_of_a_batch(kind: str, layer: int, early: str, side: str) -> None:
    of, call, late = model(kind), inputs(*PROMPTS, side=side), early == "late"
    stage = looking(layer, ATTENTION | AHEAD | TEXTS | EARLIER)
    with tokenprune.attach(of, plan(*EARLY[early], stage)):
        logits(of, call)
    start = 0
    for prompt in PROMPTS[:3]:
        pictures = call["pixel_values"][start : start + prompt.count(IMG)]
        start += len(pictures)
        entered, visual, question, before = expected(of, prompt, pictures, layer, late)
        hidden = entered.hidden[layer]
        tokens, row = matching(hidden[visual])
        # inputs of the layer before, whose survivors are all still there
        behind = entered.hidden[layer - 1], entered.place[layer - 1]
        weights = signal_oracle.attention(of, layer - 1, *behind)
        same(tokens, row, Signal.LAST_QUERY_ATTENTION, signal_oracle.last(weights), visual)
        same(
            tokens, row, Signal.QUESTION_ATTENTION_MAX, signal_oracle.most(weights, question),
            visual,
        )  # fmt: skip
        same(
            tokens, row, Signal.QUESTION_ATTENTION_MEAN, signal_oracle.mean(weights, question),
            visual,
        )  # fmt: skip
        plain = signal_oracle.attention(of, layer - 1, behind[0], None)
        among = signal_oracle.last_among(plain, visual)
        same(tokens, row, Signal.LAST_QUERY_ATTENTION_AMONG_VISUAL, among, visual)
        earlier = tokens.signal(Signal.EARLIER_STATES)[row]
        torch.testing.assert_close(earlier, behind[0][visual], atol=2e-5, rtol=1e-4)
        everyone = signal_oracle.spread(weights)
        same(tokens, row, Signal.PROMPT_ATTENTION_MEAN, everyone, visual)
        for signal, place in (
            (Signal.AHEAD_ATTENTION, entered.place[layer]),
            (Signal.AHEAD_ATTENTION_UNROTATED, None),
        ):
            ahead = signal_oracle.attention(of, layer, hidden, place)
            same(tokens, row, signal, signal_oracle.last(ahead), visual)
        text, place = tokens.signal(Signal.TEXT_STATES)[row], tokens.signal(Signal.TEXT_PLACE)[row]
        own = [*before, *question]
        torch.testing.assert_close(text[: len(own)], hidden[own], atol=2e-5, rtol=1e-4)
        assert place.tolist()[: len(own)] == [0] * len(before) + [1] * len(question)
        assert set(place.tolist()[len(own) :]) <= {-1}
        assert not text[len(own) :].any()


def same(tokens: Tokens, row: int, signal: Signal, want: list[float], columns: list[int]) -> None:
    wanted = torch.tensor([want[c] for c in columns])
    torch.testing.assert_close(tokens.signal(signal)[row], wanted, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["clip", "mistral"])
def test_keys_and_final_norm_of_visual_and_text_tokens(kind: str, side: str) -> None:
    of, call = model(kind), inputs(SHORT, LONG, side=side)
    wanted = {*OF_TOKENS, *OF_TOKENS.values()}
    with tokenprune.attach(of, plan(looking(2, wanted))):
        logits(of, call)
    start = 0
    for prompt in (SHORT, LONG):
        pictures = call["pixel_values"][start : start + prompt.count(IMG)]
        start += len(pictures)
        entered, visual, question, before = expected(of, prompt, pictures, 2, late=False)
        tokens, row = matching(entered.hidden[2][visual])
        with torch.no_grad():
            states = of.model.language_model.norm(entered.hidden[2])
        _, key = signal_oracle.query_key(of, 1, entered.hidden[1], entered.place[1])
        length = torch.tensor([sum(abs(v) for v in one.flatten().tolist()) for one in key])
        for signal, values in ((Signal.KEY_LENGTH, length), (Signal.OUTPUT_STATES, states)):
            text = [*before, *question]
            of_text = tokens.signal(OF_TOKENS[signal])[row]
            torch.testing.assert_close(
                tokens.signal(signal)[row], values[visual], atol=2e-5, rtol=1e-4
            )
            torch.testing.assert_close(of_text[: len(text)], values[text], atol=2e-5, rtol=1e-4)
            assert not of_text[len(text) :].any()


@pytest.mark.parametrize("compact", [False, True])
def test_keys_rotate_by_what_is_left(compact: bool) -> None:
    of, call = model(), inputs(SHORT, ASKING)
    positions = "compact" if compact else "original"
    with tokenprune.attach(
        of, plan(pick(*KEPT), looking(2, {Signal.KEY_LENGTH}), positions=positions)
    ):
        logits(of, call)
    one = oracle.sample(of, spelt(SHORT), call["pixel_values"][:1], [KEPT])
    if compact:
        one = oracle.Sample(one.embeds, torch.arange(len(one.embeds)), one.visual, one.length)
    entered = signal_oracle.inputs(of, one, {}, {})
    tokens, row = matching(entered.hidden[2][one.visual])
    _, key = signal_oracle.query_key(of, 1, entered.hidden[1], one.place)
    lengths = [sum(abs(v) for v in token.flatten().tolist()) for token in key]
    same(tokens, row, Signal.KEY_LENGTH, lengths, one.visual)


def test_the_mean_of_text_counts_the_queries_that_may_see_it() -> None:
    of, call = model(), inputs(ASKING)
    stage = looking(2, {Signal.QUESTION_ATTENTION_MEAN}, keep_text=1.0)
    with tokenprune.attach(of, plan(stage)):
        logits(of, call)
    entered, _, question, _ = expected(of, ASKING, call["pixel_values"], 2, late=False)
    weights = signal_oracle.attention(of, 1, entered.hidden[1], entered.place[1])
    tokens = next(tokens for tokens in Look.seen if tokens.kind == "text")
    places = tokens.index[0].tolist()
    assert places[-1] == question[-2]
    same(tokens, 0, Signal.QUESTION_ATTENTION_MEAN, signal_oracle.mean(weights, question), places)


def test_layer_0_sees_embeddings_ahead() -> None:
    of, call = model(), inputs(SHORT, ASKING)
    with tokenprune.attach(of, plan(pick(*KEPT), looking(0, AHEAD | TEXTS))):
        logits(of, call)
    for number, prompt in enumerate((SHORT, ASKING)):
        pictures = call["pixel_values"][number : number + 1]
        one = oracle.sample(of, spelt(prompt), pictures, [KEPT])
        tokens, row = matching(one.embeds[one.visual])
        for signal, place in (
            (Signal.AHEAD_ATTENTION, one.place),
            (Signal.AHEAD_ATTENTION_UNROTATED, None),
        ):
            ahead = signal_oracle.attention(of, 0, one.embeds, place)
            same(tokens, row, signal, signal_oracle.last(ahead), one.visual)


def test_compact_positions_rotate_what_is_ahead() -> None:
    of, call = model(), inputs(SHORT)
    stage = looking(2, {Signal.AHEAD_ATTENTION})
    with tokenprune.attach(of, plan(pick(*KEPT), stage, positions="compact")):
        logits(of, call)
    one = oracle.sample(of, spelt(SHORT), call["pixel_values"], [KEPT])
    close = oracle.Sample(one.embeds, torch.arange(len(one.embeds)), one.visual, one.length)
    entered = signal_oracle.inputs(of, close, {}, {})
    weights = signal_oracle.attention(of, 2, entered.hidden[2], close.place)
    same(Look.seen[0], 0, Signal.AHEAD_ATTENTION, signal_oracle.last(weights), one.visual)


def test_labelled_answers_are_neither_queries_nor_prompt() -> None:
    of = model()
    plain, answered = inputs(ASKING), inputs([*ASKING, 50, 51, 52])
    labels = answered["input_ids"].clone()
    labels[:, :-3] = -100
    wanted = ATTENTION | AHEAD | TEXTS
    with tokenprune.attach(of, plan(looking(2, wanted))), torch.no_grad():
        of(**plain)
        of(**answered, labels=labels)
    asked, answer = Look.seen
    for signal in wanted:
        torch.testing.assert_close(answer.signal(signal), asked.signal(signal))


def test_a_prompt_that_ends_with_its_image_asks_by_its_last_token() -> None:
    of, call = model(), inputs([1, 10, IMG])
    with tokenprune.attach(of, plan(looking(2, ATTENTION | TEXTS))):
        logits(of, call)
    (tokens,) = Look.seen
    last = tokens.signal(Signal.LAST_QUERY_ATTENTION)
    mean = tokens.signal(Signal.QUESTION_ATTENTION_MEAN)
    torch.testing.assert_close(mean, last)
    assert tokens.signal(Signal.TEXT_PLACE).tolist() == [[0, 0]]


def test_many_queries_are_read_in_turns() -> None:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, 4, 150, 8, generator=generator)
    key = torch.randn(2, 2, 150, 8, generator=generator)
    valid = torch.ones(2, 150, dtype=torch.bool)
    valid[0, :7] = False
    asking = torch.zeros(2, 150, dtype=torch.bool)
    asking[0, 20:], asking[1, 145:] = True, True
    logits_ = query @ key.repeat_interleave(2, dim=1).transpose(-1, -2) * 8**-0.5
    seen = torch.ones(150, 150, dtype=torch.bool).tril() & valid[:, None, None, :]
    weights = logits_.masked_fill(~seen, float("-inf")).softmax(-1)
    states = torch.zeros(2, 150, 1)
    text = PromptText(
        states, valid, asking, torch.ones_like(valid), torch.tensor([149, 149]), ~valid
    )
    view = LayerBefore(lambda rotated: (query, key), text)
    most = Signal.QUESTION_ATTENTION_MAX.of(view)
    mean = Signal.QUESTION_ATTENTION_MEAN.of(view)
    for row in range(2):
        queries = asking[row].nonzero()[:, 0].tolist()
        assert most[row].tolist() == pytest.approx(signal_oracle.most(weights[row], queries))
        assert mean[row].tolist() == pytest.approx(signal_oracle.mean(weights[row], queries))


def test_projections_that_skip_hooks_are_refused_by_name() -> None:
    """As code does that was compiled before the plan was attached."""
    plain = model("clip")
    with tokenprune.attach(plain, plan(looking(2, ATTENTION))):
        attention = plain.model.language_model.layers[1].self_attn
        for projection in (attention.q_proj, attention.k_proj):
            assert projection._forward_hooks
            projection._forward_hooks.clear()
        with pytest.raises(UnsupportedCallError, match=r"LLM layer 1.*torch\.compiler\.reset"):
            logits(plain, inputs(SHORT))
