"""The names inside transformers that the LLaVA adapter relies on."""

from __future__ import annotations

import pytest
from tokenprune_adapters.transformers import llava_names as compat

from tests.mllm.calls import model


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
