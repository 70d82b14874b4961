"""The two halves of a block, put together again, are the block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tokenprune_adapters.timm.vit import TimmVitAdapter
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests import models, towers
from tests.adapters.variants import VARIANTS, adapted
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import EncoderAdapter

PATCHES = 11


def put_together(adapter: EncoderAdapter, block: Any, hidden: Tensor, **given: Any) -> Tensor:
    query, key, value = adapter.heads(block, hidden)
    query, key = adapter.rotate(query, key, (), given)
    attended = scaled_dot_product_attention(query, key, value)
    return adapter.feed_forward(block, adapter.join(block, hidden, attended))


def states(adapter: EncoderAdapter, dtype: torch.dtype) -> torch.Tensor:
    count = adapter.spec().prefix + PATCHES
    hidden = torch.randn(2, count, models.WIDTH, generator=torch.Generator().manual_seed(3))
    return hidden.to(dtype)


def own(block: Any, hidden: Tensor, **given: Any) -> Tensor:
    takes_mask = "self_attn" in dict(block.named_children())
    return block(hidden, None, **given) if takes_mask else block(hidden, **given)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_halves_equal_the_block(name: str) -> None:
    adapter = adapted(VARIANTS[name].build())
    hidden, given = states(adapter, torch.float32), VARIANTS[name].given(adapter.model, PATCHES)
    for block in adapter.spec().blocks:
        expected = own(block, hidden, **given)
        got = put_together(adapter, block, hidden, **given)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        assert (expected - hidden).abs().max() > 0.05  # the block does something


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_halves_equal_the_block_in_bfloat16(name: str) -> None:
    adapter = adapted(VARIANTS[name].build().to(torch.bfloat16))
    block, hidden = adapter.spec().blocks[0], states(adapter, torch.bfloat16)
    try:
        rows = VARIANTS[name].given(adapter.model, PATCHES)
    except RuntimeError as error:  # timm 1.0.20 multiplies float32 by bfloat16
        pytest.skip(f"the library's own rotary rows: {error}")
    given = torch.utils._pytree.tree_map(lambda part: part.to(torch.bfloat16), rows)
    got = put_together(adapter, block, hidden, **given)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, own(block, hidden, **given), atol=6e-2, rtol=3e-2)


@pytest.mark.parametrize("name", ["clip-vision", "vit", "vit-qk-norm", "vit-parallel-things"])
@torch.no_grad()
def test_query_and_key_give_the_attention_of_the_block(name: str) -> None:
    """Naive loop over heads and rows of softmax(q k^T / sqrt d) v against the attended heads."""
    adapter = adapted(VARIANTS[name].build())
    block, hidden = adapter.spec().blocks[1], states(adapter, torch.float32)[:1, :5]
    query, key, value = adapter.heads(block, hidden)
    attended = torch.zeros_like(value)
    for head in range(query.shape[1]):
        for row in range(query.shape[2]):
            logits = [
                float(query[0, head, row] @ key[0, head, column]) / query.shape[-1] ** 0.5
                for column in range(key.shape[2])
            ]
            for column, weight in enumerate(torch.tensor(logits).softmax(0)):
                attended[0, head, row] += weight * value[0, head, column]
    whole = adapter.feed_forward(block, adapter.join(block, hidden, attended))
    torch.testing.assert_close(whole, own(block, hidden), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_output_gate_is_part_of_the_first_half() -> None:
    layers = pytest.importorskip("timm.layers")
    model = models.timm_vit()
    attention = model.blocks[0].attn
    if not hasattr(attention, "gate"):
        pytest.skip("this timm has no gated attention")
    torch.manual_seed(0)
    gated = layers.Attention(models.WIDTH, models.HEADS, qkv_bias=True, gated=True)
    model.blocks[0].attn = gated.eval()
    adapter = adapted(model)
    hidden = states(adapter, torch.float32)
    torch.testing.assert_close(
        put_together(adapter, model.blocks[0], hidden), model.blocks[0](hidden)
    )


@torch.no_grad()
def test_another_attention_scale_is_folded_into_the_query() -> None:
    model = models.timm_vit()
    for block in model.blocks:
        block.attn.scale = 0.9
        block.attn.fused_attn = False  # the fused call has no scale argument
    adapter = adapted(model)
    hidden = states(adapter, torch.float32)
    torch.testing.assert_close(
        put_together(adapter, model.blocks[0], hidden), model.blocks[0](hidden)
    )


def test_gradients_flow_through_both_halves() -> None:
    model = models.clip_vision()
    adapter = adapted(model)
    put_together(adapter, model.encoder.layers[0], states(adapter, torch.float32)).sum().backward()
    layer = model.encoder.layers[0]
    for parameter in layer.parameters():
        assert parameter.grad is not None
    assert layer.self_attn.q_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: models.clip_vision(attention_dropout=0.1),
        lambda: models.siglip_vision(attention_dropout=0.1),
        lambda: towers.internvl(attention_dropout=0.1),
        lambda: towers.dinov2(attention_probs_dropout_prob=0.1),
        lambda: towers.dinov3(attention_dropout=0.1),
        lambda: models.timm_vit(attn_drop_rate=0.1),
    ],
)
def test_attention_dropout_is_refused_in_training_only(build: Callable[[], Any]) -> None:
    model = build()
    adapter = adapted(model)
    block, hidden = adapter.spec().blocks[0], states(adapter, torch.float32)
    adapter.heads(block, hidden)
    model.train()
    with pytest.raises(UnsupportedCallError, match="dropout on attention weights"):
        adapter.heads(block, hidden)


@pytest.mark.parametrize(
    "build",
    [partial(models.timm_vit, drop_path_rate=0.9), partial(towers.dinov2, drop_path_rate=0.9)],
)
def test_stochastic_depth_acts_on_each_half(build: Callable[[], Any]) -> None:
    adapter = adapted(build().train())
    block = adapter.spec().blocks[-1]
    hidden = torch.ones(64, 3, models.WIDTH)
    query, key, value = adapter.heads(block, hidden)
    joined = adapter.join(block, hidden, scaled_dot_product_attention(query, key, value))
    untouched = (joined == hidden).all(dim=2).all(dim=1)
    assert 0 < int(untouched.sum()) < 64


@pytest.mark.parametrize("name", ["ls1", "drop_path2", "attn.q_norm", "attn.proj_drop"])
@torch.no_grad()
def test_hooks_of_parts_that_do_nothing_act(name: str) -> None:
    model = models.timm_vit(depth=2)
    adapter, block = TimmVitAdapter(model), model.blocks[1]
    hidden = torch.randn(1, 5, model.embed_dim)
    plain = block(hidden)
    block.get_submodule(name).register_forward_hook(lambda _, __, output: 2 * output)
    assert not torch.allclose(block(hidden), plain)
    torch.testing.assert_close(put_together(adapter, block, hidden), block(hidden))
