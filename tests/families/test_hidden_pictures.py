"""A mask may hide a picture of a prompt, not padding alone: it counts as one that isn't there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.cases import CASES
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.plans import decoder, layers, plan

SEEN_ALONE = ["llava", "llava_next", "gemma3", "paligemma", "internvl", "mistral3", "smolvlm"]


def hiding(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """A prompt with two pictures whose mask hides the first run of placeholders."""
    case = CASES[name]
    call = case.alone("several", "none", torch.float64)[0]
    places = case.placeholders(call)[0].nonzero()[:, 0]
    gaps = (places.diff() != 1).nonzero()
    first = int(gaps[0]) + 1 if len(gaps) else len(places) // 2
    mask = call["attention_mask"].clone()
    mask[0, places[:first]] = 0
    return {**call, "attention_mask": mask}, mask.bool()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SEEN_ALONE)
@torch.no_grad()
def test_a_shortened_run_equals_a_masked_one_of_full_length(name: str, seed: int) -> None:
    case = CASES[name]
    model, (call, seen) = case.create(torch.float64), hiding(name)
    early = {"strategy": "random", "at": "pre_llm", "keep": 0.5}
    stages = plan(early, decoder(name, 1), seed=seed)
    with tokenprune.attach(model, stages) as handle:
        found, trace = model(**call).logits, handle.trace
    prompts = case.prompts("several", "none")[:1]
    before, after = (gone(case, trace, call["input_ids"], prompts, step) for step in (0, -1))
    with hidden_from(layers(model), 0, before), hidden_from(layers(model), 2, after):
        want = model(**call).logits
    there = seen & ~after
    torch.testing.assert_close(found[there], want[there], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("stage", ["pre_llm", "decoder"])
@torch.no_grad()
def test_a_hidden_picture_takes_no_budget_and_the_trace_says_why_it_is_gone(stage: str) -> None:
    model, (call, _) = CASES["llava"].create(torch.float64), hiding("llava")
    early = {"strategy": "random", "at": "pre_llm", "keep": 0.5}
    stages = [early] if stage == "pre_llm" else [decoder("llava", 5)]
    with tokenprune.attach(model, plan(*stages)) as handle:
        model(**call)
        hidden, shown = handle.trace.images
    assert hidden.kept == 0
    assert [step.strategy for step in hidden.steps][-1] == "mask"
    assert shown.kept == (shown.patches // 2 if stage == "pre_llm" else 5)
    assert "mask" not in [step.strategy for step in shown.steps]
