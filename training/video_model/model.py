"""The image model with a larger vocabulary and room for longer prompts."""

from __future__ import annotations

import torch
from transformers import LlavaForConditionalGeneration

from tokenprune.reference import reference_model_path
from training.video_model.vocab import WORDS

#: Longer than any prompt of 8 frames.
MAX_POSITIONS = 2048


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """The bundled image model in fp32; the new words start near the mean of the known ones."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration.from_pretrained(
        reference_model_path(), dtype=torch.float32
    )
    table = model.get_input_embeddings().weight
    known, width = table.shape
    mean, deviation = table.detach().mean(0), table.detach().std()
    model.resize_token_embeddings(len(WORDS), mean_resizing=False)
    with torch.no_grad():
        new = model.get_input_embeddings().weight[known:]
        new.copy_(mean + deviation * torch.randn(len(new), width))
    model.config.text_config.max_position_embeddings = MAX_POSITIONS
    model.generation_config.update(do_sample=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("vision_tower" not in name)
    return model
