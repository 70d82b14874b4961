"""Operations that a plan adds to the LLM: as many as cuts ask for, however deep the LLM is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.mllm import TransformersMllm
from transformers import CLIPVisionConfig, LlamaConfig, Qwen2_5_VLForConditionalGeneration

import tokenprune
from tests import models
from tests.contract.test_check_costs import WAITS, counted
from tests.families.calls import case_of
from tests.families.models.common import built
from tests.mllm.calls import LONG, SHORT, cache_of, inputs, model, with_cache
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


def added(of: Any, name: str, *prompts: list[int]) -> tuple[Counter[str], Counter[str]]:
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
            found.append((prompt, counted(lambda: of(**step))))  # noqa: B023
    for more, plain in zip(found[1], found[0], strict=True):
        more.subtract(plain)
    return found[1]


@pytest.mark.parametrize("prompts", [(SHORT,), (SHORT, LONG)], ids=["one", "padded"])
@pytest.mark.parametrize("name", PLANS)
def test_layers_add_no_operations_of_their_own(name: str, prompts: tuple[list[int], ...]) -> None:
    few, many = added(deep(3), name, *prompts), added(deep(6), name, *prompts)
    assert [one.total() for one in few] == [one.total() for one in many]


@pytest.mark.parametrize("name", [name for name in PLANS if name != "both, compact"])
def test_layers_that_are_alike_are_read_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, found = TransformersMllm.read_layer, list[int]()

    def counted_read(*given: Any) -> Any:
        found[-1] += 1
        return read(*given)

    monkeypatch.setattr(TransformersMllm, "read_layer", counted_read)
    for layers in (4, 7):
        of = deep(layers)
        found.append(0)
        with tokenprune.attach(of, PLANS[name]):
            of.generate(**inputs(SHORT, LONG), max_new_tokens=3, min_new_tokens=3)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", PLANS)
def test_further_prompts_add_few_operations_and_no_waits(name: str) -> None:
    few, many = (added(model(), name, *[SHORT] * batch)[0] for batch in (4, 8))
    assert {wait: few[wait] for wait in WAITS} == {wait: many[wait] for wait in WAITS}
    # a decoder stage takes rows apart and puts them together; most of it is views
    assert many.total() - few.total() <= 4 * (9 if name == "before the LLM" else 40)


def half(at: str, strategy: str, **rest: Any) -> dict[str, Any]:
    return {"at": at, "strategy": strategy, "keep": 0.5, **rest}


#: Operations that a plan may add to a prompt of one picture, the strategy's own included, and
#: values that it may read: ids, positions and what depends on them are on the CPU, where nothing
#: waits; behind the tower it is the look for NaN alone.
MOST = {
    "before the LLM": 80,
    "inside": 200,
    "inside, uniform": 110,
    "both, uniform": 160,
}
FEW = {
    "before the LLM": plan(half("pre_llm", "uniform")),
    "inside": plan(half("decoder", "fastv", layer=1)),
    "inside, uniform": plan(half("decoder", "uniform", layer=1)),
    "both, uniform": plan(half("pre_llm", "uniform"), half("decoder", "uniform", layer=1)),
}
READ = 5


def qwen() -> tuple[Any, dict[str, Any]]:
    case = case_of("qwen2_5_vl", "one")
    of = built(Qwen2_5_VLForConditionalGeneration, case.config(), torch.float32, "sdpa")
    return of, case.inputs("one", "none")


def llava() -> tuple[Any, dict[str, Any]]:
    return model(), inputs(SHORT)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("made", [llava, qwen])
def test_a_prompt_of_one_picture_costs_few_operations(
    made: Callable[[], tuple[Any, dict[str, Any]]], name: str
) -> None:
    of, call = made()
    found = []
    for stages in (plan(), FEW[name]):
        with tokenprune.attach(of, stages), torch.no_grad():
            settings = {"do_sample": False, "eos_token_id": None}
            of.generate(**call, **settings, max_new_tokens=2)
            found += [
                counted(lambda: of.generate(**call, **settings, max_new_tokens=new))  # noqa: B023
                for new in (1, 2)
            ]
    dense, one = found[0], found[2]
    assert one.total() - dense.total() <= MOST[name]
    assert sum(one[wait] - dense[wait] for wait in WAITS) <= READ
    # a step behind it: nothing is read, and nothing done but for positions
    step, plain = found[3] - found[2], found[1] - found[0]
    assert {wait: step[wait] for wait in WAITS} == {wait: plain[wait] for wait in WAITS}
    assert step.total() - plain.total() <= 3  # of which older libraries add one
