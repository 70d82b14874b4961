"""Molmo 2: pictures as two maps, marks between their rows, layers of both kinds of its LLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenprune
from tests.families.calls import case_of, language, logits
from tests.families.layer_oracle import ran
from tests.families.models import molmo2
from tests.families.models.common import FIRST_WORD, IMAGE, built
from tests.families.plans import decoder, plan
from tests.families.test_layers import worst
from tests.families.test_omni import states_behind
from tokenprune.engine.adapters import choose_adapter

NAME = "molmo2"


def test_a_picture_is_two_maps_and_counts_its_crops() -> None:
    case = case_of(NAME)
    model, call = case.build(), case.inputs("two_sizes")
    assert bool((call["image_token_pooling"] < 0).any())
    stage = {"strategy": "random", "at": "pre_llm", "keep": {"per_tile": 4}}
    with tokenprune.attach(model, plan(stage)) as handle:
        logits(model, call)
        images = handle.trace.images
    assert [image.grid for image in images] == [(1, 1, 18), (1, 1, 24)]
    assert [image.shapes for image in images] == [((3, 3), (3, 3)), ((3, 3), (3, 5))]
    assert [image.kept for image in images] == [4 * 2, 4 * 3]


def test_clips_are_maps_frame_by_frame() -> None:
    case = case_of(NAME)
    model, call = case.build(), case.inputs("video")
    with tokenprune.attach(model, plan({"strategy": "evs", "at": "pre_llm", "keep": 2})) as handle:
        logits(model, call)
        images = handle.trace.images
    assert [(image.grid, image.kept) for image in images] == [((2, 2, 2), 4)] * 2


def test_marks_around_maps_rows_and_frames_are_no_text() -> None:
    case = case_of(NAME)
    model = case.build()
    for scene, pruned in (("one", 18), ("video", 8)):
        call = case.call(case.prompts(scene)[:1], "none", torch.float32)
        ids = call["input_ids"][0]
        words = int((ids[:-1] >= FIRST_WORD).sum())
        with tokenprune.attach(model, plan({**decoder(NAME, 1.0), "keep_text": 1})):
            left = states_behind(model, call).shape[1]
        assert int((ids == IMAGE).sum()) == pruned
        assert left == len(ids) - (words - 1)


@pytest.mark.parametrize("dtype", [torch.float64])
def test_rotary_rows_are_those_of_the_layers_own_kind(dtype: torch.dtype) -> None:
    case = case_of(NAME)
    model = case.build(dtype, "eager")
    calls = ran(model, list(language(model).layers), case.inputs("one", dtype=dtype))
    adapter: Any = choose_adapter(model)
    for one in calls:
        given = one.given["position_embeddings"]
        made = adapter.rotary(one.layer, one.given["hidden_states"], one.given["position_ids"])
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(made, given, strict=True))
    first, second = (calls[number].given["position_embeddings"][0] for number in (0, 1))
    assert not torch.equal(first, second)


@torch.no_grad()
def test_the_other_llm_norms_single_heads_and_in_front() -> None:
    import transformers

    case = case_of(NAME)
    config = case.config()
    text = config.text_config.to_dict()
    text |= {"qk_norm_type": "qwen3", "norm_after": False, "rope_scaling_layers": None}
    config.text_config = type(config.text_config).from_dict(text)
    model_class = transformers.Molmo2ForConditionalGeneration
    model = built(model_class, config, torch.float64, "eager")
    calls = ran(model, list(language(model).layers), case.inputs("one", dtype=torch.float64))
    assert len(calls) == 4
    assert all(worst(one) < 1e-9 for one in calls)


def test_pads_stand_around_maps_that_no_square_divides() -> None:
    """The fixture pools as the library's processor does."""
    pytest.importorskip("torchvision")
    case_of(NAME)
    from transformers.models.molmo2.image_processing_molmo2 import arange_for_pooling

    for shape in ((6, 9), (5, 6), (7, 7)):
        patches = torch.arange(shape[0] * shape[1]).view(shape)
        rows, high, wide = arange_for_pooling(patches, 2, 2)
        size, own = molmo2._pooled(patches, 2)
        assert (size, own.tolist()) == ((high, wide), rows.tolist())
