"""Tiny random vision transformers of transformers beyond CLIP and SigLIP, as in `tests.models`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import models
from tests.models import HEADS, IMAGE, PATCH, SIDE, copied, pixels


@copied
def internvl(attention: str = "sdpa", *, kind: str = "InternVL", **changes: Any) -> Any:
    """The vision model of InternVL or Qianfan-OCR, with layer scale and normed query and key."""
    import transformers

    settings = getattr(transformers, f"{kind}VisionConfig")
    sizes = {"image_size": [IMAGE, IMAGE], "patch_size": [PATCH, PATCH]}
    more = {"use_qk_norm": True, "attention_bias": True, "layer_scale_init_value": 0.5}
    config = settings(**models._vision(**{**sizes, **more, **changes}))
    return models._built(getattr(transformers, f"{kind}VisionModel"), config, attention)


@copied
def idefics3(attention: str = "sdpa", *, kind: str = "Idefics3", **changes: Any) -> Any:
    """The vision transformer of Idefics3 or SmolVLM."""
    import transformers

    config = getattr(transformers, f"{kind}VisionConfig")(**models._vision(**changes))
    vision = getattr(transformers, f"{kind}VisionTransformer")
    return models._built(vision, config, attention)


def idefics3_inputs(batch: int = 2, *, hidden: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """Pictures and a mask over their patches that hides the last `hidden` columns."""
    mask = torch.ones(batch, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, SIDE - hidden :] = False
    return {"pixel_values": pixels(batch, seed=seed), "patch_attention_mask": mask}


@copied
def ovis2(attention: str = "sdpa", **changes: Any) -> Any:
    """The transformer of Ovis2's vision model, without the head that makes visual words."""
    from transformers.models.ovis2 import configuration_ovis2, modeling_ovis2

    config = configuration_ovis2.Ovis2VisionConfig(**models._vision(**changes))
    return models._built(modeling_ovis2.Ovis2VisionTransformer, config, attention)


@copied
def janus(attention: str = "sdpa", **changes: Any) -> Any:
    """The vision model of Janus, with dropout behind its attention, which acts in training only."""
    from transformers import JanusVisionConfig, JanusVisionModel

    settings = models._vision(mlp_ratio=2.0, projection_dropout=0.1, **changes)
    del settings["intermediate_size"]
    return models._built(JanusVisionModel, JanusVisionConfig(**settings), attention)


@copied
def dinov2(
    attention: str = "sdpa", *, registers: int = 0, classifier: bool = False, **changes: Any
) -> Any:
    """DINOv2, with registers if any are wanted, or its classifier with 7 classes."""
    import transformers

    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    more = {"num_register_tokens": registers} if registers else {}
    config = getattr(transformers, f"{kind}Config")(
        **models._vision(**{"mlp_ratio": 2, "layerscale_value": 0.5, **more, **changes}),
        num_labels=7,
    )
    model = f"{kind}ForImageClassification" if classifier else f"{kind}Model"
    return models._built(getattr(transformers, model), config, attention)


@copied
def dinov3(attention: str = "sdpa", **changes: Any) -> Any:
    """DINOv3ViTModel with two registers."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    more = {"num_register_tokens": 2, "layerscale_value": 0.5, "key_bias": True}
    config = DINOv3ViTConfig(**models._vision(**{**more, **changes}))
    return models._built(DINOv3ViTModel, config, attention)


def dinov3_rotary(model: Any) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[N, d]` of the patches of a default picture."""
    cos, sin = model.rope_embeddings(pixels(1))
    assert cos.shape == (SIDE * SIDE, model.config.hidden_size // HEADS)
    return cos, sin


def timm_eva(**changes: Any) -> Any:
    """timm's Eva in the shape of a Perception Encoder; keyword arguments are its own."""
    from timm.models.eva import Eva, EvaBlockPostNorm

    unknown = changes.keys() - inspect.signature(Eva).parameters.keys()
    if unknown:
        pytest.skip(f"this timm's Eva has no {', '.join(unknown)}")
    given = inspect.signature(EvaBlockPostNorm).parameters
    if changes.get("use_post_norm") and "swiglu_align_to" not in given:
        pytest.skip("this timm's Eva gives its post-norm blocks an argument that they don't take")
    torch.manual_seed(0)
    shape = {"attn_type": "rope", "use_rot_pos_emb": True, "global_pool": "token"}
    more = {"init_values": 0.5, "use_pre_transformer_norm": True}
    return models.shaken(Eva(**models._timm({**shape, **more, **changes})))


def no_wrapper() -> str | None:
    """Why transformers can't wrap an Eva of the timm that is installed; None if it can."""
    from timm.layers.pos_embed_sincos import RotaryEmbeddingCat

    values = getattr(RotaryEmbeddingCat, "_get_pos_embed_values", None)
    if values is None or "device" in inspect.signature(values).parameters:
        return None
    return "transformers can't wrap an Eva of this timm"


def timm_wrapped(**changes: Any) -> Any:
    """The same inside transformers' wrapper, as PerceptionLM has it."""
    from transformers import TimmWrapperConfig, TimmWrapperModel

    reason = no_wrapper()
    if reason:
        pytest.skip(reason)
    arguments = {"embed_dim": models.WIDTH, "depth": models.DEPTH, "num_heads": HEADS}
    sizes = {"img_size": [IMAGE, IMAGE], "patch_size": PATCH, "ref_feat_shape": [SIDE, SIDE]}
    config = TimmWrapperConfig(
        architecture="vit_pe_core_tiny_patch16_384",
        do_pooling=False,
        model_args={**arguments, **sizes, "global_pool": "", "init_values": 0.5, **changes},
    )
    torch.manual_seed(0)
    return models.shaken(TimmWrapperModel(config))
