"""The names inside transformers' dual encoders, CLIP and SigLIP, that their loader relies on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


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


def project_patches(model: Any, hidden: Tensor) -> Tensor:
    """Tokens `[B, N, D]` of CLIP's vision half in the space of its texts, `[B, N, E]`."""
    projected: Tensor = model.visual_projection(model.vision_model.post_layernorm(hidden))
    return projected


def vision_width(model: Any) -> int:
    """Channels of a token of a dual encoder's vision half."""
    return int(model.config.vision_config.hidden_size)


def drop_vision_blocks(model: Any) -> None:
    """Let go of the vision blocks of a CLIPModel whose vision half isn't called."""
    model.vision_model.encoder = None
