"""Passes that `record()` replays on a GPU, against those of the plan as usual."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models, towers
from tests.contract.cases import ENCODER_STAGES, ENCODERS, KEEP, attached
from tests.contract.compiling import assert_same, tensors
from tests.contract.test_compiled import MERGING_AND_DROPPING, called
from tests.gpu.test_graphs import LOOKING, placed
from tests.mllm.calls import LONG, SHORT, inputs
from tokenprune.engine.capturing import CudaRecorder
from tokenprune.errors import RecordingWarning

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

EVOPRUNE = {"at": "encoder", "strategy": "evoprune", "keep": 20}
FOPRU = {"at": "pre_llm", "strategy": "fopru", "keep": 9}
FASTV = {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 4}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for every graph that is recorded."""
    seen, capture = list[int](), CudaRecorder._capture

    def counted(self: CudaRecorder, *args: Any) -> Any:
        made = capture(self, *args)
        seen.append(1)
        return made

    monkeypatch.setattr(CudaRecorder, "_capture", counted)
    return seen


def steps(handle: tokenprune.Attachment) -> list[Any]:
    return [
        (one.grid, step.site, step.assignment.tolist(), step.anchor.tolist())
        for one in handle.trace.images
        for step in one.steps
    ]


def others(given: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {
        name: torch.randn_like(value) if value.is_floating_point() else value
        for name, value in given.items()
    }


def assert_replayed(call: Any, given: dict[str, Tensor], handle: tokenprune.Attachment) -> None:
    """Five calls on other values, whose outputs are kept to the end."""
    batches = [others(given, seed) for seed in range(5)]
    plain = [([one.clone() for one in tensors(call(**one_))], steps(handle)) for one_ in batches]
    handle.record()
    found = [(call(**one), steps(handle)) for one in batches]
    for (output, told), (other, before) in zip(found, plain, strict=True):
        assert_same(output, other)
        assert told == before
    assert any("replayed from CUDA graphs" in note for note in handle.report().notes)


@pytest.mark.parametrize("stage", ENCODER_STAGES)
@torch.inference_mode()
def test_every_static_strategy_is_replayed(stage: str, graphs: list[int]) -> None:
    model = models.clip_vision().cuda()
    with attached(model, ENCODER_STAGES[stage], keep=KEEP) as handle:
        assert_replayed(model, placed({"pixel_values": models.pixels(2)}), handle)
    assert len(graphs) == 1


@pytest.mark.parametrize("encoder", sorted(ENCODERS.keys() - LOOKING))
@torch.no_grad()
def test_every_tower_is_replayed(encoder: str, graphs: list[int]) -> None:
    case = ENCODERS[encoder]
    model = case.build().cuda()
    with tokenprune.attach(model, MERGING_AND_DROPPING) as handle:
        assert_replayed(called(model, encoder), placed(case.inputs(2)), handle)
    assert len(graphs) == 1


@pytest.mark.parametrize("kind", ["half", "autocast"])
@torch.inference_mode()
def test_half_precision_is_replayed(kind: str, graphs: list[int]) -> None:
    model, given = models.clip_vision().cuda(), placed({"pixel_values": models.pixels(2)})
    if kind == "half":
        model, given = model.bfloat16(), {name: one.bfloat16() for name, one in given.items()}
    with (
        attached(model, ENCODER_STAGES["uniform"], keep=KEEP) as handle,
        torch.autocast("cuda", dtype=torch.bfloat16, enabled=kind == "autocast"),
    ):
        assert_replayed(model, given, handle)
        for _ in range(2):
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=kind == "autocast"):
                model(**given)
        torch.cuda.empty_cache()
        assert_same(model(**given), model(**given))
    assert len(graphs) == 1


@pytest.mark.parametrize("build", [models.llava_clip, models.llava_siglip, towers.timm_wrapped])
@torch.no_grad()
def test_graphs_share_a_pool_and_do_not_meet(build: Any, graphs: list[int]) -> None:
    """Kinds in turn, on several streams; outputs are kept to the end."""
    model = build().cuda()
    tower = model.model.vision_tower if hasattr(model, "generate") else model
    stages = [{"at": "encoder", "strategy": "tome", "keep": 20}]
    with tokenprune.attach(model, {"schema_version": 1, "stages": stages}) as handle:
        given = [models.pixels(batch, seed=batch).cuda() for batch in (1, 2, 3)]
        plain = [[one.clone() for one in tensors(tower(pixels))] for pixels in given]
        handle.record()
        found, streams = [], [torch.cuda.Stream() for _ in range(2)]
        torch.cuda.synchronize()
        for turn in range(8):
            with torch.cuda.stream(streams[turn % 2]):
                found.append([tower(pixels) for pixels in given])
        torch.cuda.synchronize()
        for row in found:
            for one, other in zip(row, plain, strict=True):
                assert_same(one, other)
    assert len(graphs) == 3


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_generate_gives_the_same(kind: str, graphs: list[int]) -> None:
    model = {"clip": models.llava_clip, "siglip": models.llava_siglip}[kind]().cuda()
    plan = {"schema_version": 1, "stages": [EVOPRUNE, FOPRU, FASTV]}
    prompts = [
        {name: value.cuda() for name, value in others(inputs(prompt), seed).items()}
        for seed in range(3)
        for prompt in (SHORT, LONG)
    ]
    more = {"max_new_tokens": 4, "do_sample": False}
    with tokenprune.attach(model, plan) as handle:
        plain = [(model.generate(**one, **more).tolist(), steps(handle)) for one in prompts]
        handle.record()
        for _ in range(2):
            found = [(model.generate(**one, **more).tolist(), steps(handle)) for one in prompts]
            assert found == plain
        seconds = handle.report().seconds
        assert seconds["encode"] > 0
    assert len(graphs) == 2


@torch.inference_mode()
def test_weights_that_move_are_recorded_anew(graphs: list[int]) -> None:
    model, given = models.clip_vision().cuda(), placed({"pixel_values": models.pixels(2)})
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        plain = [one.clone() for one in tensors(model(**given))]
        handle.record()
        for _ in range(3):
            assert_same(model(**given), plain)
        model.cpu()
        torch.cuda.empty_cache()
        model(models.pixels(2))
        model.cuda()
        for _ in range(3):
            assert_same(model(**given), plain)
    assert len(graphs) in (1, 2)  # they may come back to where they were


@torch.inference_mode()
def test_threads_get_their_own_results(graphs: list[int]) -> None:
    model = models.clip_vision().cuda()
    pictures = [models.pixels(2, seed=seed).cuda() for seed in range(4)]
    wrong = list[str]()
    with attached(model, ENCODER_STAGES["evoprune"], keep=KEEP) as handle:
        plain = [model(one).last_hidden_state.clone() for one in pictures]
        handle.record()

        @torch.inference_mode()
        def run(number: int) -> None:
            try:
                with torch.cuda.stream(torch.cuda.Stream()):
                    found = [model(pictures[number]).last_hidden_state for _ in range(20)]
                    torch.cuda.current_stream().synchronize()
                for one in found:
                    torch.testing.assert_close(one, plain[number])
            except Exception as error:
                wrong.append(f"{number}: {error}")

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert wrong == []
    assert len(graphs) == 1


@pytest.mark.parametrize("encoder", sorted(LOOKING))
@torch.inference_mode()
def test_towers_that_look_run_as_usual_and_leave_the_device_well(
    encoder: str, graphs: list[int]
) -> None:
    case = ENCODERS[encoder]
    model, given = case.build().cuda(), placed(case.inputs(2))
    with tokenprune.attach(model, MERGING_AND_DROPPING) as handle:
        plain = [one.clone() for one in tensors(model(**given))]
        handle.record()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecordingWarning)
            for _ in range(4):
                assert_same(model(**given), plain)
    assert graphs == []
    assert torch.rand(3, device="cuda").isfinite().all()  # random numbers are drawn as ever


@torch.inference_mode()
def test_a_capture_that_fails_leaves_the_device_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the rehearsal had missed what waits for the device."""
    monkeypatch.setattr("tokenprune.engine.capturing.rehearse", lambda run, device: run() and None)
    case = ENCODERS["idefics3"]
    model, given = case.build().cuda(), placed(case.inputs(2))
    with tokenprune.attach(model, MERGING_AND_DROPPING) as handle:
        plain = [one.clone() for one in tensors(model(**given))]
        handle.record()
        model(**given)
        with pytest.warns(RecordingWarning):
            assert_same(model(**given), plain)
        assert_same(model(**given), plain)
    assert torch.rand(3, device="cuda").isfinite().all()
    good = models.clip_vision().cuda()
    monkeypatch.undo()
    with attached(good, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        assert_replayed(good, placed({"pixel_values": models.pixels(2)}), handle)
