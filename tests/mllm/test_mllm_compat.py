"""The names inside transformers that the LLaVA adapter relies on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers import llava_names as compat

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, inputs, model
from tests.mllm.plans import drawn, plan


@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
def test_parts_are_where_they_are_read(kind: str) -> None:
    of = model(kind)
    language = compat.language_model(of)
    assert compat.core(of) is of.model
    assert compat.projector(of) is of.model.multi_modal_projector
    assert compat.tower(of) is of.model.vision_tower
    assert compat.tower_depth(of) == 4
    assert compat.placeholder_id(of) == 5
    assert len(compat.decoder_layers(of)) == language.config.num_hidden_layers
    assert callable(language.rotary_emb)


@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
def test_signatures_are_those_relied_on(kind: str) -> None:
    of = model(kind)
    assert all(one.missing() is None for one in compat.relied_on(of))


def test_flash_attention_is_told_by_its_name() -> None:
    of = model()
    assert not compat.takes_padding_masks(of)
    config = compat.language_model(of).config
    before = config._attn_implementation
    try:
        config._attn_implementation_internal = "flash_attention_2"
        assert compat.takes_padding_masks(of)
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
    assert len(seen) == 3 * len(compat.decoder_layers(of))
    assert all(one is None for one in seen)
