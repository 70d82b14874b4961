"""HunYuan-VL's vision tower in transformers: pictures of any size, patch by patch in rows."""

from __future__ import annotations

from typing import Any, ClassVar

from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.foreseen import numbers, with_numbers
from tokenprune_adapters.transformers.any_size import UnrotatedSquares
from tokenprune_adapters.transformers.vit_family_names import HUNYUAN, VisionNames

_OLDER = "transformers.models.hunyuan_vl.modeling_hunyuan_vl.HunYuanVLVision"
_NEWER = "transformers.models.hy_v4_vl.modeling_hy_v4_vl.HYV4VLVision"


class HunYuanVisionAdapter(UnrotatedSquares):
    """HunYuanVLVisionTransformer and Hy4's HYV4VLVisionModel, whose merger makes units of squares.

    The merger reads all patches of a picture and puts newlines between rows of units.
    """

    name: ClassVar[str] = "hunyuan-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_OLDER}Transformer", f"{_NEWER}Model")
    names: ClassVar[VisionNames] = HUNYUAN
    block_classes: ClassVar[tuple[str, ...]] = (f"{_OLDER}Block", f"{_NEWER}Block")
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_OLDER}Attention", f"{_NEWER}Attention")
    raster: ClassVar[bool] = True

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Squares of patches, which stand in raster order; grids from the call."""
        kwargs = with_numbers(self, args, kwargs)
        grids = [(t, h, w) for t, h, w in numbers(kwargs)]
        return Packing(grids, 1, place=None, rows=None).grouped(self.side)
