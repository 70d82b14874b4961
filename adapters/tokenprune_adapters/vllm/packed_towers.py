"""vLLM's own towers of Qwen2-VL to Qwen3-VL and Qwen3-Omni: halves of blocks, rows and units."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import PackedEncoderAdapter, Packing
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.refusals import require_exact

_QWEN2, _QWEN25, _QWEN3, _OMNI = (
    f"vllm.model_executor.models.{name}"
    for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_omni_moe_thinker")
)

NOMINAL = (1, 16, 16)
"""Units (t, h, w) of the picture that plans are checked for (ours): pictures have any size."""

PIXELS, GRIDS, MADE = "x", "grid_thw", "encoder_metadata"
"""What a tower is called with: rows of patches, (t, h, w) in patches, what it makes of grids."""
BORDERS, LENGTHS = "cu_seqlens", "sequence_lengths"
"""What a block is given by name: borders of its segments, and their lengths for FlashInfer."""
ROTARY = "rotary_pos_emb_cos", "rotary_pos_emb_sin"
"""The same: cosines and sines `[R, d / 2]`."""


class VllmPackedAdapter(PackedEncoderAdapter):
    """Of Qwen2-VL, Qwen2.5-VL (windows) and Qwen3-VL (DeepStack).

    The blocks take the sequence as `[R, 1, D]`. Once units are gone the engine runs their halves,
    whatever attends in whole blocks: what vLLM's attentions are handed is made for all rows.

    Class attributes:
        block_classes, attention_classes, exit_classes: exact classes whose forward is known.
        depths: the name of the mergers of further depths, where a tower has them.
    """

    name: ClassVar[str] = "vllm_qwen_vision"
    claims: ClassVar[tuple[str, ...]] = (
        f"{_QWEN2}.Qwen2VisionTransformer",
        f"{_QWEN25}.Qwen2_5_VisionTransformer",
        f"{_QWEN3}.Qwen3_VisionTransformer",
    )
    block_classes: ClassVar[tuple[str, ...]] = (
        f"{_QWEN2}.Qwen2VisionBlock",
        f"{_QWEN25}.Qwen2_5_VisionBlock",
        f"{_QWEN3}.Qwen3_VisionBlock",
    )
    attention_classes: ClassVar[tuple[str, ...]] = (
        f"{_QWEN2}.Qwen2VisionAttention",
        f"{_QWEN25}.Qwen2_5_VisionAttention",
    )
    exit_classes: ClassVar[tuple[str, ...]] = (
        f"{_QWEN2}.Qwen2VisionPatchMerger",
        f"{_QWEN25}.Qwen2_5_VisionPatchMerger",
        f"{_QWEN3}.Qwen3_VisionPatchMerger",
    )
    depths: ClassVar[str] = "deepstack_merger_list"
    by_segments: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        """Find the parts and check them.

        Raises:
            UnsupportedModelError: the tower or a part of it of another class.
        """
        super().__init__(model)
        vision: Any = model
        where = type(model).__name__
        require_exact(model, where, self.claims, {})
        for number, block in enumerate(vision.blocks):
            require_exact(block, f"{where}, block {number}", self.block_classes, {})
            require_exact(block.attn, f"{where}, block {number}", self.attention_classes, {})
        exits = [vision.merger, *getattr(vision, self.depths, ())]
        for one in exits:
            require_exact(one, f"{where}, merger", self.exit_classes, {})
        self._spec = EncoderSpec(
            entry=model,
            blocks=list(vision.blocks),
            used=len(vision.blocks),
            prefix=0,
            class_token=False,
            grid=NOMINAL,
            width=vision.blocks[0].norm1.weight.numel() * vision.spatial_merge_size**2,
            packed=True,
            exits=exits,
        )

    def spec(self) -> EncoderSpec:
        """The encoder as data."""
        return self._spec

    def channels(self) -> int:
        """Of a token, at each depth that the tower gives: its rows hold all depths side by side."""
        vision: Any = self.model
        return int(vision.out_hidden_size) // len(self._spec.exits)

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """What the tower makes of grids, which it takes ready-made."""
        vision: Any = self.model
        given = named(type(vision).forward, args, kwargs)
        if given.get(MADE) is None:
            grids = given[GRIDS]
            listed = grids.tolist() if isinstance(grids, Tensor) else grids
            given |= {GRIDS: listed, MADE: vision.prepare_encoder_metadata(listed)}
        return (given.pop(PIXELS),), given

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Grids from the call; where windows stand together, the places of their units."""
        _, given = self.foreseen(args, kwargs)
        return packed(self.model, given[GRIDS], given[MADE].get("reverse_indices"))

    def borders(self, args: tuple[Any, ...], kwargs: Arguments) -> Tensor | None:
        """Those of frames or windows, as the tower gives them to this block."""
        borders: Tensor = kwargs[BORDERS]
        lengths: Tensor | None = kwargs.get(LENGTHS)
        if lengths is None:
            return borders
        # FlashInfer is given places in memory for borders; lengths are filled up with zeros
        ends = lengths[lengths > 0].cumsum(0)
        return pad(ends, (1, 0)).to(borders.dtype)

    def loops(self, block: nn.Module) -> bool:
        """Always: once units are gone, no block is called as a whole."""
        return True

    def heads(self, block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projection, `[1, R, D]` -> three `[1, H, R, d]`."""
        joined, _ = block.attn.qkv(block.norm1(hidden))
        heads = block.attn.num_attention_heads_per_partition
        query, key, value = joined.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate query and key `[1, H, R, d]` as the attention does."""
        vision: Any = self.model
        turn = vision.blocks[0].attn.apply_rotary_emb
        both = torch.cat((query, key)).transpose(1, 2).contiguous()
        query, key = turn(both, *(kwargs[name] for name in ROTARY)).transpose(1, 2).split(1)
        return query, key

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Rotary rows of the rows `[R']` of the sequence, in any order; the halves read no more."""
        turned = {name: kwargs[name][index.to(kwargs[name].device)] for name in ROTARY}
        return args, {**kwargs, **turned}

    def join(self, block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection and residual: `[1, R, D]`, `[1, H, R, d]` -> `[1, R, D]`."""
        made, _ = block.attn.proj(attended.transpose(1, 2).flatten(2))
        joined: Tensor = hidden + made
        return joined

    def feed_forward(self, block: Any, hidden: Tensor) -> Tensor:
        """Second norm, MLP and residual: `[1, R, D]` -> `[1, R, D]`."""
        made: Tensor = hidden + block.mlp(block.norm2(hidden))
        return made


class VllmOmniAdapter(VllmPackedAdapter):
    """Of Qwen3-Omni: blocks and depths of Qwen3-VL, in a tower that reads grids by itself."""

    name: ClassVar[str] = "vllm_qwen3_omni_vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_OMNI}.Qwen3Omni_VisionTransformer",)
    block_classes: ClassVar[tuple[str, ...]] = (f"{_OMNI}.Qwen3_VisionBlock",)
    exit_classes: ClassVar[tuple[str, ...]] = (f"{_OMNI}.Qwen3_VisionPatchMerger",)
    depths: ClassVar[str] = "merger_list"

    def channels(self) -> int:
        """Of a token, at each depth."""
        vision: Any = self.model
        return int(vision.merger.mlp[-1].output_size)

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """Grids as the tower computes with them, whatever form it is called with."""
        vision: Any = self.model
        given = named(type(vision).forward, args, kwargs)
        grids = torch.as_tensor(given[GRIDS])
        return (given.pop(PIXELS),), {**given, GRIDS: grids}

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Grids from the call."""
        vision: Any = self.model
        return packed(vision, named(type(vision).forward, args, kwargs)[GRIDS])


def packed(tower: Any, grids: Any, place: Tensor | None = None) -> Packing:
    """The layout of pictures.

    Args:
        tower: what merges patches.
        grids: (t, h, w) in patches, of each picture.
        place: of each unit in the sequence, where that isn't the raster's.
    """
    side = tower.spatial_merge_size
    units = [(int(t), int(h) // side, int(w) // side) for t, h, w in grids]
    return Packing(units, side**2, place)
