"""MiniMax M3's vision tower in transformers: pictures and clips of any size, squares together."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import Packing
from tokenprune.interface.versions import installed
from tokenprune_adapters.shared.foreseen import numbers, with_numbers
from tokenprune_adapters.shared.rotary import rotated
from tokenprune_adapters.transformers import packed_names
from tokenprune_adapters.transformers.any_size import SegmentedAdapter
from tokenprune_adapters.transformers.vit_family_names import MINIMAX, VisionNames

_MODULE = "transformers.models.minimax_m3_vl.modeling_minimax_m3_vl"
SIDE = "spatial_merge_size"
"""Of towers that part pictures: rows and columns of patches of a unit."""


class MiniMaxVisionAdapter(SegmentedAdapter):
    """MiniMaxM3VLVisionModel, where a square of patches is a unit and all frames see each other.

    What makes a row of every unit stands in the model.
    """

    name: ClassVar[str] = "minimax-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.MiniMaxM3VLVisionModel",)
    names: ClassVar[VisionNames] = MINIMAX
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.MiniMaxM3VLVisionEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.MiniMaxM3VLVisionAttention",)
    raster: ClassVar[bool] = True

    def __init__(self, model: nn.Module) -> None:
        """Find the blocks and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class, or a release whose blocks
                aren't told where pictures end.
        """
        if not hasattr(model, SIDE):
            raise UnsupportedModelError(
                "in this release the pictures of a call see one another in MiniMax M3's tower.",
                where=f"transformers {installed('transformers')}",
                remedy="Use a newer release of transformers.",
            )
        super().__init__(model)

    @property
    def members(self) -> int:
        """Rows of a unit."""
        return packed_names.side(self.model) ** 2

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Squares of patches, whose members stand one behind the other; grids from the call."""
        kwargs = with_numbers(self, args, kwargs)
        side = packed_names.side(self.model)
        units = [(t, h // side, w // side) for t, h, w in numbers(kwargs)]
        return Packing(units, side**2, place=None, rows=None)

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate the first channels of query and key `[1, H, R, d]`, for time, height and width."""
        cos, sin = kwargs[packed_names.ROTARY]
        width = cos.shape[-1]
        query, key = (
            torch.cat((rotated(states[..., :width], cos, sin), states[..., width:]), dim=-1)
            for states in (query, key)
        )
        return query, key
