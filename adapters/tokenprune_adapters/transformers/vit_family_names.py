"""Where the parts of transformers' vision encoders stand, family by family, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BlockNames:
    """A pre-norm block: dotted names of its parts, and of attributes of its attention.

    What follows the attention, and the second half, are parts called one after the other; a
    parameter among them is multiplied.

    Attributes:
        norm: the first norm.
        attention: the module with the projections.
        projections: query, key and value, below the attention.
        shared_norms: norms of query and key, over all heads together, below the attention.
        head_norms: norms of query, key and value, of every head, below the attention.
        head_width: channels of a head.
        scale: of the logits.
        dropout: on attention weights, a float; None where blocks have none.
        after: between the attended heads and the residual.
        feed_forward: the second half, between its input and the residual.
    """

    norm: str = "layer_norm1"
    attention: str = "self_attn"
    projections: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")
    shared_norms: tuple[str, ...] = ()
    head_norms: tuple[str, ...] = ()
    head_width: str = "head_dim"
    scale: str = "scale"
    dropout: str | None = "dropout"
    after: tuple[str, ...] = ("self_attn.out_proj",)
    feed_forward: tuple[str, ...] = ("layer_norm2", "mlp")

    def parts(self) -> tuple[str, ...]:
        """Every dotted name that a block must have."""
        norms = (*self.shared_norms, *self.head_norms)
        dropout = () if self.dropout is None else (self.dropout,)
        below = (*self.projections, *norms, self.head_width, self.scale, *dropout)
        inside = tuple(f"{self.attention}.{name}" for name in below)
        return (self.norm, *inside, *self.after, *self.feed_forward)


@dataclass(frozen=True)
class VisionNames:
    """An encoder: how it is found inside a model, and how its blocks look.

    Attributes:
        variants: names of a block, of the newest release first.
        wrappers: attributes that lead inwards from models around the encoder.
        blocks: dotted name of the list of blocks.
        takes: first arguments of the encoder, in order.
        called: first arguments of a block, in order.
        block_keywords: further arguments that a block is given by name.
    """

    variants: tuple[BlockNames, ...]
    wrappers: tuple[str, ...] = ("vision_model",)
    blocks: str = "encoder.layers"
    takes: tuple[str, ...] = ("pixel_values",)
    called: tuple[str, ...] = ("hidden_states",)
    block_keywords: tuple[str, ...] = ()


CLIP = VisionNames((BlockNames(),), called=("hidden_states", "attention_mask"))
"""CLIP and SigLIP."""

PATCHES = "pixel_values", "pixel_attention_mask", "spatial_shapes"
"""Arguments of an encoder that is given patches instead of pictures (SigLIP 2)."""
SIGLIP2 = VisionNames(CLIP.variants, wrappers=(), takes=PATCHES, called=CLIP.called)

IDEFICS3 = VisionNames(
    CLIP.variants, takes=("pixel_values", "patch_attention_mask"), called=CLIP.called
)
"""Idefics3 and SmolVLM: SigLIP's blocks with a mask over the patches."""

INTERNVL = VisionNames(
    (
        BlockNames(
            norm="layernorm_before",
            attention="attention",
            shared_norms=("q_norm", "k_norm"),
            dropout="attention_dropout",
            after=("attention.projection_layer", "attention.projection_dropout", "lambda_1"),
            feed_forward=("layernorm_after", "mlp", "dropout", "lambda_2"),
        ),
    ),
    wrappers=(),
    blocks="encoder.layer",
)

QIANFAN = VisionNames(
    (
        replace(
            INTERNVL.variants[0],
            after=(*INTERNVL.variants[0].after, "drop_path1"),
            feed_forward=(*INTERNVL.variants[0].feed_forward, "drop_path2"),
        ),
    ),
    wrappers=(),
    blocks="layers",
)
"""Qianfan-OCR: InternVL's blocks, with stochastic depth."""

_DINO = BlockNames(
    norm="norm1",
    attention="attention",
    scale="scaling",
    dropout="attention_dropout",
    after=("attention.o_proj", "layer_scale1", "drop_path"),
    feed_forward=("norm2", "mlp", "layer_scale2", "drop_path"),
)
_OLDER_DINO = BlockNames(
    norm="norm1",
    attention="attention.attention",
    projections=("query", "key", "value"),
    head_width="attention_head_size",
    scale="scaling",
    dropout="dropout_prob",
    after=("attention.output.dense", "attention.output.dropout", "layer_scale1", "drop_path"),
    feed_forward=_DINO.feed_forward,
)

DINOV2 = VisionNames(
    (_DINO, _OLDER_DINO),
    wrappers=("dinov2", "dinov2_with_registers"),
    blocks="encoder.layer",
)
"""DINOv2, with registers or without."""

ROTARY = "position_embeddings"
"""Argument of a block: cosines and sines `[N, d]` of the patches."""

DINOV3 = VisionNames(
    (
        BlockNames(
            norm=_DINO.norm,
            attention=_DINO.attention,
            scale=_DINO.scale,
            after=_DINO.after,
            feed_forward=_DINO.feed_forward,
        ),
    ),
    wrappers=(),
    blocks="model.layer",
    block_keywords=(ROTARY,),
)

PIXTRAL = VisionNames(
    (
        BlockNames(
            norm="attention_norm",
            attention="attention",
            scale="scaling",
            after=("attention.o_proj",),
            feed_forward=("ffn_norm", "feed_forward"),
        ),
    ),
    wrappers=(),
    blocks="transformer.layers",
    takes=("pixel_values", "image_sizes"),
    called=CLIP.called,
    block_keywords=(ROTARY,),
)

PADDLEOCR = VisionNames(
    (BlockNames(scale="scaling", dropout="attention_dropout"),),
    takes=("pixel_values", "attention_mask", "grid_thw"),
    block_keywords=("cu_seqlens", ROTARY),
)

TURNS = "freqs_ci"
"""Argument of a block: complex rotary rows `[N + 1, 1, d/2]`, that of the class token last."""

LLAMA4 = VisionNames(
    (
        BlockNames(
            norm="input_layernorm",
            scale="scaling",
            dropout="attention_dropout",
            after=("self_attn.o_proj",),
            feed_forward=("post_attention_layernorm", "mlp"),
        ),
    ),
    wrappers=(),
    blocks="layers",
    takes=("hidden_states", TURNS),
    called=("hidden_state", TURNS),
)

GEMMA4 = VisionNames(
    (
        BlockNames(
            norm="input_layernorm",
            head_norms=("q_norm", "k_norm", "v_norm"),
            scale="scaling",
            dropout="attention_dropout",
            after=("self_attn.o_proj", "post_attention_layernorm"),
            feed_forward=("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
        ),
    ),
    wrappers=(),
    takes=("pixel_values", "pixel_position_ids"),
    block_keywords=(ROTARY, "attention_mask", "position_ids"),
)

VIDEO_LLAMA3 = VisionNames(
    (BlockNames(scale="scaling", dropout="attention_dropout"),),
    wrappers=(),
    takes=("pixel_values", "grid_thw", "merge_sizes"),
    block_keywords=("cu_seqlens", ROTARY),
)

MINIMAX = VisionNames(
    (BlockNames(scale="scaling", dropout="attention_dropout"),),
    wrappers=(),
    blocks="layers",
    takes=("pixel_values", "grid_thw"),
)

COSMOS3 = VisionNames(
    (BlockNames(),),
    wrappers=(),
    takes=("pixel_values", "grid_thw"),
    block_keywords=("cu_seqlens",),
)
"""Cosmos 3 Edge."""

HUNYUAN = VisionNames(
    (BlockNames(scale="scaling", dropout=None, after=("self_attn.o_proj",)),),
    wrappers=(),
    blocks="layers",
    takes=("pixel_values", "grid_thw"),
    called=CLIP.called,
)

OVIS2 = VisionNames(
    (
        BlockNames(
            norm="rms_norm1",
            attention="attention",
            after=("attention.out_proj",),
            feed_forward=("rms_norm2", "ffn"),
        ),
    ),
    wrappers=(),
    called=CLIP.called,
)

JANUS = VisionNames(
    (
        BlockNames(
            shared_norms=("q_norm", "k_norm"),
            dropout="attention_dropout",
            after=("self_attn.projection_layer", "self_attn.projection_dropout"),
        ),
    ),
    called=CLIP.called,
)

MINICPM = VisionNames(
    (BlockNames(scale="scaling", dropout="attention_dropout"),),
    wrappers=(),
    takes=("pixel_values", "target_sizes", "use_vit_merger"),
    called=CLIP.called,
)

KIMI = VisionNames(
    (
        BlockNames(
            norm="norm1",
            attention="attn",
            scale="scaling",
            dropout="attention_dropout",
            after=("attn.proj",),
            feed_forward=("norm2", "mlp"),
        ),
    ),
    wrappers=(),
    blocks="layers",
    takes=("pixel_values", "grid_thw"),
    block_keywords=("cu_seqlens", ROTARY),
)
