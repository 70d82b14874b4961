"""The states of a pruned encoder, against blocks written with loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests import models
from tests.contract.encoder_oracle import How, Image
from tests.mllm.calls import SHORT, inputs
from tokenprune.engine.adapters import choose_adapter
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.specs import EncoderSpec
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens
from tokenprune.testing.plain.taps import Taps

KEEP = 12

CASES: dict[str, tuple[dict[str, Any], How]] = {
    "tome": ({"strategy": "tome"}, How()),
    "tome-bare": (
        {"strategy": "tome", "params": {"proportional_attention": False}},
        How(biased=False),
    ),
    "evoprune": ({"strategy": "evoprune"}, How()),
    "evoprune-bare": (
        {"strategy": "evoprune", "params": {"proportional_attention": False}},
        How(biased=False),
    ),
    "ipcv": (
        {"strategy": "ipcv", "layer": 2, "params": {"stabilise": 1, "neighbours": 3}},
        How(inside=False, biased=False, stabilise=1, neighbours=3),
    ),
    "ipcv-longer": (
        {"strategy": "ipcv", "layer": 2, "params": {"stabilise": 2, "neighbours": 3}},
        How(inside=False, biased=False, stabilise=2, neighbours=3),
    ),
    "ipcv-at-once": (
        {"strategy": "ipcv", "layer": 2, "params": {"stabilise": 0, "neighbours": 3}},
        How(inside=False, biased=False, stabilise=0, neighbours=3),
    ),
}


def spec_of(tower: nn.Module) -> EncoderSpec:
    adapter = choose_adapter(tower, None)
    assert isinstance(adapter, EncoderAdapter)
    return adapter.spec()


@contextmanager
def entering(block: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    """Note what enters a block."""
    hook = block.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        yield
    finally:
        hook.remove()


def noted_into(strategy: Any, seen: list[Tokens]) -> None:
    """Note what a strategy gets."""
    reduce = strategy.reduce

    def noting(tokens: Tokens, budget: Budget) -> Reduction:
        seen.append(tokens)
        answer: Reduction = reduce(tokens, budget)
        return answer

    strategy.reduce = noting


def answers_of(taps: Taps, row: int) -> Mapping[int, Reduction]:
    """Answers for one image, by block."""
    return {answer.site.layer: answer.reduction.row(row) for answer in taps.answers}


def passed(
    spec: EncoderSpec, entered: Tensor, answers: Mapping[int, Reduction], how: How, *beside: Any
) -> Image:
    """One image after all blocks."""
    states = entered.tolist()
    prefix, patches = states[: spec.prefix], states[spec.prefix :]
    image = Image(prefix, patches, [1.0] * len(patches), companions=beside)
    for number in range(spec.used):
        image.block(spec.blocks[number], number, answers, how)
    return image


@pytest.mark.parametrize(("stage", "how"), CASES.values(), ids=CASES)
def test_states_are_those_of_loops(stage: dict[str, Any], how: How) -> None:
    model, taps = models.clip_vision(), Taps()
    entered: list[Tensor] = []
    spec = spec_of(model)
    whole = {"schema_version": 1, "stages": [{"at": "encoder", "keep": KEEP, **stage}]}
    handle = tokenprune.attach(model, whole)
    with handle, taps.on(handle.stages), entering(spec.blocks[0], entered), torch.no_grad():
        output = model(pixel_values=models.pixels(2)).last_hidden_state
    assert any(answer.reduction.changes for answer in taps.answers)
    for row in range(2):
        image = passed(spec, entered[0][row], answers_of(taps, row), how)
        torch.testing.assert_close(output[row], torch.tensor(image.left()), atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("strategy", ["random", "tome"])
def test_what_entered_the_block_before_follows_a_cut_inside_it(strategy: str) -> None:
    model, taps = models.clip_vision(), Taps()
    entered: list[Tensor] = []
    seen: list[Tokens] = []
    before = {"at": "encoder", "strategy": strategy, "layer": 1, "keep": 24}
    after = {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": KEEP}
    whole = {"schema_version": 1, "stages": [before, after]}
    spec = spec_of(model)
    with tokenprune.attach(model, whole) as handle:
        noted_into(handle.stages[1].strategy, seen)
        with taps.on(handle.stages), entering(spec.blocks[1], entered), torch.no_grad():
            model(pixel_values=models.pixels(2))
    (tokens,) = seen
    assert tokens.count == 24
    for row in range(2):
        want = entered[0][row, spec.prefix :][tokens.index[row]]
        assert torch.equal(tokens.signals["previous_hidden"][row], want)


def test_companions_read_merged_tokens_by_their_sizes() -> None:
    model, taps = models.llava_clip(), Taps()
    entered: list[Tensor] = []
    seen: list[Tokens] = []
    spec = replace(spec_of(model.model.vision_tower), used=models.DEPTH - 1)  # feature layer -2
    grouped = {"init_seed": 0, "dim": models.WIDTH, "groups": 5}
    whole = {
        "schema_version": 1,
        "stages": [
            {"at": "encoder", "strategy": "tome", "keep": KEEP},
            {"at": "pre_llm", "strategy": "vistog", "keep": 5, "params": grouped},
        ],
    }
    with tokenprune.attach(model, whole) as handle:
        encoder, later = handle.stages
        begun = later.strategy.companions()
        assert begun is not None
        noted_into(later.strategy, seen)
        with taps.on([encoder]), entering(spec.blocks[0], entered), torch.no_grad():
            model(**inputs(SHORT))
    image = passed(spec, entered[0][0], answers_of(taps, 0), How(), *begun.tolist())
    assert max(image.sizes) > 1
    torch.testing.assert_close(
        seen[0].signals["companions"][0], torch.tensor(image.companions), atol=2e-5, rtol=2e-4
    )
