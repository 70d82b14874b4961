"""HunYuan-VL's vision tower in transformers: pictures of any size, patch by patch in rows."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.foreseen import numbers, with_numbers
from tokenprune_adapters.transformers.any_size import SegmentedAdapter
from tokenprune_adapters.transformers.vit_family_names import HUNYUAN, VisionNames

_OLDER = "transformers.models.hunyuan_vl.modeling_hunyuan_vl.HunYuanVLVision"
_NEWER = "transformers.models.hy_v4_vl.modeling_hy_v4_vl.HYV4VLVision"


class HunYuanVisionAdapter(SegmentedAdapter):
    """HunYuanVLVisionTransformer and Hy4's HYV4VLVisionModel, whose merger makes units of squares.

    The merger reads all patches of a picture and puts newlines between rows of units. Blocks don't
    rotate.
    """

    name: ClassVar[str] = "hunyuan-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_OLDER}Transformer", f"{_NEWER}Model")
    names: ClassVar[VisionNames] = HUNYUAN
    block_classes: ClassVar[tuple[str, ...]] = (f"{_OLDER}Block", f"{_NEWER}Block")
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_OLDER}Attention", f"{_NEWER}Attention")
    raster: ClassVar[bool] = True

    @property
    def side(self) -> int:
        """Rows and columns of patches of a unit."""
        config: Any = self.model.config
        return int(config.spatial_merge_size)

    @property
    def members(self) -> int:
        """Rows of a unit."""
        return self.side**2

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Squares of patches, which stand in raster order; grids from the call."""
        kwargs = with_numbers(self, args, kwargs)
        return Packing([(t, h, w) for t, h, w in numbers(kwargs)], 1).grouped(self.side)

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Both `[1, H, R, d]` as they are."""
        return query, key
