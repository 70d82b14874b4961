"""The small image model with a larger picture, a larger vocabulary and longer prompts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from tokenprune.reference import reference_model_path
from tokenprune.reference.detail_scene import DETAIL_CANVAS, DETAIL_GRID
from training.detail_model.vocab import WORDS

PATCHES = DETAIL_GRID**2
MAX_POSITIONS = 1024
_PLACES = "model.vision_tower.embeddings.position_embedding.weight"
_TABLE = "model.language_model.embed_tokens.weight"


def build_config() -> LlavaConfig:
    """The small model's configuration, for 400 patches and these words."""
    config = LlavaConfig.from_pretrained(reference_model_path())
    config.dtype = torch.float32
    config.vision_config.image_size = DETAIL_CANVAS
    config.image_seq_length = PATCHES
    config.text_config.vocab_size = len(WORDS)
    config.text_config.max_position_embeddings = MAX_POSITIONS
    return config


def stretch_places(places: Tensor) -> Tensor:
    """Position embeddings `[1 + G * G, D]` of CLS and a grid, for the grid of 20 x 20 patches."""
    grid = round((len(places) - 1) ** 0.5)
    square = places[1:].T.reshape(1, -1, grid, grid)
    larger = F.interpolate(square, size=(DETAIL_GRID, DETAIL_GRID), mode="bicubic")
    return torch.cat([places[:1], larger.flatten(2)[0].T])


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """A model in fp32 that starts from the small one's weights.

    Position embeddings are interpolated; new words start near the mean of the known ones.
    """
    torch.manual_seed(seed)
    small = LlavaForConditionalGeneration.from_pretrained(
        reference_model_path(), dtype=torch.float32
    )
    state = {name: parameter.detach() for name, parameter in small.named_parameters()}
    known = state[_TABLE]
    noise = torch.randn(len(WORDS) - len(known), known.shape[1])
    state[_TABLE] = torch.cat([known, known.mean(0) + known.std() * noise])
    state[_PLACES] = stretch_places(state[_PLACES])
    model = LlavaForConditionalGeneration(build_config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    return model
