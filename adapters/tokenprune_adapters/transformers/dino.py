"""DINOv2 and DINOv3 vision transformers in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune.interface.calls import Arguments, Given
from tokenprune_adapters.shared.rotary import rotated
from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import DINOV2, DINOV3, ROTARY, VisionNames

_MODELS = "transformers.models"
_TWO = f"{_MODELS}.dinov2.modeling_dinov2"
_REGISTERS = f"{_MODELS}.dinov2_with_registers.modeling_dinov2_with_registers"
_THREE = f"{_MODELS}.dinov3_vit.modeling_dinov3_vit"


class Dinov2Adapter(HfVitAdapter):
    """Dinov2Model and Dinov2WithRegistersModel, alone or inside their classifiers.

    The classifiers read the class token and the average of the patches, which becomes
    size-weighted. Backbones give feature maps of whole grids, so they aren't claimed.
    """

    name: ClassVar[str] = "dinov2"
    claims: ClassVar[tuple[str, ...]] = (
        f"{_TWO}.Dinov2Model",
        f"{_TWO}.Dinov2ForImageClassification",
        f"{_REGISTERS}.Dinov2WithRegistersModel",
        f"{_REGISTERS}.Dinov2WithRegistersForImageClassification",
    )
    names: ClassVar[VisionNames] = DINOV2
    block_classes: ClassVar[tuple[str, ...]] = (
        f"{_TWO}.Dinov2Layer",
        f"{_REGISTERS}.Dinov2WithRegistersLayer",
    )
    attention_classes: ClassVar[tuple[str, ...]] = (
        f"{_TWO}.Dinov2Attention",
        f"{_TWO}.Dinov2SelfAttention",
        f"{_REGISTERS}.Dinov2WithRegistersAttention",
        f"{_REGISTERS}.Dinov2WithRegistersSelfAttention",
    )
    class_token: ClassVar[bool] = True
    averaging: ClassVar[tuple[str, ...]] = (
        f"{_TWO}.Dinov2ForImageClassification",
        f"{_REGISTERS}.Dinov2WithRegistersForImageClassification",
    )


class Dinov3Adapter(HfVitAdapter):
    """DINOv3ViTModel: registers, and a rotary embedding of the patches in every block.

    A token that is left is rotated by the place that it holds: a merged one by its anchor's.
    """

    name: ClassVar[str] = "dinov3"
    claims: ClassVar[tuple[str, ...]] = (f"{_THREE}.DINOv3ViTModel",)
    names: ClassVar[VisionNames] = DINOV3
    block_classes: ClassVar[tuple[str, ...]] = (f"{_THREE}.DINOv3ViTLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_THREE}.DINOv3ViTAttention",)
    class_token: ClassVar[bool] = True

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Rotary rows `[N, d]` of all patches become those of the ones left, `[B, 1, K, d]`."""
        rows = kwargs[ROTARY]
        return args, {**kwargs, ROTARY: tuple(part[index][:, None] for part in rows)}

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate the patches of query and key `[B, H, P + K, d]`; the tokens in front stay."""
        cos, sin = kwargs[ROTARY]
        front = self.spec().prefix
        turned = [
            torch.cat((states[:, :, :front], rotated(states[:, :, front:], cos, sin)), dim=2)
            for states in (query, key)
        ]
        return turned[0], turned[1]
