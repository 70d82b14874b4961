"""The vision tower of Muse Glimmer and Muse Spark in transformers: windows of single patches."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.foreseen import numbers, with_numbers
from tokenprune_adapters.transformers import packed_names
from tokenprune_adapters.transformers.any_size import SegmentedAdapter
from tokenprune_adapters.transformers.vit_family_names import KIMI, VisionNames

_GLIMMER, _SPARK = (
    f"transformers.models.{folder}.modeling_{folder}.{name}Vision"
    for folder, name in (("muse_glimmer", "MuseGlimmer"), ("muse_spark", "MuseSpark"))
)


class MuseVisionAdapter(SegmentedAdapter):
    """MuseGlimmerVisionModel and MuseSparkVisionModel, which put squares of patches side by side.

    Patches stand window by window, in all blocks. A square of them is a unit.
    """

    name: ClassVar[str] = "muse-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_GLIMMER}Model", f"{_SPARK}Model")
    names: ClassVar[VisionNames] = KIMI
    block_classes: ClassVar[tuple[str, ...]] = (
        f"{_GLIMMER}EncoderLayer",
        f"{_SPARK}EncoderLayer",
    )
    attention_classes: ClassVar[tuple[str, ...]] = (
        f"{_GLIMMER}Attention",
        f"{_SPARK}Attention",
    )
    raster: ClassVar[bool] = True
    last_norm: ClassVar[str] = "ln_post"

    def __init__(self, model: nn.Module) -> None:
        """Find the blocks and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class, or windows that part
                squares of patches.
        """
        super().__init__(model)
        config: Any = model.config
        if int(config.pos_emb_height) % self.side:
            raise UnsupportedModelError(
                f"windows of {config.pos_emb_height} patches part squares of {self.side}.",
                where="config.pos_emb_height",
                remedy="Use a model whose windows are made of whole squares, as released ones are.",
            )

    @property
    def side(self) -> int:
        """Rows and columns of patches of a unit."""
        config: Any = self.model.config
        return int(config.merge_size)

    @property
    def members(self) -> int:
        """Rows of a unit."""
        return self.side**2

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Squares of patches, which stand window by window; grids from the call."""
        kwargs = with_numbers(self, args, kwargs)
        grids = [(t, h, w) for t, h, w in numbers(kwargs)]
        order = kwargs.get(packed_names.ORDER)
        if order is None:
            order = self._order(torch.tensor(grids, device="cpu"))
        return Packing(grids, 1, place=order.argsort(), rows=None).grouped(self.side)

    def _order(self, grids: Tensor) -> Tensor:
        """Numbers of the patches `[R]` as they stand in the sequence, by the library's function."""
        vision: Any = self.vision
        found: Tensor = getattr(sys.modules[type(vision).__module__], packed_names.WINDOWS)(
            grids,
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )[0]
        return found
