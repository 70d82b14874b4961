"""`images: frames` where a core is given the frames of a video as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.cells import Pruned, class_tokens, content, cut_at, cuts, pruned, run, without
from tests.families.plans import plan
from tests.families.scenes import Image, Prompt, Text, Video
from tests.families.test_refusals import refused
from tests.families.towers import LAYER, PLUGIN, Drop, members, of_rows, running, towers
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.interface.placement import Encoder, PreLlm
from tokenprune.plugins.host import register_plugin

EXACT = 1e-9
NAMES = (
    "internvl",
    "aya_vision",
    "idefics3",
    "smolvlm",
    "vipllava",
    "gemma3",
    "paligemma",
    "ovis2",
    "janus",
    "deepseek_vl_hybrid",
)
SIDE = 48
VIDEOS: list[Prompt] = [
    (Text(3, 10), Video(2, SIDE, SIDE, 4), Text(5, 20)),
    (Text(2, 50), Video(3, SIDE, SIDE, 5), Text(4, 60)),
]
FRAMES: list[Prompt] = [
    tuple(
        Image(SIDE, SIDE, 10 * part.seed + frame) if isinstance(part, Video) else part
        for part in prompt
        for frame in range(part.frames if isinstance(part, Video) else 1)
    )
    for prompt in VIDEOS
]
"""Two videos of different lengths, as pictures with nothing between them."""


class Across(PruningStrategy[StrategyParams]):
    """Merge unit 0 of each frame into that of the next one, and the last frame's unit 1 back."""

    name = "t-across"
    stages = (Encoder(layer=LAYER, where="before"),)

    def spans_frames(self) -> bool:
        return True

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        pairs = crossed(tokens.grid[0], tokens.count // tokens.grid[0])
        source, target = torch.tensor(pairs).T.expand(2, -1).contiguous()
        batch = len(tokens.hidden)
        return Reduction.merge(source.expand(batch, -1), target.expand(batch, -1), tokens.size)


class First(PruningStrategy[StrategyParams]):
    """Keep the first tokens."""

    name = "t-first"
    stages = (PreLlm(),)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        kept = torch.arange(budget.keep).expand(len(tokens.hidden), -1)
        return Reduction.keep(kept, tokens.count)


def crossed(frames: int, count: int) -> list[tuple[int, int]]:
    """Which units of a video of `frames` of `count` go into which: one of every frame leaves."""
    pairs = [(frame * count, (frame + 1) * count + 2) for frame in range(frames - 1)]
    return [*pairs, ((frames - 1) * count + 1, 3)]


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Drop.gone.clear()
    with (
        register_plugin(PLUGIN, "family-towers"),
        register_plugin(registering(Across, First), "family-frames"),
    ):
        yield


def shown(name: str) -> list[Prompt]:
    """Videos as the family's processor shows them, of what it is given as pictures."""
    return VIDEOS if case_of(name).clip else FRAMES


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("stages", ["encoder", "late", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_a_shortened_video_equals_the_full_prompt_with_removed_tokens_hidden(
    name: str, stages: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, prompts = case_of(name), shown(name)
    model = case.build(torch.float64)
    call = case.call(prompts, padding, torch.float64)
    where = case.positions(call)
    wanted = {**content(case, stages, 0.5), "images": "frames"}
    with tokenprune.attach(model, wanted) as handle:
        short = logits(model, call, **where)
        images, report = handle.trace.images, handle.report()
        decided = Pruned(case, stages, model, call, prompts, handle.trace)
        with without(decided, monkeypatch) as lost:
            handle.detach()
            full = logits(model, call, **where)
    assert [image.grid[0] for image in images] == [2, 3]
    assert report.images == 5
    seen = call["attention_mask"].bool() & ~lost
    assert bool(lost.any())
    assert float((short - full)[seen].abs().max()) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_the_llm_ranks_the_whole_video(name: str) -> None:
    """Budgets are per frame, and what they leave of a video may be of its first frames only."""
    case = case_of(name)
    model, call = case.build(), case.call(shown(name), "left", torch.float32)
    stage = {"strategy": "t-first", "at": "pre_llm", "keep": 4}
    with tokenprune.attach(model, plan(stage, images="frames")) as handle:
        logits(model, call)
        images = handle.trace.images
    for image in images:
        assert image.steps[-1].anchor.tolist() == list(range(4 * image.grid[0]))


@pytest.mark.parametrize("name", NAMES)
def test_keeping_all_changes_no_bit(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.call(shown(name), "left", torch.float32)
    dense = logits(model, call)
    for stages in ("encoder", "all"):
        wanted = {**content(case, stages, 1.0), "images": "frames"}
        with tokenprune.attach(model, wanted):
            assert torch.equal(logits(model, call), dense)
    reading = {"strategy": "fopru", "at": "pre_llm", "keep": 1.0}
    with tokenprune.attach(model, plan(reading, images="frames")):
        assert torch.equal(logits(model, call), dense)
    assert torch.equal(logits(model, call), dense)


def crossed_in(
    model: Any, lengths: list[int], units: int, prefix: int
) -> AbstractContextManager[None]:
    """Let the blocks from `LAYER` on run on what `Across` leaves, frame by frame, by loops."""
    starts = [sum(lengths[:number]) for number in range(len(lengths))]

    def rows(unit: int, count: int) -> list[int]:
        return (members(torch.tensor(unit), units, count) + prefix).tolist()

    def short(plain: Callable[..., Any], first: bool) -> Callable[..., Tensor]:
        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            count, old, gone = hidden.shape[1] - prefix, hidden.clone(), dict[int, list[int]]()
            hidden = hidden.clone()
            for start, frames in zip(starts, lengths, strict=True):
                for source, into in crossed(frames, units):
                    here, there = start + source // units, start + into // units
                    for left, right in zip(
                        rows(source % units, count), rows(into % units, count), strict=True
                    ):
                        if first:
                            hidden[there, right] = (old[here, left] + old[there, right]) / 2
                        gone.setdefault(here, []).append(left)
            made = torch.zeros_like(hidden)
            for frame, lost in gone.items():
                stay = [row for row in range(hidden.shape[1]) if row not in lost]
                given = of_rows(kwargs, stay, prefix)
                made[frame, stay] = plain(hidden[frame, stay][None], *(None for _ in args), **given)
            return made

        return forward

    return running(towers(model), short)


@pytest.mark.parametrize("name", NAMES)
def test_units_merge_across_frames_as_in_loops(name: str) -> None:
    case, prompts = case_of(name), shown(name)
    model = case.build(torch.float64)
    call = case.call(prompts, "left", torch.float64)
    units = int(case.placeholders(call).sum()) // 5
    stage = {"strategy": "t-across", "at": "encoder", "keep": units - 1}
    wanted = plan(stage, images="frames")
    short, decided = pruned(case, "encoder", model, wanted, call, prompts)
    ((layer, lost),) = cuts(decided)
    with crossed_in(model, [2, 3], units, class_tokens(case)), cut_at(model, [(layer, lost)]):
        full = run(model, call)
    assert int(lost.sum()) == 5
    assert torch.equal(short.tokens, full.tokens)
    assert short.apart(full, call["attention_mask"].bool() & ~lost) < EXACT


def test_evoprune_merges_in_time() -> None:
    case = case_of("smolvlm")
    model, call = case.build(), case.call(VIDEOS, "left", torch.float32)
    stage = {"strategy": "evoprune", "at": "encoder", "layers": [0, 3], "keep": 0.5}
    stage["params"] = {"temporal": True}
    with tokenprune.attach(model, plan(stage, images="frames")) as handle:
        logits(model, call)
        images = handle.trace.images
    for image in images:
        last, frame = image.steps[-1], image.patches // image.grid[0]
        counts = torch.bincount(last.anchor // frame, minlength=image.grid[0]).tolist()
        assert len(set(counts)) == 1
        assert counts[0] < frame
        own = torch.arange(image.patches) // frame
        assert bool(((last.anchor // frame)[last.assignment] != own).any())


@pytest.mark.parametrize("at", ["encoder", "pre_llm"])
@pytest.mark.parametrize("name", ["internvl", "smolvlm"])
def test_pictures_in_tiles_are_no_frames(name: str, at: str) -> None:
    case = case_of(name, "mixed")
    stage = {"strategy": "random", "at": at, "keep": 0.5}
    with (
        tokenprune.attach(case.build(), plan(stage, images="frames")) as handle,
        pytest.raises(UnsupportedCallError, match="one is seen in 3 tiles"),
    ):
        logits(handle.model, case.inputs("mixed"))


@pytest.mark.parametrize("name", ["llava_next", "mistral3"])
def test_models_that_see_no_single_maps(name: str) -> None:
    wanted = plan({"strategy": "random", "at": "pre_llm", "keep": 0.5}, images="frames")
    refused(name, wanted, UnsupportedModelError, "one map of one size")
