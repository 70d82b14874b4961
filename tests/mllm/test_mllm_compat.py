"""The names inside transformers that the LLaVA adapter relies on."""

from __future__ import annotations

import pytest
import torch
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
    ids = torch.tensor([[1, 7]])
    assert torch.equal(compat.embed(of, ids), of.get_input_embeddings()(ids))


@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
def test_signatures_are_those_relied_on(kind: str) -> None:
    of = model(kind)
    assert all(one.missing() is None for one in compat.relied_on(of))
    for layer in compat.decoder_layers(of):
        attention = layer.self_attn
        assert attention.q_proj.in_features == attention.k_proj.in_features
        assert attention.head_dim > 0
        assert attention.scaling > 0


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


def test_caches_are_those_that_can_be_trimmed() -> None:
    from transformers import DynamicCache, cache_utils

    assert all(hasattr(cache_utils, name) for name in compat.DYNAMIC_CACHES)
    cache, states = DynamicCache(), torch.arange(24.0).view(1, 1, 6, 4)
    cache.update(states, states + 100, 0)
    compat.trim_cache(cache, 0, torch.tensor([[1, 4]]))
    assert torch.equal(cache.layers[0].keys, states[:, :, [1, 4]])
    assert torch.equal(cache.layers[0].values, states[:, :, [1, 4]] + 100)
    assert cache.get_seq_length(0) == 2


@pytest.mark.parametrize("kind", ["clip", "mistral"])
def test_projections_ahead_are_those_of_the_layer_itself(kind: str) -> None:
    layer = compat.decoder_layers(model(kind))[1]
    hidden, seen = torch.randn(2, 5, 32), {}
    hooks = [
        module.register_forward_hook(lambda _m, _a, out, name=name: seen.update({name: out}))
        for name, module in compat.projections(layer).items()
    ]
    with torch.no_grad():
        made = dict(compat.project(layer, hidden))
        seen.clear()
        rows = compat.rotary(model(kind), hidden, torch.arange(5)[None])
        layer(hidden, position_embeddings=rows)
    for hook in hooks:
        hook.remove()
    assert set(made) == set(seen) == {"query", "key"}
    assert all(torch.equal(made[name], seen[name]) for name in made)
