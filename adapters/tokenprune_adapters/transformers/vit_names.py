"""Every name inside transformers' vision encoders that the adapters rely on.

Nothing here imports transformers: models are read by attribute, classes by full name.
`tests/adapters/test_compat_transformers.py` checks each name and signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokenprune_adapters.shared.signatures import Relied


def relied_on(vision: Any) -> list[Relied]:
    """The methods of a vision module that the engine overrides, with their first arguments."""
    given = VISION_ARGUMENTS if takes_patches(vision) else VISION_ARGUMENTS[:1]
    called = ("hidden_states", "attention_mask")
    return [
        Relied(vision, "forward", first=given),
        *(Relied(block, "forward", first=called) for block in blocks(vision)),
    ]


def vision_module(model: Any) -> Any:
    """The module that holds embeddings and encoder, however many wrappers are around it.

    `CLIPModel`, `SiglipModel` and the models with a head keep a vision model in `vision_model`;
    some releases wrap it once more.
    """
    while not hasattr(model, "encoder"):
        model = model.vision_model
    return model


def blocks(vision: Any) -> list[nn.Module]:
    """The transformer blocks, in order."""
    return list(vision.encoder.layers)


def attention_of(block: Any) -> nn.Module:
    """The attention module of a block."""
    attention: nn.Module = block.self_attn
    return attention


def heads(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, T, D]` -> query, key, value `[B, H, T, d]`, scaled so that 1/sqrt(d) is implied."""
    attention = block.self_attn
    normed = block.layer_norm1(hidden)
    shape = (*normed.shape[:-1], -1, attention.head_dim)
    query, key, value = (
        projection(normed).view(shape).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    factor = attention.scale * attention.head_dim**0.5
    return (query if abs(factor - 1) < 1e-6 else query * factor), key, value


def join(block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """Heads `[B, H, T, d]` through the output projection, added to `hidden` `[B, T, D]`."""
    together = attended.transpose(1, 2).flatten(2)
    out: Tensor = hidden + block.self_attn.out_proj(together)
    return out


def feed_forward(block: Any, hidden: Tensor) -> Tensor:
    """Second norm, MLP and residual: `[B, T, D]` -> `[B, T, D]`."""
    out: Tensor = hidden + block.mlp(block.layer_norm2(hidden))
    return out


def attention_dropout(block: Any) -> float:
    """Dropout on attention weights that is active now."""
    return float(block.self_attn.dropout) if block.training else 0.0


def patch_size(vision: Any) -> int:
    """Side of a square patch, in pixels."""
    return int(vision.config.patch_size)


def width(vision: Any) -> int:
    """Channels of a token."""
    return int(vision.config.hidden_size)


def default_side(vision: Any) -> int:
    """Patches along one side of the image size that the model was made for."""
    config = vision.config
    if takes_patches(vision):  # there is no image size
        return int(int(config.num_patches) ** 0.5)
    return int(config.image_size) // int(config.patch_size)


def takes_patches(vision: Any) -> bool:
    """Whether the model is given patches, a mask and shapes instead of pictures (SigLIP 2)."""
    return hasattr(vision.config, "num_patches")


VISION_ARGUMENTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
MASK = VISION_ARGUMENTS[1]


def argument(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An argument of a vision model's forward, given by position or by name; None if absent."""
    place = VISION_ARGUMENTS.index(name)
    return args[place] if place < len(args) else kwargs.get(name)


def without_mask(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call of SigLIP 2 with `pixel_attention_mask` None."""
    named = {**dict(zip(VISION_ARGUMENTS, args, strict=False)), **kwargs}
    return (), {**named, MASK: None}


def image_features(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Embeddings `[B, D]` of pictures, projected, of any length; of a dual encoder."""
    features: Tensor = model.get_image_features(**inputs, return_dict=True).pooler_output
    return features


def text_features(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Embeddings `[T, D]` of texts, projected, of any length; of a dual encoder."""
    features: Tensor = model.get_text_features(**inputs, return_dict=True).pooler_output
    return features


def text_length(model: Any) -> int:
    """Tokens of a text that a dual encoder takes."""
    return int(model.config.text_config.max_position_embeddings)


def pools(model: Any) -> bool:
    """Whether a dual encoder's vision part ends in an embedding; SigLIP's head can be left out."""
    return bool(getattr(model.config.vision_config, "vision_use_head", True))
