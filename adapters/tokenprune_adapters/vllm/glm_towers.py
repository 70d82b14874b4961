"""vLLM's own towers of GLM-4.1V, GLM-4.5V and GLM-OCR: like Qwen's, with a convolution behind."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import PackedEncoderAdapter, Packing
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.vllm.packed_towers import GRIDS, VllmPackedAdapter, packed

_GLM, _OCR = (f"vllm.model_executor.models.{name}" for name in ("glm4_1v", "glm_ocr"))


class VllmGlmAdapter(VllmPackedAdapter):
    """Of GLM-4.1V and GLM-4.5V (learned positions) and GLM-OCR (normed queries and keys)."""

    name: ClassVar[str] = "vllm_glm_vision"
    claims: ClassVar[tuple[str, ...]] = (
        f"{_GLM}.Glm4vVisionTransformer",
        f"{_OCR}.GlmOcrVisionTransformer",
    )
    block_classes: ClassVar[tuple[str, ...]] = (
        f"{_GLM}.Glm4vVisionBlock",
        f"{_OCR}.GlmOcrVisionBlock",
    )
    attention_classes: ClassVar[tuple[str, ...]] = (
        f"{_GLM}.Glm4vVisionAttention",
        f"{_OCR}.GlmOcrVisionAttention",
    )
    exit_classes: ClassVar[tuple[str, ...]] = (
        f"{_GLM}.Glm4vPatchMerger",
        f"{_OCR}.GlmOcrPatchMerger",
    )

    # not all of these towers take what they make of grids ready-made
    foreseen = PackedEncoderAdapter.foreseen

    def borders(self, args: tuple[Any, ...], kwargs: Arguments) -> None:
        """None: each picture, or each frame of a clip, is a segment."""

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Grids from the call."""
        vision: Any = self.model
        return packed(vision, named(type(vision).forward, args, kwargs)[GRIDS])

    def heads(self, block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm, projection and norms of queries and keys, `[1, R, D]` -> `[1, H, R, d]`."""
        query, key, value = super().heads(block, hidden)
        if hasattr(block.attn, "q_norm"):
            query, key = (
                norm(part.reshape(-1, part.shape[-1])).view(part.shape)
                for norm, part in ((block.attn.q_norm, query), (block.attn.k_norm, key))
            )
        return query, key, value
