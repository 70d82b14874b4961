"""Kimi K2.5's vision tower in transformers: pictures of any size, and averages over frames."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.foreseen import numbers, with_numbers
from tokenprune_adapters.transformers import packed_names, unit_sides
from tokenprune_adapters.transformers.any_size import SegmentedAdapter
from tokenprune_adapters.transformers.vit_family_names import KIMI, VisionNames

_MODULE = "transformers.models.kimi_k25.modeling_kimi_k25"


class KimiVisionAdapter(SegmentedAdapter):
    """Kimi_K25VisionModel, where a square of patches is a unit: of a picture, or of some frames.

    Frames that come as one clip see each other, and are averaged behind the blocks.
    """

    name: ClassVar[str] = "kimi-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Kimi_K25VisionModel",)
    names: ClassVar[VisionNames] = KIMI
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Kimi_K25VisionEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Kimi_K25VisionAttention",)
    raster: ClassVar[bool] = True
    last_norm: ClassVar[str] = "final_layernorm"

    @property
    def members(self) -> int:
        """Rows of a unit of a picture."""
        return unit_sides.kernel(self.model) ** 2

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Squares of patches, which stand in raster order; those of all frames of a clip together.

        Raises:
            UnsupportedCallError: clips of several lengths.
        """
        kwargs = with_numbers(self, args, kwargs)
        grids = [(t, h, w) for t, h, w in numbers(kwargs)]
        squares = Packing(grids, 1, place=None, rows=None).grouped(unit_sides.kernel(self.model))
        lengths = sorted({frames for frames, _, _ in grids})
        if lengths == [1]:
            return squares
        if len(lengths) > 1:
            raise UnsupportedCallError(
                f"one call has clips of {' and '.join(map(str, lengths))} frames, of which each "
                "becomes as many tokens as a frame has.",
                where=packed_names.GRIDS,
                remedy="Give clips whose number of frames is a multiple of the processor's "
                "temporal_patch_size.",
            )
        (frames,), rows, start = lengths, [], 0
        for _, height, width in squares.grids:
            own = squares.members_of(
                torch.arange(start, start + frames * height * width, device="cpu")
            )
            start += len(own)
            rows.append(own.view(frames, height * width, -1).transpose(0, 1).flatten(1))
        units = [(1, height, width) for _, height, width in squares.grids]
        return Packing(units, frames * squares.members, place=None, rows=torch.cat(rows))
