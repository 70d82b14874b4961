"""Towers of LFM2-VL and VideoLLaMA 3 by themselves: named adapters, zeros, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.siglip2_naflex import Siglip2NaflexAdapter
from torch import Tensor

import tokenprune
from tests import models
from tests.adapters.any_size import tower
from tests.contract.cases import footprint
from tests.families.calls import case_of, logits
from tests.packed import plan
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError

DROP = {"strategy": "random", "keep": 0.5}
NAMED = {"lfm2_vl": "siglip2-naflex", "video_llama_3": None}
"""Adapters that have to be asked for, where the first that claims the class is another."""
TAKEN = {
    "lfm2_vl": {name: name for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")},
    "video_llama_3": {
        "pixel_values": "pixel_values",
        "image_grid_thw": "grid_thw",
        "image_merge_sizes": "merge_sizes",
    },
}
"""What a tower calls the arguments of its model."""


def given(name: str) -> dict[str, Tensor]:
    call = case_of(name).inputs("several")
    return {inside: call[outside] for outside, inside in TAKEN[name].items()}


@pytest.mark.parametrize("name", NAMED)
@torch.no_grad()
def test_rows_of_what_was_removed_are_zeros(name: str) -> None:
    model, call = tower(name), given(name)
    dense, before = model(**call).last_hidden_state, footprint(model)
    with tokenprune.attach(model, plan({**DROP, "keep": 1.0}), adapter=NAMED[name]):
        assert torch.equal(model(**call).last_hidden_state, dense)
    with tokenprune.attach(model, plan(DROP), adapter=NAMED[name]) as handle:
        short = model(**call).last_hidden_state
        images = handle.trace.images
    assert footprint(model) == before
    assert short.shape == dense.shape
    left = int(short.any(dim=-1).sum())
    assert left == sum(image.kept for image in images) < sum(image.patches for image in images)


def test_the_first_adapter_of_a_class_is_the_one_for_encoders_alone() -> None:
    model = tower("lfm2_vl")
    with (
        tokenprune.attach(model, plan(DROP)),
        pytest.raises(UnsupportedCallError, match="different shapes or padding"),
    ):
        model(**given("lfm2_vl"))


def test_a_pooling_head_gives_nothing_of_rows_of_zeros() -> None:
    model = models.siglip2_vision()
    assert Siglip2NaflexAdapter.fits(model)
    pixels = torch.randn(1, models.SIDE**2, 3 * models.PATCH**2)
    call = {
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(1, models.SIDE**2),
        "spatial_shapes": torch.tensor([[models.SIDE, models.SIDE]]),
    }
    with tokenprune.attach(model, plan(DROP), adapter="siglip2-naflex"), torch.no_grad():
        assert model(**call).pooler_output is None


def test_a_mask_over_patches_of_a_picture_is_refused() -> None:
    model, call = tower("lfm2_vl"), given("lfm2_vl")
    call["pixel_attention_mask"] = call["pixel_attention_mask"].clone()
    call["pixel_attention_mask"][0, 0] = 0
    wanted: Any = plan(DROP)
    with (
        tokenprune.attach(model, wanted, adapter="siglip2-naflex"),
        pytest.raises(UnsupportedCallError, match="hides other patches"),
    ):
        model(**call)


def test_units_of_several_sizes_in_a_call_are_refused() -> None:
    model, call = tower("video_llama_3"), given("video_llama_3")
    call["merge_sizes"] = torch.tensor([1, *[2] * (len(call["grid_thw"]) - 1)])
    with (
        tokenprune.attach(model, plan(DROP)),
        pytest.raises(UnsupportedCallError, match=r"several sides \(\[1, 2\] patches\)"),
    ):
        model(**call)


def test_a_mask_that_leaves_tokens_of_a_clip_out_is_refused() -> None:
    case = case_of("video_llama_3", "video")
    model, call = case.build(), case.inputs("video")
    mask = call["video_compression_mask"].clone()
    mask[0] = False
    stage = {"strategy": "random", "at": "pre_llm", "keep": 0.5}
    wanted = {"schema_version": 1, "stages": [stage]}
    with tokenprune.attach(model, wanted):
        logits(model, call)
        with pytest.raises(UnsupportedCallError, match="use_token_compression=False"):
            logits(model, {**call, "video_compression_mask": mask})


def test_pictures_that_are_not_made_of_whole_units_are_refused() -> None:
    """The core drops the last row of patches then, and its processor makes no such pictures."""
    case = case_of("lfm2_vl")
    model, call = case.build(), case.inputs("one")
    call["spatial_shapes"] = torch.tensor([[3, 8]])
    call["pixel_attention_mask"] = (torch.arange(32) < 24).int()[None]
    stage = {"strategy": "random", "at": "encoder", "keep": 0.5}
    with (
        tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}),
        pytest.raises(UnsupportedCallError, match="3 x 8 patches are not made of squares"),
    ):
        logits(model, call)


def test_a_tower_of_ovis2_with_patches_left_over_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    config: Any = case_of("ovis2").config()
    config.vision_config.image_size = 40
    model = transformers.Ovis2ForConditionalGeneration(config)
    stage = {"strategy": "random", "at": "pre_llm", "keep": 0.5}
    with pytest.raises(UnsupportedModelError, match="5 x 5 patches aren't made of squares"):
        tokenprune.attach(model, {"schema_version": 1, "stages": [stage]})
