"""The names inside transformers that the LLaVA adapter relies on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.llava import LlavaAdapter

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, inputs, model
from tests.mllm.plans import drawn, plan


@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
def test_parts_are_where_they_are_read(kind: str) -> None:
    of = model(kind)
    spec = LlavaAdapter(of).spec()
    language: Any = spec.language_model
    assert spec.core is of.model
    assert spec.projector is of.model.multi_modal_projector
    assert spec.tower is of.model.vision_tower
    assert spec.used == 5 + of.config.vision_feature_layer
    assert spec.placeholder_id == 5
    assert len(spec.layers) == language.config.num_hidden_layers
    assert callable(language.rotary_emb)


@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
def test_signatures_are_those_relied_on(kind: str) -> None:
    assert all(one.missing() is None for one in LlavaAdapter(model(kind))._relied_on())


def test_flash_attention_is_told_by_its_name() -> None:
    of = model()
    adapter = LlavaAdapter(of)
    assert not adapter.padding_masks()
    config = of.model.language_model.config
    before = config._attn_implementation
    try:
        config._attn_implementation_internal = "flash_attention_2"
        assert adapter.padding_masks()
    finally:
        config._attn_implementation_internal = before


@torch.no_grad()
def test_an_attention_of_others_sees_no_ids_with_gaps() -> None:
    """It may take a gap for the border of another sample, as FlashAttention does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    seen: list[Any] = []

    def watching(module: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs.get("position_ids"))
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("t_watching", watching)
    AttentionMaskInterface.register("t_watching", sdpa_mask)
    of, call = models.llava_clip(), inputs(SHORT)
    with tokenprune.attach(of, plan(drawn())):
        want = of.generate(**call, max_new_tokens=3, min_new_tokens=3)
    of.model.language_model.set_attn_implementation("t_watching")
    with tokenprune.attach(of, plan(drawn())):
        assert torch.equal(of.generate(**call, max_new_tokens=3, min_new_tokens=3), want)
    assert len(seen) == 3 * len(of.model.language_model.layers)
    assert all(one is None for one in seen)
