"""How query and key come about in the decoder layers of transformers, by class.

Nothing here imports transformers: layers are read by attribute, classes by full name.
`tests/families/test_layers.py` checks each class against the attention of its own model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NORMS = ("input_layernorm", "operator_norm", "attention_layernorm")
"""The norm in front of the attention, by the names that classes have for it."""
ATTENTION = "self_attn"
"""The attention; layers of mixed models that have another mixer don't have it."""
PROJECTIONS = {"query": "q_proj", "key": "k_proj"}
"""Linear maps of the attention, whose outputs are split into heads of `head_dim` channels."""
VALUE = "v_proj"
"""The same of the values; None in layers whose projected keys are their values."""
CONVOLUTION = "conv"
"""A mixer of layers without attention; such layers that don't have it have linear attention."""
VALUE_NORM = "v_norm"
"""Norm of single heads of the values, in families that have one."""
HEAD_NORMS = {
    "query": ("q_norm", "q_layernorm", "qk_norm"),
    "key": ("k_norm", "k_layernorm", "qk_norm"),
}
"""Norms of single heads, in front of the rotation, by the names that classes have for them."""
HEAD_WIDTH = "head_dim"
SCALING = "scaling"
"""What the logits are multiplied by."""
SOFTCAP = "attn_logit_softcapping"
"""c of c tanh(logit / c); None for logits as they are."""
BASES = "layer_rope_theta"
"""Of the LLM's config: base of the rotation of every layer, 0 for none; LLMs that don't say it so
don't have it."""
NUMBER = "layer_idx"
"""Of the attention: the layer's number."""
LAYER_TYPE = "layer_type"
"""Of what makes rotary rows: the argument with the kind of layer that they are for."""
INDEXER = "indexer"
"""Of the attention: what chooses keys for each query, where something does; None in layers for
which the keys of an earlier one count, or all."""
BORROWS = "skip_topk"
"""Of the attention: whether it sees the keys that an earlier layer chose."""
SHARED = "is_kv_shared_layer"
"""Of the attention: whether it takes keys and values from an earlier layer."""
LAYER_TYPES = "layer_types"
"""Of the LLM's config: the kind of every layer; LLMs of one kind may not have it."""
MASKED = frozenset({"full_attention", "sliding_attention"})
"""Kinds that differ in their masks only."""
BOTH_WAYS = "use_bidirectional_attention"
"""Of the LLM's config: whether tokens see those behind them."""
ROTARY_EMBEDDING = "rotary_emb"
"""Of the LLM: cosines and sines of position ids."""


@dataclass(frozen=True)
class LayerKind:
    """What sets the attention of a layer class apart; the defaults are Llama's.

    In all of them every head is rotated as far as the rotary rows reach.

    Attributes:
        normed: whether every head, or all heads together where the norm is as wide, is normed
            before it is rotated, where the attention has norms.
        gated: whether the query projection puts out a gate behind the query of every head.
        capped: whether logits are capped; some classes have the setting and don't heed it.
        factor: attribute of the attention with what normed queries are multiplied by; None for
            nothing.
        typed: whether rotary rows are made for a type of layer.
        paired: whether neighbouring channels turn together, instead of halves.
        wide: whether heads turn in float32.
        complex: whether rotary rows have an entry for each pair, and both are a complex number.
        behind: attributes of the attention with norms of single heads of query and key behind the
            rotation, where it has them.
        rotates: attribute of the attention that is empty in layers without rotation; None where
            every layer rotates.
        mixed: attribute of the attention without whose value every layer rotates all the same; None
            where `rotates` alone tells.
        bare: whether no norm stands in front of the attention, or the attribute of the layer that
            says so.
        latent: whether keys and values come from one narrow projection, see `latent_layers`.
        streams: attribute of the layer with the part that makes the states that it computes with of
            several streams of each token; None where there is one stream.
        output: which of the things that this part puts out they are; None where it predicts them.
        indexed: how the attention's indexer selects keys, see `indexed_layers`; None where it has
            none, and queries see what the mask lets them.
        placed: whether queries are scaled by their places, so that they can't be had without these.
    """

    normed: bool = False
    gated: bool = False
    capped: bool = False
    factor: str | None = None
    typed: bool = False
    paired: bool = False
    wide: bool = False
    complex: bool = False
    behind: tuple[str, str] | None = None
    rotates: str | None = None
    mixed: str | None = None
    bare: bool | str = False
    latent: bool = False
    streams: str | None = None
    output: int | None = None
    indexed: str | None = None
    placed: bool = False


LLAMA = LayerKind()
NORMED = LayerKind(normed=True)
GATED = LayerKind(normed=True, gated=True)
TYPED = LayerKind(normed=True, typed=True)
PAIRED = LayerKind(paired=True)
MUSE = LayerKind(normed=True, factor="qk_scale_factor")

_KINDS = {
    "apertus1p5": {"Apertus1p5TextDecoderLayer": NORMED},
    "aria": {"AriaTextDecoderLayer": LLAMA},
    "cohere": {"CohereDecoderLayer": LayerKind(normed=True, paired=True, wide=True)},
    "cohere2": {"Cohere2DecoderLayer": LayerKind(paired=True, wide=True, rotates="sliding_window")},
    "cohere_compass": {"CohereCompassDecoderLayer": LLAMA},
    "cosmos3_edge": {"Cosmos3EdgeTextDecoderLayer": LLAMA},
    "deepseek_ocr2": {"DeepseekOcr2TextDecoderLayer": LLAMA},
    "deepseek_v3": {"DeepseekV3DecoderLayer": LayerKind(latent=True)},
    "dots3_note": {"Dots3NoteTextDecoderLayer": LayerKind(latent=True, typed=True, indexed="keys")},
    "ernie4_5_vl_moe": {"Ernie4_5_VLMoeDecoderLayer": LayerKind(paired=True, wide=True)},
    "exaone4": {
        "Exaone4DecoderLayer": LayerKind(
            normed=True, rotates="is_sliding", mixed="sliding_window", bare=True
        )
    },
    "gemma": {"GemmaDecoderLayer": LLAMA},
    "gemma2": {"Gemma2DecoderLayer": LayerKind(capped=True)},
    "gemma3": {"Gemma3DecoderLayer": TYPED},
    "gemma3n": {
        "Gemma3nTextDecoderLayer": LayerKind(normed=True, typed=True, streams="altup"),
    },
    "gemma4": {"Gemma4TextDecoderLayer": TYPED},
    "gemma4_unified": {"Gemma4UnifiedTextDecoderLayer": TYPED},
    "glm4v": {"Glm4vTextDecoderLayer": PAIRED},
    "glm4v_moe": {"Glm4vMoeTextDecoderLayer": LLAMA},
    "glm5_next": {
        "Glm5NextTextDecoderLayer": LayerKind(
            latent=True, streams="attn_hc", output=2, indexed="pools"
        )
    },
    "glm_ocr": {"GlmOcrTextDecoderLayer": PAIRED},
    "granite4_vision": {"Granite4VisionTextDecoderLayer": LLAMA},
    "granite_docling": {"GraniteDoclingTextDecoderLayer": LLAMA},
    "hunyuan_vl": {
        "HunYuanVLDenseV1DecoderLayer": LayerKind(
            wide=True, behind=("query_layernorm", "key_layernorm")
        )
    },
    "hyperclovax": {"HyperCLOVAXDecoderLayer": LLAMA},
    "lfm2": {"Lfm2DecoderLayer": NORMED},
    "lfm3": {"Lfm3DecoderLayer": TYPED},
    "llama": {"LlamaDecoderLayer": LLAMA},
    "llama4": {
        "Llama4TextDecoderLayer": LayerKind(
            complex=True, behind=("qk_norm", "qk_norm"), rotates="use_rope"
        )
    },
    "minimax_m3_vl": {"MiniMaxM3VLDecoderLayer": NORMED},
    "ministral": {"MinistralDecoderLayer": LLAMA},
    "mistral": {"MistralDecoderLayer": LLAMA},
    "mistral_large4": {"MistralLarge4TextDecoderLayer": LayerKind(latent=True, placed=True)},
    "molmo2": {"Molmo2DecoderLayer": LayerKind(normed=True, bare="norm_after")},
    "muse_glimmer": {"MuseGlimmerTextDecoderLayer": MUSE},
    "muse_spark": {"MuseSparkTextDecoderLayer": MUSE},
    "paddleocr_vl": {"PaddleOCRDecoderLayer": LLAMA},
    "qwen2": {"Qwen2DecoderLayer": LLAMA},
    "qwen2_5_omni": {"Qwen2_5OmniDecoderLayer": LLAMA},
    "qwen2_5_vl": {"Qwen2_5_VLDecoderLayer": LLAMA},
    "qwen2_vl": {"Qwen2VLDecoderLayer": LLAMA},
    "qwen3": {"Qwen3DecoderLayer": NORMED},
    "qwen3_5": {"Qwen3_5DecoderLayer": GATED},
    "qwen3_5_moe": {"Qwen3_5MoeDecoderLayer": GATED},
    "qwen3_moe": {"Qwen3MoeDecoderLayer": NORMED},
    "qwen3_omni_moe": {"Qwen3OmniMoeThinkerTextDecoderLayer": NORMED},
    "qwen3_vl": {"Qwen3VLTextDecoderLayer": NORMED},
    "qwen3_vl_moe": {"Qwen3VLMoeTextDecoderLayer": NORMED},
    "step3p7": {"Step3p7DecoderLayer": TYPED},
    "qwen4_exp": {
        "Qwen4ExpTextDecoderLayer": LayerKind(
            normed=True,
            gated=True,
            bare=True,
            streams="attn_hyper_connection",
            output=0,
            indexed="blocks",
        )
    },
}

KINDS: Mapping[str, LayerKind] = {
    f"transformers.models.{folder}.modeling_{folder}.{name}": kind
    for folder, classes in _KINDS.items()
    for name, kind in classes.items()
}
"""Kinds by the full name of the layer class."""
