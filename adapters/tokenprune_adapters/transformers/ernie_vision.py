"""ERNIE 4.5 VL's vision tower in transformers: frames apart, two of a clip behind it a token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import Arguments
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.foreseen import numbers, with_numbers
from tokenprune_adapters.transformers import packed_names as names
from tokenprune_adapters.transformers.any_size import norm_of_rows
from tokenprune_adapters.transformers.packed import PackedVisionAdapter

FRAMES = 2
"""Frames of a clip that one unit spans, which the library counts in halves, too."""


class ErnieVisionAdapter(PackedVisionAdapter):
    """A unit is a square of patches of a picture, or the same square of two frames of a clip.

    Its attention stays within frames. What makes a row of every unit stands in the model.
    """

    name: ClassVar[str] = "ernie-vision"
    claims: ClassVar[tuple[str, ...]] = names.ERNIE_TOWERS
    block_classes: ClassVar[tuple[str, ...]] = names.ERNIE_BLOCKS
    attention_classes: ClassVar[tuple[str, ...]] = names.ERNIE_ATTENTIONS
    raster: ClassVar[bool] = True

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Grids from the call; of clips also which rows are of the same square of two frames.

        Raises:
            UnsupportedCallError: pictures beside clips, or a clip of an odd number of frames.
        """
        kwargs = with_numbers(self, args, kwargs)
        side, (flat, *_) = names.side(self.model), numbers(kwargs)
        grids = [*zip(flat[::3], flat[1::3], flat[2::3], strict=True)]
        if all(frames == 1 for frames, _, _ in grids):
            units = [(1, h // side, w // side) for _, h, w in grids]
            return Packing(units, side**2, place=None, rows=None)
        if any(frames % FRAMES for frames, _, _ in grids):
            raise UnsupportedCallError(
                f"a call has pictures or clips of {[frames for frames, _, _ in grids]} frames.",
                where=names.GRIDS,
                remedy="Give the tower pictures alone, or clips with even numbers of frames.",
            )
        rows, start = [], 0
        for frames, height, width in grids:
            own = torch.arange(start, start + frames * height * width, device="cpu")
            start += len(own)
            pairs = own.view(frames // FRAMES, FRAMES, -1, side**2).transpose(1, 2)
            rows.append(pairs.reshape(-1, FRAMES * side**2))
        units = [(t // FRAMES, h // side, w // side) for t, h, w in grids]
        return Packing(units, FRAMES * side**2, place=None, rows=torch.cat(rows))

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """The norm behind the blocks, which makes something of the zeros of rows that are gone."""
        return {(self.model.get_submodule("ln"), "forward"): norm_of_rows}
