"""Cosmos 3 Edge's vision tower in transformers: pictures and clips of any size, unit by unit."""

from __future__ import annotations

from typing import Any, ClassVar

from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.foreseen import numbers, with_numbers
from tokenprune_adapters.transformers.any_size import UnrotatedSquares
from tokenprune_adapters.transformers.vit_family_names import COSMOS3, VisionNames

_PART = "transformers.models.cosmos3_edge.modeling_cosmos3_edge.Cosmos3EdgeVision"


class Cosmos3VisionAdapter(UnrotatedSquares):
    """Cosmos3EdgeVisionModel, whose positions are learned ones.

    What makes a row of every unit stands in the model.
    """

    name: ClassVar[str] = "cosmos3-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_PART}Model",)
    names: ClassVar[VisionNames] = COSMOS3
    block_classes: ClassVar[tuple[str, ...]] = (f"{_PART}EncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_PART}Attention",)
    raster: ClassVar[bool] = True
    last_norm: ClassVar[str] = "post_layernorm"

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Squares of patches, whose members stand one behind the other; grids from the call."""
        kwargs = with_numbers(self, args, kwargs)
        side = self.side
        units = [(t, h // side, w // side) for t, h, w in numbers(kwargs)]
        return Packing(units, side**2, place=None, rows=None)
