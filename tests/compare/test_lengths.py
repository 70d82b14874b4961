"""Tokens of an image, averaged over the LLM's layers."""

import torch

from tokenprune.interface.sites import Site, Stage
from tokenprune.interface.trace import ImageTrace, TraceStep
from tokenprune.lab.measure.run import tokens_in_llm


def step(stage: Stage, layer: int, kept: int, layers: int = 4) -> TraceStep:
    nothing = torch.zeros(0, dtype=torch.long)
    return TraceStep(Site(stage, layer, layers), "x", nothing, torch.arange(kept))


def tokens(*steps: TraceStep, frames: int = 1) -> float:
    return tokens_in_llm(ImageTrace((frames, 6, 6), steps))


def test_tokens_in_the_llm_are_a_mean_over_its_layers() -> None:
    assert tokens() == 36
    assert tokens(step("encoder", 1, 20), step("pre_llm", 4, 9)) == 9
    assert tokens(step("encoder", 1, 20), step("encoder", 3, 36)) == 36, "restored"
    assert tokens(step("decoder", 1, 8)) == (36 + 3 * 8) / 4
    late = (step("pre_llm", 4, 12), step("decoder", 1, 6), step("decoder", 3, 0))
    assert tokens(*late) == (12 + 6 + 6 + 0) / 4


def test_tokens_of_a_video_are_per_frame() -> None:
    steps = step("pre_llm", 4, 24), step("decoder", 2, 6)
    assert tokens_in_llm(ImageTrace((3, 6, 6), ())) == 36
    assert tokens_in_llm(ImageTrace((3, 6, 6), steps)) == (2 * 24 + 2 * 6) / 4 / 3


def test_of_a_video_they_count_per_frame() -> None:
    assert tokens(frames=2) == 36
    assert tokens(step("decoder", 2, 18), frames=2) == (72 + 18) / 2 / 2
