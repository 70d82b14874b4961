"""vLLM's own tower of InternVL: the two halves of its blocks."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.signals import BLOCK_VIEWS, CLASS_VIEWS, View
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.refusals import require_exact

_MODULE = "vllm.model_executor.models.interns1_vit"


class VllmInternAdapter(EncoderAdapter):
    """The tower of vLLM's InternS1, which InternVL has: layer scale, normed queries and keys."""

    name: ClassVar[str] = "vllm_intern"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.InternS1VisionModel",)
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS | CLASS_VIEWS

    def __init__(self, model: nn.Module) -> None:
        """Find the blocks and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class.
        """
        super().__init__(model)
        vision: Any = model
        for number, block in enumerate(vision.encoder.layer):
            where = f"{type(model).__name__}, block {number}"
            require_exact(block, where, (f"{_MODULE}.InternS1VisionLayer",), {})
            attention = (f"{_MODULE}.InternSdpaAttention",)
            require_exact(block.attention, f"{where}, attention", attention, {})
        (high, wide), (tall, broad) = vision.config.image_size, vision.config.patch_size
        self._spec = EncoderSpec(
            entry=model,
            blocks=list(vision.encoder.layer),
            used=len(vision.encoder.layer),
            prefix=1,
            class_token=True,
            grid=(1, high // tall, wide // broad),
            width=vision.config.hidden_size,
        )

    def spec(self) -> EncoderSpec:
        """The tower as data, all of whose blocks are read."""
        return self._spec

    def heads(self, block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm, projections and norms of queries and keys over all heads.

        `[B, T, D]` -> three `[B, H, T, d]`.
        """
        own, normed = block.attention, block.layernorm_before(hidden)
        query, key, value = own.q_proj(normed), own.k_proj(normed), own.v_proj(normed)
        if own.qk_normalization:
            query, key = own.q_norm(query), own.k_norm(key)
        query, key, value = (
            part.unflatten(-1, (own.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        return query, key, value

    def join(self, block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection, scale and residual: `[B, T, D]`, `[B, H, T, d]` -> `[B, T, D]`."""
        made = block.attention.projection_layer(attended.transpose(1, 2).flatten(2))
        joined: Tensor = hidden + made * block.lambda_1
        return joined

    def feed_forward(self, block: Any, hidden: Tensor) -> Tensor:
        """Second norm, MLP, scale and residual: `[B, T, D]` -> `[B, T, D]`."""
        made: Tensor = hidden + block.mlp(block.layernorm_after(hidden)) * block.lambda_2
        return made
