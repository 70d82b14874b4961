"""Operations that a plan adds to the LLM: as many as cuts ask for, however deep the LLM is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

import tokenprune
from tests import models
from tests.contract.test_check_costs import counted
from tests.mllm.calls import LONG, SHORT, cache_of, inputs, with_cache
from tests.mllm.plans import drawn, fastv, plan

PLANS = {
    "before the LLM": plan(drawn()),
    "inside": plan(fastv(layer=1)),
    "inside twice": plan(fastv(layer=1, keep=18), drawn(at="decoder", layer=2)),
    "both": plan(drawn(), fastv(layer=1)),
    "both, compact": plan(drawn(), fastv(layer=1), positions="compact"),
}


def deep(layers: int) -> Any:
    language = LlamaConfig(**{**models._language(), "num_hidden_layers": layers})
    return models._llava(CLIPVisionConfig(**models._vision()), language, "sdpa")


def added(of: Any, name: str, *prompts: list[int]) -> tuple[int, int]:
    """Operations beyond those of the plain model: for the prompt, and for the step behind it."""
    found = []
    for stages in (plan(), PLANS[name]):
        with tokenprune.attach(of, stages), torch.no_grad():
            call = inputs(*prompts)
            of(**call)  # checks of values run at the first call of a shape
            out: list[Any] = []
            prompt = counted(lambda: out.append(of(**call)))  # noqa: B023
            mask = call["attention_mask"]
            step = {
                "input_ids": torch.full((len(prompts), 1), 7),
                "attention_mask": torch.cat((mask, mask[:, -1:]), dim=1),
                **with_cache(of, cache_of(out[0])),
            }
            found.append((prompt.total(), counted(lambda: of(**step)).total()))  # noqa: B023
    (plain, plain_step), (prompt_ops, step_ops) = found
    return prompt_ops - plain, step_ops - plain_step


@pytest.mark.parametrize("prompts", [(SHORT,), (SHORT, LONG)], ids=["one", "padded"])
@pytest.mark.parametrize("name", PLANS)
def test_layers_add_no_operations_of_their_own(name: str, prompts: tuple[list[int], ...]) -> None:
    assert added(deep(3), name, *prompts) == added(deep(6), name, *prompts)
