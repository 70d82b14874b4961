"""Kimi K2.5's tower by itself and in its model: clips whose frames are averaged behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.adapters.any_size import tower
from tests.contract.cases import footprint
from tests.families.calls import case_of, logits
from tests.families.models.common import VIDEO, VOCABULARY
from tests.families.plans import plan, staged
from tests.packed import plan as inside
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError

NAME, FRAMES = "kimi_k25", 2
DROP = {"strategy": "random", "keep": 0.5}


def given(kind: str) -> dict[str, Tensor]:
    scene = "several" if kind == "image" else "video"
    call = case_of(NAME, scene).inputs(scene)
    pixels = "pixel_values" if kind == "image" else "pixel_values_videos"
    return {"pixel_values": call[pixels], "grid_thw": call[f"{kind}_grid_thw"]}


@pytest.mark.parametrize("kind", ["image", "video"])
@torch.no_grad()
def test_a_square_of_all_frames_is_a_unit(kind: str) -> None:
    model, call = tower(NAME), given(kind)
    dense, before = model(**call), footprint(model)
    with tokenprune.attach(model, inside({**DROP, "keep": 1.0})):
        assert torch.equal(model(**call).pooler_output, dense.pooler_output)
    with tokenprune.attach(model, inside(DROP)) as handle:
        short, images = model(**call), handle.trace.images
    assert footprint(model) == before
    assert [image.patches for image in images] == (call["grid_thw"][:, 1:].prod(-1) // 4).tolist()
    left = short.pooler_output.any(dim=-1)
    assert left.shape == dense.pooler_output.shape[:2]
    # whole units leave, with their rows of every frame
    assert torch.equal(left.all(dim=-1), left.any(dim=-1))
    assert int(left.all(dim=-1).sum()) == sum(image.kept for image in images) < len(left)
    frames = FRAMES if kind == "video" else 1
    assert int(short.last_hidden_state.any(dim=-1).sum()) == 4 * frames * int(left[:, 0].sum())


def ragged() -> dict[str, Tensor]:
    """Clips of two frames and of one, as a processor makes of three."""
    call = case_of(NAME, "video").inputs("video")
    grids = call["video_grid_thw"].clone()
    last = int(grids[-1].prod())
    grids[-1, 0] = 1
    call["pixel_values_videos"] = call["pixel_values_videos"][: -last // 2]
    return {**call, "video_grid_thw": grids}


def test_clips_of_several_lengths_are_refused_in_the_tower_alone() -> None:
    model, call = case_of(NAME, "video").build(), ragged()
    dense = logits(model, call)
    for stage in ({**DROP, "at": "encoder"}, {"strategy": "fopru", "at": "pre_llm", "keep": 0.5}):
        with (
            tokenprune.attach(model, plan(stage)),
            pytest.raises(UnsupportedCallError, match="one call has clips of 1 and 2 frames"),
        ):
            logits(model, call)
    with tokenprune.attach(model, staged(NAME, "both", 0.5)) as handle:
        assert float((logits(model, call) - dense).abs().max()) > 1e-4
        grids = call["video_grid_thw"][:, 1:].prod(-1) // 4
        assert [image.patches for image in handle.trace.images] == grids.tolist()
    assert torch.equal(logits(model, call), dense)


@pytest.mark.parametrize("strategy", ["cdpruner", "mmtok"])
def test_a_placeholder_behind_the_vocabulary_is_embedded_by_nobody(strategy: str) -> None:
    """Released models name such an id for clips."""
    case = case_of(NAME, "mixed")
    model, call = case.create(), case.inputs("mixed")
    wanted = plan({"strategy": strategy, "at": "decoder", "layer": 0, "keep": 0.5})
    with tokenprune.attach(model, wanted):
        expected = logits(model, call)
    model.config.video_token_id = VOCABULARY
    call["input_ids"] = call["input_ids"].masked_fill(call["input_ids"] == VIDEO, VOCABULARY)
    with tokenprune.attach(model, wanted):
        assert torch.equal(logits(model, call), expected)


def test_units_that_are_no_squares_are_refused() -> None:
    transformers = pytest.importorskip("transformers")
    config: Any = case_of(NAME).config()
    config.vision_config.merge_kernel_size = (1, 4)
    model = transformers.Kimi_K25ForConditionalGeneration(config)
    with pytest.raises(UnsupportedModelError, match="units of 1 x 4 rows are no squares"):
        tokenprune.attach(model, plan({**DROP, "at": "encoder"}))
