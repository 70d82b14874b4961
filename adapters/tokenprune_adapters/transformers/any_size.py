"""What transformers' towers with separate projections for pictures of any size have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.foreseen import NUMBERS, text, without
from tokenprune_adapters.transformers import packed_names, vit_names
from tokenprune_adapters.transformers.attention_functions import loops
from tokenprune_adapters.transformers.halves import HalvedBlocks
from tokenprune_adapters.transformers.packed import NOMINAL, SegmentedRows


class AnySizeAdapter(HalvedBlocks, PackedEncoderAdapter):
    """Base of towers such as those of Pixtral and Gemma 4; subclasses say what differs.

    Class attributes:
        last_norm: name of a norm behind the blocks, which would make something of the zeros of rows
            that are gone; empty without one.
    """

    last_norm: ClassVar[str] = ""

    def __init__(self, model: nn.Module) -> None:
        """Find the blocks and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class, or without its parts.
        """
        super().__init__(model)
        self._spec = EncoderSpec(
            entry=self.vision,
            blocks=self.blocks,
            used=len(self.blocks),
            prefix=0,
            class_token=False,
            grid=NOMINAL,
            width=vit_names.width(self.vision) * self.members,
            packed=True,
        )

    @property
    def members(self) -> int:
        """Rows of a unit."""
        return 1

    def spec(self) -> EncoderSpec:
        """The encoder as data."""
        return self._spec

    def inside(self, kwargs: Arguments, *, graph: bool) -> Arguments:
        """Without the text of `foreseen`."""
        return without(kwargs)

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """The norm behind the blocks, if there is one."""
        if not self.last_norm:
            return {}
        return {(self.vision.get_submodule(self.last_norm), "forward"): norm_of_rows}


class SegmentedAdapter(SegmentedRows, AnySizeAdapter):
    """Base of towers that tell their blocks where pictures end and how their rows turn."""

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """Frames, rows and columns of patches as text."""
        given = named(type(self.model).forward, args, kwargs)
        grids: Tensor = given[packed_names.GRIDS]
        return (), {**given, NUMBERS: text(*grids.tolist())}

    def loops(self, block: nn.Module) -> bool:
        """Whether its attention does, without dropout and with nothing hung on it."""
        attentions = self._attentions.get(block, ())
        dropout = block.training and vit_names.attention_dropout(block, self._block)
        if dropout or not attentions:
            return False
        return all(loops(attention, self._functions) for attention in attentions)


def norm_of_rows(original: Callable[..., Any], hidden_states: Tensor) -> Tensor:
    """A norm behind the blocks, which leaves rows of zeros, those of removed units, as they are."""
    return torch.where(hidden_states.any(dim=-1, keepdim=True), original(hidden_states), 0)


class UnrotatedSquares(SegmentedAdapter):
    """Towers where a square of patches is a unit, and blocks don't rotate."""

    @property
    def side(self) -> int:
        """Rows and columns of patches of a unit."""
        config: Any = self.model.config
        return int(config.spatial_merge_size)

    @property
    def members(self) -> int:
        """Rows of a unit."""
        return self.side**2

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Both `[1, H, R, d]` as they are."""
        return query, key
