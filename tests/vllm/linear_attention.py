"""Qwen3.5's linear attention in float32 for engines on a CPU, whose own kernels know bfloat16 only.

vLLM's caches, blocks and batches stay as they are; the rule itself is that of transformers, token
by token.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention
from vllm.utils.torch_utils import LayerNameType, _resolve_layer_name


def in_float32() -> None:
    """Replace vLLM's operator on a CPU, before it is registered."""
    gdn_attention.cpu_gdn_attention_core = core


def core(
    mixed_qkv: Tensor, b: Tensor, a: Tensor, core_attn_out: Tensor, layer_name: LayerNameType
) -> None:
    """Every sequence of a batch from its state on; states are kept for its next tokens."""
    context = get_forward_context()
    layer = context.no_compile_layers[_resolve_layer_name(layer_name)]
    if context.attn_metadata is None:  # a run that only measures
        return
    batch = context.attn_metadata[layer.prefix]
    states, known = layer.kv_cache, batch.has_initial_state
    starts = batch.non_spec_query_start_loc.tolist()
    for number, (first, end) in enumerate(pairwise(starts)):
        slot = int(batch.non_spec_state_indices_tensor[number])
        rows, recurrent = (state[slot] for state in states)
        if known is not None and not known[number]:
            rows, recurrent = torch.zeros_like(rows), torch.zeros_like(recurrent)
        part = slice(first, end)
        rows = torch.cat((rows, mixed_qkv[part]))
        core_attn_out[part], recurrent = _attended(layer, rows, a[part], b[part], recurrent)
        states[0][slot], states[1][slot] = rows[end - first :], recurrent


def _attended(
    layer: Any, rows: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`[T, H, d]` of `T` tokens, and the state behind them.

    Args:
        layer: vLLM's.
        rows: queries, keys and values `[T + w - 1, c]`, those of the tokens in front among them.
        a: `[T, H]`, what decays.
        b: `[T, H]`, what is written.
        state: in front of them.
    """
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

    weight = layer.conv1d.weight
    mixed = functional.conv1d(rows.T[None], weight, layer.conv1d.bias, groups=len(weight))
    query, key, value = layer.rearrange_mixed_qkv(functional.silu(mixed[0]).T)
    repeated = layer.num_v_heads // layer.num_k_heads
    query, key = (one.repeat_interleave(repeated, dim=2) for one in (query, key))
    decay = -layer.A_log.exp() * functional.softplus(a + layer.dt_bias)
    found, behind = torch_recurrent_gated_delta_rule(
        query, key, value, g=decay[None], beta=b.sigmoid()[None],
        initial_state=state[None], output_final_state=True, use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    assert behind is not None
    return found[0], behind[0]
