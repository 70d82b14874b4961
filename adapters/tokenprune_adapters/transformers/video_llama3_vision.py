"""VideoLLaMA 3's vision tower in transformers: pictures and frames one behind the other."""

from __future__ import annotations

from typing import Any, ClassVar

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.foreseen import NUMBERS, numbers, text, with_numbers
from tokenprune_adapters.transformers.any_size import SegmentedAdapter
from tokenprune_adapters.transformers.vit_family_names import VIDEO_LLAMA3, VisionNames

_MODULE = "transformers.models.video_llama_3.modeling_video_llama_3"


class VideoLlama3VisionAdapter(SegmentedAdapter):
    """VideoLlama3VisionModel, which averages squares of patches behind its blocks: its units.

    A call says how large the squares are: in the family one patch of a picture, 2 x 2 of a frame.
    """

    name: ClassVar[str] = "video-llama-3-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.VideoLlama3VisionModel",)
    names: ClassVar[VisionNames] = VIDEO_LLAMA3
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.VideoLlama3VisionEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.VideoLlama3VisionAttention",)
    raster: ClassVar[bool] = True
    last_norm: ClassVar[str] = "post_layernorm"

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Grids and sides from the call; the members of a unit stand one behind the other."""
        kwargs = with_numbers(self, args, kwargs)
        grids, ((side, *_),) = numbers(kwargs)[:-1], numbers(kwargs)[-1:]
        units = [(t, h // side, w // side) for t, h, w in grids]
        return Packing(units, side**2, place=None, rows=None)

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """Grids of patches and the side of a unit as text.

        Raises:
            UnsupportedCallError: the units of a call are of several sizes.
        """
        given = named(type(self.model).forward, args, kwargs)
        _, grids, sides = (given[name] for name in self.names.takes)
        several = sorted(set(sides.tolist()))
        if len(several) != 1:
            raise UnsupportedCallError(
                f"one call has pictures with units of several sides ({several} patches).",
                where=self.names.takes[2],
                remedy="Give the tower pictures with units of one size in a call.",
            )
        return (), {**given, NUMBERS: text(*grids.tolist(), several)}
