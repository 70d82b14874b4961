"""Every supported encoder variant, by name, and how to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tokenprune_adapters.encoders_plugin import ADAPTERS
from tokenprune_adapters.transformers.vit_family_names import ROTARY
from torch import nn

from tests import models, towers
from tokenprune.interface.adapter import EncoderAdapter


@dataclass(frozen=True)
class Variant:
    build: Callable[[], Any]
    adapter: str
    prefix: int
    class_token: bool
    inputs: Callable[[], Any] = field(default=models.pixels)
    rotary: Callable[[Any, int], dict[str, Any]] | None = None

    def given(self, model: nn.Module, patches: int) -> dict[str, Any]:
        """What a block is called with besides states of the first `patches` patches."""
        return {} if self.rotary is None else self.rotary(model, patches)


def _dinov3_rotary(model: Any, patches: int) -> dict[str, Any]:
    return {ROTARY: tuple(part[:patches] for part in towers.dinov3_rotary(model))}


def _eva_rotary(model: Any, patches: int) -> dict[str, Any]:
    rope = model.rope.get_embed()
    return {"rope": (rope[0] if rope.dim() == 4 else rope)[..., :patches, :]}


def _eva(prefix: int = 1, **arguments: Any) -> Variant:
    rotary = _eva_rotary if arguments.get("use_rot_pos_emb", True) else None
    build = partial(towers.timm_eva, **arguments)
    return Variant(build, "timm", prefix, arguments.get("class_token", True), rotary=rotary)


def _grouped() -> Variant:
    """Heads that share keys and values."""
    return _eva(num_kv_heads=models.HEADS // 2, qkv_fused=False)


def _timm(prefix: int = 1, **arguments: Any) -> Variant:
    class_token = arguments.get("class_token", True)
    return Variant(partial(models.timm_vit, **arguments), "timm", prefix, class_token)


def _blocks(name: str) -> Any:
    import timm.models.vision_transformer as vit

    return getattr(vit, name)


def _swiglu() -> Any:
    from timm.layers import SwiGLUPacked

    return models.timm_vit(mlp_layer=SwiGLUPacked)


def _block(name: str, **arguments: Any) -> Any:
    return models.timm_vit(block_fn=_blocks(name), **arguments)


_SIGLIP2 = partial(models.siglip2_inputs, shape=(6, 6))

VARIANTS: dict[str, Variant] = {
    "clip-vision": Variant(models.clip_vision, "clip", 1, True),
    "clip-projected": Variant(partial(models.clip_vision, projected=True), "clip", 1, True),
    "clip-model": Variant(models.clip, "clip", 1, True),
    "clip-classifier": Variant(partial(models.clip, classifier=True), "clip", 1, True),
    "clip-eager": Variant(partial(models.clip_vision, "eager"), "clip", 1, True),
    "siglip-vision": Variant(models.siglip_vision, "siglip", 0, False),
    "siglip-model": Variant(models.siglip, "siglip", 0, False),
    "siglip-classifier": Variant(partial(models.siglip, classifier=True), "siglip", 0, False),
    "siglip2-vision": Variant(models.siglip2_vision, "siglip", 0, False, _SIGLIP2),
    "siglip2-classifier": Variant(
        partial(models.siglip2_vision, classifier=True), "siglip", 0, False, _SIGLIP2
    ),
    "internvl": Variant(towers.internvl, "internvl-vision", 1, True),
    "internvl-plain": Variant(
        partial(towers.internvl, use_qk_norm=False, attention_bias=False, use_mean_pooling=False),
        "internvl-vision",
        1,
        True,
    ),
    "internvl-rms-norms": Variant(
        partial(towers.internvl, norm_type="rms_norm"), "internvl-vision", 1, True
    ),
    "qianfan": Variant(partial(towers.internvl, kind="QianfanOCR"), "qianfan-vision", 1, True),
    "idefics3": Variant(towers.idefics3, "idefics3-vision", 0, False, towers.idefics3_inputs),
    "smolvlm": Variant(partial(towers.idefics3, kind="SmolVLM"), "idefics3-vision", 0, False),
    "janus": Variant(towers.janus, "janus-vision", 0, False),
    "ovis2": Variant(towers.ovis2, "ovis2-vision", 0, False),
    "ovis2-biases": Variant(
        partial(towers.ovis2, qkv_bias=True, mlp_bias=True), "ovis2-vision", 0, False
    ),
    "dinov2": Variant(towers.dinov2, "dinov2", 1, True),
    "dinov2-gated": Variant(partial(towers.dinov2, use_swiglu_ffn=True), "dinov2", 1, True),
    "dinov2-registers": Variant(partial(towers.dinov2, registers=3), "dinov2", 4, True),
    "dinov2-classifier": Variant(partial(towers.dinov2, classifier=True), "dinov2", 1, True),
    "dinov2-registers-classifier": Variant(
        partial(towers.dinov2, registers=3, classifier=True), "dinov2", 4, True
    ),
    "dinov3": Variant(towers.dinov3, "dinov3", 3, True, rotary=_dinov3_rotary),
    "dinov3-gated": Variant(
        partial(towers.dinov3, use_gated_mlp=True, num_register_tokens=0),
        "dinov3",
        1,
        True,
        rotary=_dinov3_rotary,
    ),
    "vit": _timm(),
    "vit-no-bias": _timm(qkv_bias=False, proj_bias=False),
    "vit-layer-scale": _timm(init_values=0.5),
    "vit-qk-norm": _timm(qk_norm=True),
    "vit-scale-norms": _timm(scale_attn_norm=True, scale_mlp_norm=True),
    "vit-average": _timm(global_pool="avg"),
    "vit-no-class-token": _timm(0, class_token=False, global_pool="avg"),
    "vit-registers": _timm(5, reg_tokens=4, no_embed_class=True),
    "vit-registers-only": _timm(3, class_token=False, reg_tokens=3, global_pool="avg"),
    "vit-clip-shape": _timm(pre_norm=True),
    "vit-siglip-shape": _timm(0, class_token=False, global_pool="map"),
    "vit-swiglu": Variant(_swiglu, "timm", 1, True),
    "vit-res-post": Variant(partial(_block, "ResPostBlock", init_values=0.5), "timm", 1, True),
    "vit-parallel-things": Variant(
        partial(_block, "ParallelThingsBlock", init_values=0.5), "timm", 1, True
    ),
    "eva-pe": _eva(),
    "eva-wrapped": Variant(towers.timm_wrapped, "timm", 1, True, rotary=_eva_rotary),
    "eva-02": _eva(
        attn_type="eva", qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True
    ),
    "eva-biases": _eva(attn_type="eva", use_rot_pos_emb=False),
    "eva-grouped": _grouped(),
    "eva-post-norm": _eva(attn_type="eva", use_rot_pos_emb=False, use_post_norm=True),
    "eva-halves": _eva(
        3, rope_type="dinov3", rope_rotate_half=True, num_reg_tokens=2, no_embed_class=True
    ),
    "eva-mixed": _eva(0, rope_type="mixed", class_token=False, global_pool="avg"),
    "deit-distilled": Variant(models.timm_distilled, "timm", 2, True),
}


def adapted(model: nn.Module) -> EncoderAdapter:
    """The first one that claims the model's class, as `attach` finds it."""
    return next(adapter for adapter in ADAPTERS if adapter.fits(model))(model)
