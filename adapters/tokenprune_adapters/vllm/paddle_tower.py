"""vLLM's own tower of PaddleOCR-VL: the two halves of its blocks, and its units."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import PackedEncoderAdapter, Packing
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.refusals import require_exact
from tokenprune_adapters.vllm.packed_towers import NOMINAL

_MODULE = "vllm.model_executor.models.paddleocr_vl"

GRIDS, ROTARY = "image_grid_thw", "rotary_pos_emb"
"""What the tower is called with, (t, h, w) in patches; a block is given angles `[R, d / 2]`."""


class VllmPaddleAdapter(PackedEncoderAdapter):
    """Patches in raster order, of which squares become units behind the tower."""

    name: ClassVar[str] = "vllm_paddle"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.SiglipVisionModel",)
    raster: ClassVar[bool] = True
    by_segments: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        """Find the blocks and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class.
        """
        super().__init__(model)
        vision: Any = model.vision_model
        self._side, blocks = vision.config.spatial_merge_size, list(vision.encoder.layers)
        for number, block in enumerate(blocks):
            where = f"{type(model).__name__}, block {number}"
            require_exact(block, where, (f"{_MODULE}.SiglipEncoderLayer",), {})
            attention = (f"{_MODULE}.SiglipAttention",)
            require_exact(block.self_attn, f"{where}, attention", attention, {})
        self._spec = EncoderSpec(
            entry=model,
            blocks=blocks,
            used=len(blocks),
            prefix=0,
            class_token=False,
            grid=NOMINAL,
            width=vision.config.hidden_size * self._side**2,
            packed=True,
        )

    def spec(self) -> EncoderSpec:
        """The tower as data, all of whose blocks are read."""
        return self._spec

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Grids from the call."""
        given = named(type(self.model).forward, args, kwargs)[GRIDS]
        return Packing([(int(t), int(h), int(w)) for t, h, w in given], 1).grouped(self._side)

    def loops(self, block: nn.Module) -> bool:
        """Always: once units are gone, no block is called as a whole."""
        return True

    def heads(self, block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projection, `[1, R, D]` -> three `[1, H, R, d]`."""
        joined, _ = block.self_attn.qkv_proj(block.layer_norm1(hidden))
        heads = block.self_attn.num_attention_heads_per_partition
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in joined.chunk(3, dim=-1)
        )
        return query, key, value

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate query and key `[1, H, R, d]` as the attention does."""
        block: Any = self._spec.blocks[0]
        both, angles = torch.cat((query, key)).transpose(1, 2).contiguous(), kwargs[ROTARY]
        turned = block.self_attn.apply_rotary_emb(both, angles.cos(), angles.sin())
        query, key = turned.transpose(1, 2).split(1)
        return query, key

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Angles of the rows `[R']` of the sequence, in any order; the halves read no more."""
        return args, {**kwargs, ROTARY: kwargs[ROTARY][index.to(kwargs[ROTARY].device)]}

    def join(self, block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection and residual: `[1, R, D]`, `[1, H, R, d]` -> `[1, R, D]`."""
        made, _ = block.self_attn.out_proj(attended.transpose(1, 2).flatten(2))
        joined: Tensor = hidden + made
        return joined

    def feed_forward(self, block: Any, hidden: Tensor) -> Tensor:
        """Second norm, MLP and residual: `[1, R, D]` -> `[1, R, D]`."""
        made: Tensor = hidden + block.mlp(block.layer_norm2(hidden))
        return made
