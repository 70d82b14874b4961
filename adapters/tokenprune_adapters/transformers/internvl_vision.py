"""The vision towers of InternVL and Qianfan-OCR in transformers."""

from __future__ import annotations

from typing import ClassVar

from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import INTERNVL, QIANFAN, VisionNames

_MODULE = "transformers.models.internvl.modeling_internvl"
_QIANFAN = "transformers.models.qianfan_ocr.modeling_qianfan_ocr"


class InternVLVisionAdapter(HfVitAdapter):
    """InternVLVisionModel: layer scale, a class token, query and key normed over all heads.

    InternVL2, 2.5 and 3 as remote code (`internvl_chat`) are other classes and not claimed.
    """

    name: ClassVar[str] = "internvl-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.InternVLVisionModel",)
    names: ClassVar[VisionNames] = INTERNVL
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.InternVLVisionLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.InternVLVisionAttention",)
    class_token: ClassVar[bool] = True


class QianfanVisionAdapter(InternVLVisionAdapter):
    """QianfanOCRVisionModel: the same, with stochastic depth, which acts in training only."""

    name: ClassVar[str] = "qianfan-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_QIANFAN}.QianfanOCRVisionModel",)
    names: ClassVar[VisionNames] = QIANFAN
    block_classes: ClassVar[tuple[str, ...]] = (f"{_QIANFAN}.QianfanOCRVisionLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_QIANFAN}.QianfanOCRVisionAttention",)
