"""What of Nemotron 3 Omni's ways with clips and positions is its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, generated, logits
from tests.families.plans import staged
from tokenprune.errors import UnsupportedCallError

NAME, CLIPS = "nemotron_h_omni", "pixel_values_videos"


def pruned(model: Any, call: dict[str, Tensor]) -> list[int]:
    with tokenprune.attach(model, staged(NAME, "pre_llm", 0.5)) as handle:
        logits(model, call)
        return [image.patches for image in handle.trace.images]


def test_clips_that_the_model_prunes_itself_are_refused_and_pictures_are_not() -> None:
    case = case_of(NAME)
    model = case.create()
    model.video_pruning_rate = 0.5
    assert len(pruned(model, case.inputs("several"))) == 3
    with pytest.raises(UnsupportedCallError, match=r"Set model.video_pruning_rate = 0"):
        pruned(model, case.inputs("video"))


def test_frames_of_one_clip_count_as_the_stacks_that_they_are_put_into() -> None:
    case = case_of(NAME)
    model, call = case.build(), case.inputs("video", "none")
    rows = call["input_ids"][:1]
    stacks = call[CLIPS][:1]  # [1, S, 2 * 3, H, W]
    frames = stacks.unflatten(2, (-1, 3)).flatten(0, 2)[:-1]  # the last one is repeated
    repeated = torch.cat((frames, frames[-1:]))
    whole = repeated.unflatten(0, (-1, 2)).flatten(1, 2)[None]
    calls = [{"input_ids": rows, CLIPS: pixels} for pixels in (frames, whole)]
    found = [pruned(model, one) for one in calls]
    assert found[0] == found[1] == [int((rows == model.config.image_token_id).sum())]


def test_layers_without_positions_take_renumbered_survivors() -> None:
    """Inside the LLM too, where nothing is turned by the place of a token."""
    case = case_of(NAME)
    model, call = case.build(), case.inputs("one", "none")
    found = []
    for positions in ("original", "compact"):
        with tokenprune.attach(model, {**staged(NAME, "both", 0.5), "positions": positions}):
            found.append(generated(model, call))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
