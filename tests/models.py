"""Tiny random models, built from configs and never downloaded, shared by all tests.

Every builder seeds torch, so equal arguments give equal weights, and returns a model of the
caller's own in eval mode: a copy, since to build one takes twice as long. Pictures are 48 x 48
with patches of 8: a grid of 6 x 6 = 36 patches, unless told otherwise.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

IMAGE, PATCH, WIDTH, HEADS, DEPTH = 48, 8, 32, 4, 4
SIDE = IMAGE // PATCH
PATCHES = SIDE * SIDE
IMAGE_TOKEN, PAD_TOKEN, EOS_TOKEN, VOCABULARY = 5, 0, 2, 96


def copied(build: Callable[..., Any]) -> Callable[..., Any]:
    """Build a model once for each set of arguments, and give copies of it."""

    @functools.cache
    def once(*args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        return build(*args, **kwargs), torch.get_rng_state()

    @functools.wraps(build)
    def given(*args: Any, **kwargs: Any) -> Any:
        try:
            model, state = once(*args, **kwargs)
        except TypeError:  # a list among the arguments
            return build(*args, **kwargs)
        torch.set_rng_state(state)  # as it stands after building
        return copy.deepcopy(model)

    return given


def pixels(batch: int = 2, *, image: int = IMAGE, seed: int = 0) -> Tensor:
    """Random pictures `[batch, 3, image, image]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, image, image, generator=generator)


def shaken(model: nn.Module, seed: int = 1) -> nn.Module:
    """Make every parameter generic: zero biases and unit norms would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * noise.to(parameter.dtype))
    return model.eval()


def _vision(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": IMAGE,
        "patch_size": PATCH,
        **changes,
    }


def _text() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": EOS_TOKEN,
        "pad_token_id": 1,
    }


def _built(model_class: type[nn.Module], config: Any, attention: str) -> Any:
    torch.manual_seed(0)
    config._attn_implementation = attention
    return shaken(model_class(config))


@copied
def clip_vision(attention: str = "sdpa", *, projected: bool = False, **changes: Any) -> Any:
    """CLIPVisionModel, or CLIPVisionModelWithProjection."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    model_class = CLIPVisionModelWithProjection if projected else CLIPVisionModel
    return _built(model_class, CLIPVisionConfig(**_vision(**changes)), attention)


@copied
def clip(attention: str = "sdpa", *, classifier: bool = False, **changes: Any) -> Any:
    """CLIPModel, or CLIPForImageClassification with 7 classes."""
    from transformers import CLIPConfig, CLIPForImageClassification, CLIPModel

    config = CLIPConfig(
        text_config=_text(), vision_config=_vision(**changes), projection_dim=16, num_labels=7
    )
    return _built(CLIPForImageClassification if classifier else CLIPModel, config, attention)


@copied
def siglip_vision(attention: str = "sdpa", **changes: Any) -> Any:
    """SiglipVisionModel with its attention-pooling head."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return _built(SiglipVisionModel, SiglipVisionConfig(**_vision(**changes)), attention)


@copied
def siglip(attention: str = "sdpa", *, classifier: bool = False, **changes: Any) -> Any:
    """SiglipModel, or SiglipForImageClassification with 7 classes."""
    from transformers import SiglipConfig, SiglipForImageClassification, SiglipModel

    config = SiglipConfig(text_config=_text(), vision_config=_vision(**changes), num_labels=7)
    return _built(SiglipForImageClassification if classifier else SiglipModel, config, attention)


@copied
def siglip2_vision(attention: str = "sdpa", *, classifier: bool = False, **changes: Any) -> Any:
    """Siglip2VisionModel, or Siglip2ForImageClassification with 7 classes."""
    import transformers as hf

    vision = _vision(**changes, num_patches=PATCHES)
    del vision["image_size"]
    if not classifier:
        return _built(hf.Siglip2VisionModel, hf.Siglip2VisionConfig(**vision), attention)
    config = hf.Siglip2Config(text_config=_text(), vision_config=vision, num_labels=7)
    return _built(hf.Siglip2ForImageClassification, config, attention)


@copied
def siglip2(attention: str = "sdpa", **changes: Any) -> Any:
    """Siglip2Model, which takes patches."""
    from transformers import Siglip2Config, Siglip2Model

    vision = _vision(**changes, num_patches=PATCHES)
    del vision["image_size"]
    config = Siglip2Config(text_config=_text(), vision_config=vision)
    return _built(Siglip2Model, config, attention)


def siglip2_inputs(
    batch: int = 2, *, shape: tuple[int, int] = (SIDE, SIDE), padding: int = 0, seed: int = 0
) -> dict[str, Tensor]:
    """Patches, mask and shapes as SigLIP 2's processor gives them, `padding` patches at the end."""
    generator = torch.Generator().manual_seed(seed)
    count = shape[0] * shape[1]
    mask = torch.ones(batch, count + padding, dtype=torch.int64)
    mask[:, count:] = 0
    return {
        "pixel_values": torch.randn(batch, count + padding, 3 * PATCH * PATCH, generator=generator),
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([shape] * batch),
    }


@copied
def timm_vit(**changes: Any) -> Any:
    """A timm VisionTransformer; keyword arguments are its own."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return shaken(VisionTransformer(**_timm(changes)))


@copied
def timm_distilled(**changes: Any) -> Any:
    """timm's DeiT with a distillation token."""
    from timm.models.deit import VisionTransformerDistilled

    torch.manual_seed(0)
    return shaken(VisionTransformerDistilled(**_timm(changes)))


def _timm(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "img_size": IMAGE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "mlp_ratio": 2.0,
        "num_classes": 7,
        **changes,
    }


def _language() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": EOS_TOKEN,
        "pad_token_id": PAD_TOKEN,
    }


def _llava(vision: Any, language: Any, attention: str, **changes: Any) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=IMAGE_TOKEN,
        image_seq_length=PATCHES,
        pad_token_id=PAD_TOKEN,
        eos_token_id=EOS_TOKEN,
        **changes,
    )
    return _built(LlavaForConditionalGeneration, config, attention)


@copied
def llava_clip(attention: str = "sdpa", **changes: Any) -> Any:
    """LLaVA with a CLIP tower (feature layer -2, class token left out) and a Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig

    vision, language = CLIPVisionConfig(**_vision()), LlamaConfig(**_language())
    return _llava(vision, language, attention, **changes)


@copied
def llava_siglip(attention: str = "sdpa", **changes: Any) -> Any:
    """LLaVA with a SigLIP tower (last layer, all tokens) and a Qwen2."""
    from transformers import Qwen2Config, SiglipVisionConfig

    vision = SiglipVisionConfig(**_vision(vision_use_head=False))
    changes = {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        **changes,
    }
    return _llava(vision, Qwen2Config(**_language()), attention, **changes)


def llava_inputs(
    prompts: list[list[int]], *, padding_side: str = "left", seed: int = 0
) -> dict[str, Tensor]:
    """A LLaVA call as the processor gives it.

    Args:
        prompts: token ids of every prompt, with one `IMAGE_TOKEN` for each picture.
        padding_side: `left` or `right`.
        seed: of the pictures.
    """
    rows = [_expanded(prompt) for prompt in prompts]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), PAD_TOKEN)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        start = longest - len(row) if padding_side == "left" else 0
        ids[number, start : start + len(row)] = torch.tensor(row)
        mask[number, start : start + len(row)] = 1
    pictures = sum(prompt.count(IMAGE_TOKEN) for prompt in prompts)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": pixels(pictures, seed=seed),
    }


def _expanded(prompt: list[int]) -> list[int]:
    return [token for t in prompt for token in [t] * (PATCHES if t == IMAGE_TOKEN else 1)]
