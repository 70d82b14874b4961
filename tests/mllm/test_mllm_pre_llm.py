"""Pruning before the projector equals the plain model on the shortened prompt, by hand."""

from __future__ import annotations

import pytest
import torch

import tokenprune
from tests.mllm import oracle
from tests.mllm.calls import LONG, NEW, SHORT, TEXT, greedy, inputs, logits, model, split
from tests.mllm.plans import KEPT, pick, plan


@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
@pytest.mark.parametrize("compact", [False, True])
def test_logits_are_those_of_the_shortened_prompt(kind: str, compact: bool) -> None:
    of, call = model(kind), inputs(SHORT, LONG, TEXT)
    positions = "compact" if compact else "original"
    with torch.no_grad(), tokenprune.attach(of, plan(pick(*KEPT), positions=positions)):
        pruned = of(**call).logits
    for row, one in enumerate(split(call)):
        pictures = one.get("pixel_values", torch.empty(0))
        with torch.no_grad():
            want, place = oracle.run(
                of,
                oracle.sample(of, one["input_ids"][0].tolist(), pictures, [KEPT] * len(pictures)),
                compact=compact,
            )
        padding = pruned.shape[1] - one["input_ids"].shape[1]
        torch.testing.assert_close(pruned[row, padding + place], want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("compact", [False, True])
def test_greedy_goes_on_behind_the_prompt(compact: bool) -> None:
    of, call = model(), inputs(LONG)
    positions = "compact" if compact else "original"
    with tokenprune.attach(of, plan(pick(*KEPT), positions=positions)):
        pruned = greedy(of, call)
    with torch.no_grad():
        one = oracle.sample(of, call["input_ids"][0].tolist(), call["pixel_values"], [KEPT] * 2)
        want = oracle.greedy(of, one, NEW, compact=compact)
    assert pruned[0].tolist() == want


def test_positions_make_a_difference() -> None:
    of, call = model(), inputs(SHORT)
    with tokenprune.attach(of, plan(pick(*KEPT))):
        original = logits(of, call)
    with tokenprune.attach(of, plan(pick(*KEPT), positions="compact")):
        compact = logits(of, call)
    assert not torch.allclose(original[0, -1], compact[0, -1], atol=1e-4)


def test_removed_places_hold_what_the_nearest_kept_token_predicts() -> None:
    of, call = model(), inputs(SHORT)
    with tokenprune.attach(of, plan(pick(3, 7))):
        pruned = logits(of, call)[0]
    first = SHORT.index(5)
    assert torch.equal(pruned[first + 1], pruned[first - 1])
    assert torch.equal(pruned[first + 5], pruned[first + 3])
    assert torch.equal(pruned[first + 35], pruned[first + 7])


def test_the_class_token_stays_if_the_model_hands_it_on() -> None:
    of = model("clip-full")
    call = inputs(SHORT)
    first = SHORT.index(5)
    extra = {name: call[name][:, :1].clone() for name in ("input_ids", "attention_mask")}
    extra["input_ids"][:] = 5
    for name, value in extra.items():
        call[name] = torch.cat((call[name][:, :first], value, call[name][:, first:]), dim=1)
    with torch.no_grad():
        plain = of(**call).logits
        with tokenprune.attach(of, plan(pick(*range(36)))):
            assert torch.equal(of(**call).logits, plain)
        with tokenprune.attach(of, plan(pick(*KEPT))):
            pruned = of(**call).logits
        kept = [0, *(patch + 1 for patch in KEPT)]
        one = oracle.sample(of, call["input_ids"][0].tolist(), call["pixel_values"], [kept])
        want, place = oracle.run(of, one)
    torch.testing.assert_close(pruned[0, place], want, atol=2e-5, rtol=1e-4)


def test_no_token_left_names_the_image() -> None:
    of, call = model(), inputs(SHORT)
    stage = {"at": "pre_llm", "strategy": "t-exit", "keep": 0.5}
    with (
        tokenprune.attach(of, plan(stage)),
        pytest.raises(tokenprune.errors.ReductionError, match="image 0") as caught,
    ):
        of(**call)
    assert "pre_llm" in caught.value.where
