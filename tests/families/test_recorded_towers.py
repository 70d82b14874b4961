"""Replays of a tower inside its multimodal LLM: signals, levels, tiles and traces are the same."""

from __future__ import annotations

import pytest
import torch

import tokenprune
from tests.contract.test_compiled_packed import recorded
from tests.families.calls import case_of, logits
from tests.families.plans import plan
from tests.recording import Simulated, simulate
from tokenprune.errors import UnsupportedCallError

INSIDE = {"strategy": "evoprune", "at": "encoder", "layer": 1, "keep": 0.7}
BEHIND = {"strategy": "fopru", "at": "pre_llm", "keep": 0.5}

#: One of each shape of tower: levels, tiles, squares of patches, two kinds of picture, averages.
CASES = [
    ("vipllava", "several"),
    ("llava_next", "several"),
    ("llava_next_video", "mixed"),
    ("internvl", "several"),
    ("gemma3", "one"),
    ("aya_vision", "several"),
    ("perception_lm", "one"),
]


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return simulate(monkeypatch)


@pytest.mark.parametrize(("name", "scene"), CASES)
@torch.no_grad()
def test_replays_leave_what_passes_leave(name: str, scene: str, simulated: Simulated) -> None:
    case = case_of(name, scene)
    model, call = case.create(), case.inputs(scene)
    with tokenprune.attach(model, plan(INSIDE, BEHIND)) as handle:
        plain, told, counted = logits(model, call), recorded(handle), handle.report().tokens
        handle.record()
        for _ in range(4):
            handle.meter.reset()
            assert torch.equal(logits(model, call), plain)
            assert recorded(handle) == told
            assert handle.report().tokens == counted
    assert simulated.replayed >= 2


@pytest.mark.parametrize("name", ["ovis2", "llama4"])
@torch.no_grad()
def test_a_tower_whose_states_a_call_around_collects_runs_as_usual(
    name: str, simulated: Simulated
) -> None:
    case = case_of(name)
    model, call = case.create(), case.inputs("one")
    with tokenprune.attach(model, plan(INSIDE, BEHIND)) as handle:
        plain = logits(model, call)
        handle.record()
        for _ in range(3):
            assert torch.equal(logits(model, call), plain)
        assert any("collects the states" in note for note in handle.report().notes)
    assert simulated.recorded == 0


@pytest.mark.parametrize(
    ("name", "stage", "why"),
    [
        ("qwen2_5_vl", INSIDE, "reads the sizes of its pictures"),
        ("qwen2_5_vl", {"strategy": "fastv", "at": "decoder", "layer": 2, "keep": 0.5}, "nothing"),
    ],
)
def test_what_can_never_be_recorded_is_refused(name: str, stage: object, why: str) -> None:
    model = case_of(name).create()
    with (
        tokenprune.attach(model, plan(stage)) as handle,
        pytest.raises(UnsupportedCallError, match=why),
    ):
        handle.record()
