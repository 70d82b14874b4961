"""Pixtral's vision tower in transformers: pictures of any shape, one behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.foreseen import NUMBERS, numbers, text, with_numbers, without
from tokenprune_adapters.shared.rotary import rotated
from tokenprune_adapters.transformers import packed_names, vit_names
from tokenprune_adapters.transformers.any_size import AnySizeAdapter
from tokenprune_adapters.transformers.vit_family_names import PIXTRAL, ROTARY, VisionNames

_MODULE = "transformers.models.pixtral.modeling_pixtral"
MASK = "attention_mask"
BORDERS = ("cu_seq_lens_q", "cu_seq_lens_k")
"""What blocks are given instead of a mask where FlashAttention runs."""
PLACES = "position_ids"
"""An argument of older releases, `[R, 2]`."""


class PixtralVisionAdapter(AnySizeAdapter):
    """PixtralVisionModel, alone and in Mistral3, where squares of patches make a unit."""

    name: ClassVar[str] = "pixtral-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.PixtralVisionModel",)
    names: ClassVar[VisionNames] = PIXTRAL
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.PixtralAttentionLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.PixtralAttention",)
    raster: ClassVar[bool] = True
    by_segments: ClassVar[bool] = False

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Every patch a unit, in raster order; sizes in pixels come with the pictures."""
        kwargs = with_numbers(self, args, kwargs)
        high, wide = vit_names.patch_size(self.model)
        grids = [(1, h // high, w // wide) for h, w in _sizes(kwargs)]
        return Packing(grids, 1, place=None, rows=None)

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """Sizes in pixels as text."""
        given = named(type(self.model).forward, args, kwargs)
        pixels, sizes = given[self.names.takes[0]], given.get(self.names.takes[1])
        if sizes is None:
            pairs = [pixels.shape[-2:]] * len(pixels)
        else:
            pairs = sizes.tolist() if isinstance(sizes, Tensor) else sizes
        return (), {**given, NUMBERS: text(*([int(h), int(w)] for h, w in pairs))}

    def inside(self, kwargs: Arguments, *, graph: bool) -> Arguments:
        """In a graph with sizes as numbers."""
        given = without(kwargs)
        if graph:
            given[self.names.takes[1]] = _sizes(kwargs)
        return given

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Rotary rows, and mask or borders, of the rows `[R']` that are left."""
        mask = args[0] if args else kwargs.get(MASK)
        left = None if mask is None else mask[..., index, :][..., index]
        parted = [name for name in BORDERS if name in kwargs]
        cut = {name: packed_names.left_of(kwargs[name], index) for name in parted}
        if kwargs.get(PLACES) is not None:
            cut[PLACES] = kwargs[PLACES][index]
        rotary = tuple(part[index.to(part.device)] for part in kwargs[ROTARY])
        given = {**kwargs, **cut, ROTARY: rotary}
        return ((left,), given) if args else ((), {**given, MASK: left})

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate query and key `[1, H, R, d]`."""
        cos, sin = kwargs[ROTARY]
        return rotated(query, cos, sin), rotated(key, cos, sin)


def _sizes(given: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Height and width of every picture, in pixels."""
    return [(height, width) for height, width in numbers(given)]
