"""The invariants with `images: frames`: all images of a prompt are the frames of one video."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.contract.cases import footprint, shipped, stage_of
from tests.mllm.calls import IMG, TEXT, greedy, inputs, logits, model, split
from tests.mllm.plans import COMBINATIONS, fastv, plan
from tests.mllm.video_cases import FRAMES, ONE, PROMPTS, VISTOG_STAGE, video_plan
from tokenprune.interface.strategy import placement, places

STAGES: dict[str, list[dict[str, Any]]] = {
    **{
        f"{name}-encoder": [{"at": "encoder", "strategy": name, "keep": 14}]
        for name in ("evoprune", "tome", "random", "uniform", "fopru")
    },
    "temporal": [
        {"at": "encoder", "strategy": "evoprune", "keep": 14, "params": {"temporal": True}}
    ],
    "ipcv": [{"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 14}],
    **{
        f"{name}-pre_llm": [{"at": "pre_llm", "strategy": name, "keep": 9}]
        for name in ("fopru", "random", "uniform")
    },
    "vistog": [VISTOG_STAGE],
    "fastv": [fastv(2, 9)],
    "three": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20},
        {"at": "pre_llm", "strategy": "fopru", "keep": 0.5},
        fastv(1, 4),
    ],
    "three-temporal": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20, "params": {"temporal": True}},
        {"at": "pre_llm", "strategy": "random", "keep": 8},
        fastv(2, 0.5),
    ],
}
LEFT = {  # tokens per frame into the LLM, and after its last layer
    **{f"{name}-encoder": (14, 14) for name in ("evoprune", "tome", "random", "uniform", "fopru")},
    **{f"{name}-pre_llm": (9, 9) for name in ("fopru", "random", "uniform")},
    "temporal": (14, 14), "ipcv": (36, 36), "vistog": (9, 9), "fastv": (36, 9), "three": (10, 4),
    "three-temporal": (8, 4),
}  # fmt: skip
every_plan = pytest.mark.parametrize("name", STAGES)


def text_logits(of: Any, call: dict[str, Tensor]) -> list[Tensor]:
    """Logits at the text tokens of every sample, without padding."""
    found = logits(of, call)
    text = (call["attention_mask"] == 1) & (call["input_ids"] != IMG)
    return [row[kept] for row, kept in zip(found, text, strict=True)]


@functools.cache
def plainly(kind: str) -> Tensor:
    """Logits of the plain model."""
    return logits(model(kind), inputs(*PROMPTS))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@every_plan
def test_keep_all_is_bit_exact(kind: str, name: str) -> None:
    of, call, plain = model(kind), inputs(*PROMPTS), plainly(kind)
    stages = [{**stage, "keep": 1.0} for stage in STAGES[name] if stage["strategy"] != "vistog"]
    with tokenprune.attach(of, video_plan(*stages)):
        assert torch.equal(logits(of, call), plain)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@every_plan
def test_counts_are_the_plans_per_frame(kind: str, name: str) -> None:
    of, call = model(kind), inputs(*PROMPTS)
    with tokenprune.attach(of, video_plan(*STAGES[name])) as handle:
        logits(of, call)
    into_llm, last = LEFT[name]
    images = handle.trace.images
    assert [image.grid for image in images] == [(frames, 6, 6) for frames in FRAMES]
    assert [image.kept for image in images] == [frames * last for frames in FRAMES]
    tokens = handle.meter.tokens
    assert (tokens["patches"], tokens["llm"]) == (36, into_llm)
    assert handle.meter.images == sum(FRAMES)
    for image in images:
        for step in image.steps:
            assert step.assignment.shape == (image.patches,)
            assert int(step.assignment.max()) < step.kept
            assert step.anchor.tolist() == sorted(set(step.anchor.tolist()))
    if STAGES[name][-1]["at"] == "decoder":
        assert tokens[f"decoder[{STAGES[name][-1]['layer']}]"] == last


@pytest.mark.parametrize("side", ["left", "right"])
@every_plan
def test_a_batch_gives_what_its_videos_give_alone(name: str, side: str) -> None:
    of, call = model(), inputs(*PROMPTS, side=side)
    with tokenprune.attach(of, video_plan(*STAGES[name])):
        batched = text_logits(of, call)
        for row, one in enumerate(split(call)):
            torch.testing.assert_close(batched[row], text_logits(of, one)[0], rtol=1e-4, atol=1e-5)


@every_plan
def test_generate_hands_back_the_users_prompt(name: str) -> None:
    of, call = model(), inputs(*PROMPTS)
    with tokenprune.attach(of, video_plan(*STAGES[name])) as handle:
        cached = greedy(of, call)
        assert [image.grid[0] for image in handle.trace.images] == FRAMES
        assert torch.equal(cached, greedy(of, call, use_cache=False))
        for row, one in enumerate(split(call)):
            assert torch.equal(greedy(of, one)[0], cached[row])
        assert greedy(of, call, num_beams=2).shape == cached.shape


@every_plan
def test_detach_leaves_nothing_behind(name: str) -> None:
    of, call = models.llava_clip(), inputs(*PROMPTS)
    plain, before = logits(of, call), footprint(of)
    with tokenprune.attach(of, video_plan(*STAGES[name])):
        pruned = logits(of, call)
    assert footprint(of) == before
    assert torch.equal(logits(of, call), plain)
    assert not torch.equal(pruned, plain)


@pytest.mark.parametrize("name", ["evoprune-encoder", "tome-encoder", "fopru-encoder", "vistog"])
def test_what_reads_frame_by_frame_does_as_with_separate_images(name: str) -> None:
    of, call = model(), inputs(*PROMPTS)
    with tokenprune.attach(of, plan(*STAGES[name])) as handle:
        apart, separate = logits(of, call), iter(handle.trace.images)
    with tokenprune.attach(of, video_plan(*STAGES[name])) as handle:
        torch.testing.assert_close(logits(of, call), apart, rtol=1e-5, atol=1e-6)
    for video in handle.trace.images:
        frames = [next(separate).steps for _ in range(video.grid[0])]
        for number, step in enumerate(video.steps):
            parts = [steps[number] for steps in frames]
            kept = parts[0].kept
            moved = [
                torch.where(part.assignment < 0, -1, part.assignment + t * kept)
                for t, part in enumerate(parts)
            ]
            assert torch.equal(step.assignment, torch.cat(moved))
            places = [part.anchor + 36 * t for t, part in enumerate(parts)]
            assert torch.equal(step.anchor, torch.cat(places))


@pytest.mark.parametrize("name", sorted(COMBINATIONS))
def test_single_images_are_videos_of_one_frame(name: str) -> None:
    of, call = model(), inputs(ONE, TEXT, [1, 2, IMG, 3])
    with tokenprune.attach(of, COMBINATIONS[name]) as handle:
        separate, apart = logits(of, call), handle.trace.images
    with tokenprune.attach(of, {**COMBINATIONS[name], "images": "frames"}) as handle:
        assert torch.equal(logits(of, call), separate)
    for mine, other in zip(handle.trace.images, apart, strict=True):
        assert mine.grid == other.grid
        assert all(
            map(torch.equal, [s.anchor for s in mine.steps], [s.anchor for s in other.steps])
        )


@pytest.mark.parametrize(
    ("name", "at"), [(name, at) for name, kind in shipped().items() for at in places(kind)]
)
def test_every_shipped_strategy_takes_videos(name: str, at: Any) -> None:
    of, call, kind = model(), inputs(*PROMPTS), shipped()[name]
    with tokenprune.attach(of, video_plan(stage_of(kind, at))) as handle:
        batched, images = text_logits(of, call), handle.trace.images
        for row, one in enumerate(split(call)):
            torch.testing.assert_close(batched[row], text_logits(of, one)[0], rtol=1e-4, atol=1e-5)
    assert [image.grid[0] for image in images] == FRAMES
    if kind.length == "planned" and not (at == "encoder" and placement(kind, "encoder").restores):
        assert len({image.kept / image.grid[0] for image in images}) == 1
