"""Plain forwards: labels, gradients, hidden states, right padding, decoding by hand."""

from __future__ import annotations

import pytest
import torch

import tokenprune
from tests.mllm import oracle
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
    with_cache,
)
from tests.mllm.plans import COMBINATIONS, KEPT, pick, plan, tome
from tests.models import IMAGE_TOKEN, llava_clip


def test_loss_over_text_is_that_of_the_shortened_prompt() -> None:
    of, call = model(), inputs(SHORT)
    labels = call["input_ids"].masked_fill(call["input_ids"] == IMAGE_TOKEN, -100)
    with torch.no_grad(), tokenprune.attach(of, plan(pick(*KEPT))):
        loss = of(**call, labels=labels).loss
    with torch.no_grad():
        ids = call["input_ids"][0].tolist()
        one = oracle.sample(of, ids, call["pixel_values"], [KEPT])
        short, place = oracle.run(of, one)
    target = labels[0, place]
    want = torch.nn.functional.cross_entropy(short[:-1], target[1:], ignore_index=-100)
    torch.testing.assert_close(loss, want)


def test_answers_take_no_part_in_the_choice() -> None:
    """With labels, fastv reads the prompt's last token, so it chooses as if there was no answer."""
    of = model()
    prompt, answered = inputs(SHORT), inputs([*SHORT, 50, 51])
    labels = answered["input_ids"].clone()
    labels[:, :-2] = -100
    with torch.no_grad(), tokenprune.attach(of, COMBINATIONS["decoder"]) as handle:
        of(**prompt)
        want = handle.trace.images[0].steps[-1].anchor
        of(**answered, labels=labels)
        assert torch.equal(handle.trace.images[0].steps[-1].anchor, want)


#: In `scored`, scores of the tower ride along through its merges.
TRAINED = {
    **COMBINATIONS,
    "scored": plan(tome(24), {"at": "pre_llm", "strategy": "fopru", "keep": 9}),
}


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_the_tower_and_the_llm(name: str) -> None:
    of, call = llava_clip().train(), inputs(SHORT, LONG)
    labels = call["input_ids"].masked_fill(call["input_ids"] == IMAGE_TOKEN, -100)
    with tokenprune.attach(of, TRAINED[name]):
        of(**call, labels=labels).loss.backward()
    for module in (of.model.vision_tower, of.model.multi_modal_projector, of.model.language_model):
        total = sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)
        assert 0 < total < float("inf")


def test_gradients_are_those_of_the_shortened_prompt() -> None:
    of, call = llava_clip(), inputs(SHORT)
    with tokenprune.attach(of, plan(pick(*KEPT))):
        of(**call).logits[0, -1].square().sum().backward()
    got = of.model.multi_modal_projector.linear_1.weight.grad.clone()
    of.zero_grad()
    ids = call["input_ids"][0].tolist()
    short, _ = oracle.run(of, oracle.sample(of, ids, call["pixel_values"], [KEPT]))
    short[-1].square().sum().backward()
    want = of.model.multi_modal_projector.linear_1.weight.grad
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_right_padding_changes_nothing(name: str) -> None:
    of = model()
    left, right = inputs(SHORT, LONG, TEXT), inputs(SHORT, LONG, TEXT, side="right")
    with tokenprune.attach(of, COMBINATIONS[name]):
        a = logits(of, left, position_ids=(left["attention_mask"].cumsum(1) - 1).clamp(min=0))
        b = logits(of, right)
    for row in range(3):
        mine, theirs = left["attention_mask"][row].bool(), right["attention_mask"][row].bool()
        torch.testing.assert_close(a[row, mine], b[row, theirs], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_decoding_by_hand_is_generate(name: str) -> None:
    of, call = model(), inputs(LONG)
    with tokenprune.attach(of, COMBINATIONS[name]), torch.no_grad():
        want = greedy(of, call)[0].tolist()
        out, tokens = of(**call, use_cache=True), []
        for _ in range(NEW):
            new = out.logits[:, -1:].argmax(-1)
            tokens.append(int(new))
            out = of(input_ids=new, **with_cache(of, cache_of(out)), use_cache=True)
    assert tokens == want


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("later", [False, True])
def test_tokens_behind_a_cache_stand_where_they_belong(later: bool, compact: bool) -> None:
    of, call, tail = model(), inputs(LONG), [60, 61, 62]
    inside = [1, 2, 7]
    stages = [pick(*KEPT)]
    if later:
        stages.append({**pick(*inside, at="decoder", layer=2), "keep": 0.3})
    positions = "compact" if compact else "original"
    with tokenprune.attach(of, plan(*stages, positions=positions)), torch.no_grad():
        cache = cache_of(of(**call, use_cache=True))
        got = [
            of(input_ids=torch.tensor([[token]]), **with_cache(of, cache)).logits[0, 0]
            for token in tail
        ]

    def edit(states: torch.Tensor, columns: list[int]) -> tuple[torch.Tensor, list[int]]:
        return states[inside], [columns[i] for i in inside]

    with torch.no_grad():
        one = oracle.sample(of, call["input_ids"][0].tolist(), call["pixel_values"], [KEPT] * 2)
        edits = {2: edit} if later else None
        want, _ = oracle.run(of, one.grown(of, tail), edits, compact)
    torch.testing.assert_close(torch.stack(got), want[-3:], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["all", "ragged", "compact"])
def test_several_new_tokens_at_once(name: str) -> None:
    """A cache continued by three tokens gives what one forward over all of them gives."""
    of, call, tail = model(), inputs(LONG, SHORT), torch.tensor([[60, 61, 62], [63, 64, 65]])
    mask = torch.cat((call["attention_mask"], torch.ones_like(tail)), 1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    width = call["input_ids"].shape[1]
    with tokenprune.attach(of, COMBINATIONS[name]), torch.no_grad():
        cache = cache_of(of(**call, position_ids=position[:, :width], use_cache=True))
        together = of(
            input_ids=tail,
            attention_mask=mask,
            position_ids=position[:, width:],
            **with_cache(of, cache),
        ).logits
        cache = cache_of(of(**call, position_ids=position[:, :width], use_cache=True))
        for step in range(3):
            one = of(
                input_ids=tail[:, step : step + 1],
                attention_mask=mask[:, : width + step + 1],
                position_ids=position[:, width + step : width + step + 1],
                **with_cache(of, cache),
            )
            torch.testing.assert_close(one.logits[:, 0], together[:, step], atol=2e-5, rtol=1e-4)


def test_hidden_states_have_the_prompts_length() -> None:
    of, call = model(), inputs(SHORT, LONG)
    plain = of(**call, output_hidden_states=True).hidden_states
    with tokenprune.attach(of, COMBINATIONS["all"]), torch.no_grad():
        out = of(**call, output_hidden_states=True)
    assert [h.shape for h in out.hidden_states] == [h.shape for h in plain]
    assert torch.equal(of.lm_head(out.hidden_states[-1]), out.logits)


def test_logits_to_keep_and_tuples() -> None:
    of, call = model(), inputs(SHORT)
    with tokenprune.attach(of, COMBINATIONS["all"]):
        whole = logits(of, call)
        torch.testing.assert_close(logits(of, call, logits_to_keep=1), whole[:, -1:])
        with torch.no_grad():
            assert torch.equal(of(**call, return_dict=False)[0], whole)
