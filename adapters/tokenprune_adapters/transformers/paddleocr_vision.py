"""PaddleOCR-VL's vision tower in transformers: pictures of any shape, patch by patch in rows."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.foreseen import NUMBERS, numbers, text, with_numbers, without
from tokenprune_adapters.transformers import packed_names, vit_names
from tokenprune_adapters.transformers.any_size import SegmentedAdapter
from tokenprune_adapters.transformers.packed_names import BORDERS, LONGEST
from tokenprune_adapters.transformers.vit_family_names import PADDLEOCR, VisionNames

_MODULE = "transformers.models.paddleocr_vl.modeling_paddleocr_vl"
PLACES, TAPS = "position_ids", ("interp_indices", "interp_weights")
"""Arguments by which embeddings and blocks take ready-made what they work out of grids."""
MADE = (PLACES, BORDERS, LONGEST[0], *TAPS)


class PaddleOcrVisionAdapter(SegmentedAdapter):
    """PaddleOCRVisionModel, alone and in PaddleOCR-VL, where squares of patches make a unit."""

    name: ClassVar[str] = "paddleocr-vision"
    claims: ClassVar[tuple[str, ...]] = (
        f"{_MODULE}.PaddleOCRVisionModel",
        f"{_MODULE}.PaddleOCRVisionTransformer",
    )
    names: ClassVar[VisionNames] = PADDLEOCR
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.PaddleOCRVisionEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.PaddleOCRVisionAttention",)
    raster: ClassVar[bool] = True
    last_norm: ClassVar[str] = "post_layernorm"

    def _vision(self) -> nn.Module:
        found: nn.Module = vit_names.vision_module(self.model, self.names)
        return found

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Every patch a unit, in raster order; grids come with the patches."""
        kwargs = with_numbers(self, args, kwargs)
        flat, _ = numbers(kwargs)
        grids = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        return Packing(grids, 1, place=None, rows=None)

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """All that the tower works out of the grids, by its own functions; grids as text."""
        given = named(type(self.vision).forward, args, kwargs)
        grids: Tensor = given[packed_names.GRIDS]
        vision: Any = self.vision
        module, embeddings = sys.modules[type(vision).__module__], vision.embeddings
        places = getattr(module, packed_names.PLACES)(grids, 1)
        borders, longest = getattr(module, packed_names.EDGES)(grids, vision.config)
        taps = getattr(module, packed_names.TAPS)(
            grids,
            num_grid_per_side=embeddings.num_grid_per_side,
            mode=embeddings.interpolation_mode,
            align_corners=embeddings.interpolation_align_corners,
            spatial_merge_size=1,
        )
        made = dict(zip(MADE, (places, borders, longest, *taps), strict=True))
        told = {NUMBERS: text(grids.flatten().tolist(), borders.tolist())}
        return (), {**given, **{n: v for n, v in made.items() if v is not None}, **told}

    def inside(self, kwargs: Arguments, *, graph: bool) -> Arguments:
        """In a graph with borders as numbers; else without what would go on to all blocks."""
        given = without(kwargs)
        if not graph:  # embeddings take these, but the encoder hands them on
            return {name: value for name, value in given.items() if name not in TAPS}
        return {**given, BORDERS: tuple(numbers(kwargs)[1])}
