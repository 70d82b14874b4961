"""Architecture of the reference model, as ordinary transformers configurations."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tokenprune.reference.scene import CANVAS, PATCH
from training.reference_model.vocab import BOS, EOS, IMAGE, PAD, WORDS

WIDTH = 128
TOWER_BLOCKS = 12
TOWER_HEADS = 2
LM_BLOCKS = 6
LM_HEADS = 4
PATCHES = (CANVAS // PATCH) ** 2
FEATURE_LAYER = -2


def build_config() -> LlavaConfig:
    """A 12-block CLIP tower on 196 patches and a 6-block Llama, both 128 wide."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=TOWER_BLOCKS,
        num_attention_heads=TOWER_HEADS,
        image_size=CANVAS,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=LM_BLOCKS,
        num_attention_heads=LM_HEADS,
        num_key_value_heads=LM_HEADS,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        image_seq_length=PATCHES,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """A freshly initialised model in fp32."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "embed" not in name:
                fan_in = parameter[0].numel()
                torch.nn.init.normal_(parameter, std=fan_in**-0.5)
    return model
