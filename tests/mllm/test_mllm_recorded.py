"""Replays of the tower inside a multimodal LLM leave on the call what a pass leaves."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import tokenprune
from tests import models
from tests.contract.mllm_cases import STAGES
from tests.mllm.calls import LONG, SHORT, inputs
from tests.recording import Simulated, simulate
from tokenprune.errors import RecordingWarning, UnsupportedCallError

EVOPRUNE = {"at": "encoder", "strategy": "evoprune", "keep": 20}
IPCV = {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 20}
FOPRU = {"at": "pre_llm", "strategy": "fopru", "keep": 9}
FASTV = {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 4}


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return simulate(monkeypatch)


def plan(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schema_version": 1, "stages": list(stages), **more}


def steps(handle: tokenprune.Attachment) -> list[Any]:
    return [
        (one.grid, step.site, step.assignment.tolist(), step.anchor.tolist())
        for one in handle.trace.images
        for step in one.steps
    ]


def pictures(prompt: list[int], seed: int) -> dict[str, Any]:
    given = inputs(prompt)
    torch.manual_seed(seed)
    return {**given, "pixel_values": torch.randn_like(given["pixel_values"])}


@pytest.mark.parametrize("stages", STAGES)
@torch.no_grad()
def test_every_plan_gives_the_same(stages: str, simulated: Simulated) -> None:
    """Signals of the tower, sizes and places reach stages before and inside of the LLM."""
    model = models.llava_clip()
    given = [pictures(LONG, seed) for seed in range(4)]
    with tokenprune.attach(model, plan(*STAGES[stages])) as handle:
        plain = [(model(**one).logits, steps(handle)) for one in given]
        counted = handle.report()
        handle.meter.reset()
        handle.record()
        found = [(model(**one).logits, steps(handle)) for one in given]
        report = handle.report()
    for (logits, told), (other, others) in zip(found, plain, strict=True):
        assert torch.equal(logits, other)
        assert told == others
    assert report.tokens == counted.tokens
    assert (report.calls, report.images) == (counted.calls, counted.images)
    assert simulated.replayed == 3


@pytest.mark.parametrize("stage", [EVOPRUNE, IPCV])
@torch.no_grad()
def test_two_passes_of_one_forward_are_two(stage: dict[str, Any], simulated: Simulated) -> None:
    """What the first gave stays as it is when the second is replayed; pictures count on."""
    model, given = models.llava_clip(), pictures(LONG, 0)
    core, others = model.model, pictures(LONG, 1)["pixel_values"]
    whole, firsts = core.get_image_features, list[torch.Tensor]()

    @functools.wraps(whole)
    def twice(*args: Any, **kwargs: Any) -> Any:
        firsts.append(core.vision_tower(others).last_hidden_state)
        before = firsts[-1].clone()
        made = whole(*args, **kwargs)
        assert torch.equal(firsts[-1], before)
        return made

    core.get_image_features = twice
    with tokenprune.attach(model, plan(stage, FOPRU, FASTV)) as handle:
        plain, told = model(**given).logits, steps(handle)
        handle.record()
        for _ in range(4):
            assert torch.equal(model(**given).logits, plain)
            assert steps(handle) == told
            assert len(handle.trace.images) == 4
    assert all(torch.equal(one, firsts[0]) for one in firsts)
    assert simulated.replayed >= 6


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_generate_gives_the_same(kind: str, simulated: Simulated) -> None:
    model = {"clip": models.llava_clip, "siglip": models.llava_siglip}[kind]()
    more = {"max_new_tokens": 4, "do_sample": False}
    with tokenprune.attach(model, plan(EVOPRUNE, FOPRU, FASTV)) as handle:
        given = [pictures(prompt, seed) for seed in range(3) for prompt in (SHORT, LONG)]
        plain = [model.generate(**one, **more).tolist() for one in given]
        handle.record()
        assert [model.generate(**one, **more).tolist() for one in given] == plain
        assert any("replayed" in note for note in handle.report().notes)
    assert simulated.recorded == 2
    assert simulated.replayed == 4


@torch.no_grad()
def test_without_cache_the_tower_may_run_at_every_step(simulated: Simulated) -> None:
    model, given = models.llava_clip(), pictures(SHORT, 0)
    more = {"max_new_tokens": 4, "do_sample": False, "use_cache": False}
    with tokenprune.attach(model, plan(EVOPRUNE, FOPRU, FASTV)) as handle:
        plain, told = model.generate(**given, **more).tolist(), steps(handle)
        handle.record()
        for _ in range(2):
            assert model.generate(**given, **more).tolist() == plain
            assert steps(handle) == told
    assert simulated.replayed > 0


@torch.no_grad()
def test_frames_of_one_video_and_plans_outside_of_the_tower_are_refused() -> None:
    model = models.llava_clip()
    with (
        tokenprune.attach(model, plan(EVOPRUNE, images="frames")) as handle,
        pytest.raises(UnsupportedCallError, match="frames of one video"),
    ):
        handle.record()


@torch.no_grad()
def test_a_reconstruction_of_unknown_parts_runs_as_usual(
    simulated: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenprune_strategies import ipcv

    class Opaque:
        """Holds tensors where nobody looks."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.blocks, self.restore = inner, inner.blocks, False

        def full(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.inner.full(hidden)

    remember = ipcv.remember
    monkeypatch.setattr(ipcv, "remember", lambda *args: Opaque(remember(*args)))
    model, given = models.llava_clip(), pictures(SHORT, 0)
    with tokenprune.attach(model, plan(IPCV)) as handle:
        plain = model(**given).logits
        handle.record()
        model(**given)
        with pytest.warns(RecordingWarning, match="nobody knows how tensors in it are copied"):
            assert torch.equal(model(**given).logits, plain)
        assert torch.equal(model(**given).logits, plain)
    assert simulated.replayed == 0
