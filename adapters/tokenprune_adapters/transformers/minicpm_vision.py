"""MiniCPM-V's vision tower in transformers: pictures of any size, patches merged early."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.foreseen import NUMBERS, numbers, text, with_numbers
from tokenprune_adapters.transformers import packed_names
from tokenprune_adapters.transformers.any_size import SegmentedAdapter
from tokenprune_adapters.transformers.vit_family_names import MINICPM, VisionNames


def _named(part: str) -> tuple[str, ...]:
    """Full names of a class in every model of the family."""
    module = "transformers.models.{0}.modeling_{0}.{1}Vision{2}".format
    models = {
        "minicpmv4_6": "MiniCPMV4_6",
        "minicpmv4_7": "MiniCPMV4_7",
        "minicpm_ocr": "MiniCPMOcr",
    }
    return tuple(module(folder, name, part) for folder, name in models.items())


MERGED = 2
"""Rows and columns of patches that the tower merges into one row between two of its blocks."""


class MiniCpmVisionAdapter(SegmentedAdapter):
    """The blocks of MiniCPMV4_6VisionModel, 4_7 or Ocr, behind its merger, counted from 0 here.

    A unit is a row of theirs: 2 x 2 patches, or a patch where a call leaves the merger out. In
    front of the merger nothing can leave, because squares of patches have to be whole there.
    """

    name: ClassVar[str] = "minicpm-vision"
    claims: ClassVar[tuple[str, ...]] = _named("Model")
    names: ClassVar[VisionNames] = MINICPM
    block_classes: ClassVar[tuple[str, ...]] = _named("EncoderLayer")
    attention_classes: ClassVar[tuple[str, ...]] = _named("Attention")
    raster: ClassVar[bool] = True
    last_norm: ClassVar[str] = "post_layernorm"

    def __init__(self, model: nn.Module) -> None:
        """Find the blocks behind the merger, and check all of them.

        Raises:
            UnsupportedModelError: a block or attention of another class, or none behind the merger.
        """
        super().__init__(model)
        self.blocks = behind_merger(model)
        self._spec = replace(self._spec, blocks=self.blocks, used=len(self.blocks))

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Every row behind the merger a unit, in raster order."""
        kwargs = with_numbers(self, args, kwargs)
        grids = [(1, high, wide) for high, wide in numbers(kwargs)]
        return Packing(grids, 1, place=None, rows=None)

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """Rows and columns of every picture behind the merger as text."""
        given = named(type(self.model).forward, args, kwargs)
        _, sizes, merges = (given.get(name, True) for name in self.names.takes)
        side = MERGED if merges else 1
        return (), {**given, NUMBERS: text(*(sizes // side).tolist())}

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Borders of the rows `[R']` of the sequence that are left."""
        borders = packed_names.left_of(kwargs[packed_names.BORDERS], index)
        return args, {**kwargs, packed_names.BORDERS: borders}

    def turning(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """The arguments as they are: nothing rotates, places are added in front of the blocks."""
        return args, kwargs

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Query and key `[1, H, R, d]` as they are."""
        return query, key


def behind_merger(tower: Any) -> list[nn.Module]:
    """The blocks of a tower that run behind its merger.

    Raises:
        UnsupportedModelError: there are none.
    """
    blocks: list[nn.Module] = list(tower.encoder.layers)[tower.config.insert_layer_id + 1 :]
    if not blocks:
        raise UnsupportedModelError(
            "no block stands behind the merger of patches.",
            where="config.vision_config.insert_layer_id",
            remedy="Use a model with blocks behind it, as released ones have.",
        )
    return blocks
