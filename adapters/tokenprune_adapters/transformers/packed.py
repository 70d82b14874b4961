"""Vision towers in transformers that read all pictures as one sequence: Qwen's and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import PackedEncoderAdapter, Packing
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.foreseen import NUMBERS, numbers, text, with_numbers, without
from tokenprune_adapters.shared.refusals import refuse_dropout, refuse_unrun, require_exact
from tokenprune_adapters.shared.rotary import rotated_as_float32
from tokenprune_adapters.shared.signatures import check_library
from tokenprune_adapters.transformers import packed_names as names
from tokenprune_adapters.transformers import vit_names
from tokenprune_adapters.transformers.attention_functions import functions, loops, refuse_registered

NOMINAL = (1, 16, 16)
"""Units (t, h, w) of the picture that plans are checked for (ours): pictures have any size."""


class SegmentedRows(PackedEncoderAdapter):
    """Base of towers whose blocks are told where segments end and how rows turn."""

    def borders(self, args: tuple[Any, ...], kwargs: Arguments) -> Tensor | Sequence[int] | None:
        """Borders `[S + 1]` of pictures, frames or windows, as the tower gives them."""
        found: Tensor | Sequence[int] = kwargs.get(names.EDGES_INSIDE, kwargs[names.BORDERS])
        return found

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Borders and rotary rows of the rows `[R']` of the sequence that are left."""
        return args, names.cut(kwargs, index)

    def turning(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Rotary rows of the rows `[R']` of the sequence, in any order."""
        return args, names.turned(kwargs, index)

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate query and key `[1, H, R, d]`, in float32 as the tower does."""
        return rotated_as_float32(query, key, *kwargs[names.ROTARY])


class PackedVisionAdapter(SegmentedRows):
    """Of Qwen2-VL, Qwen2.5-VL and -Omni (windows), Qwen3-VL and -Omni (DeepStack), and Qwen3.5.

    And those of EXAONE 4.5 (windows, grouped heads), Cohere Compass (DeepStack), dots3.note
    (experts), and GLM-4.1V to 4.6V and GLM-OCR, where a convolution joins the members of a unit.
    """

    name: ClassVar[str] = "qwen-vision"
    claims: ClassVar[tuple[str, ...]] = names.TOWERS
    block_classes: ClassVar[tuple[str, ...]] = names.BLOCKS
    attention_classes: ClassVar[tuple[str, ...]] = names.ATTENTIONS

    def __init__(self, model: nn.Module) -> None:
        """Read the tower's parts and check its blocks.

        Raises:
            UnsupportedModelError: a block or attention of another class.
        """
        super().__init__(model)
        blocks = names.blocks(model)
        for number, block in enumerate(blocks):
            where = f"{type(model).__name__}, block {number}"
            require_exact(block, where, self.block_classes, {})
            attention = block.get_submodule("attn")
            require_exact(attention, f"{where}, attention", self.attention_classes, {})
        check_library("transformers", names.relied_on(model))
        self._functions = functions(blocks[0].get_submodule("attn")) if len(blocks) else {}
        self._spec = EncoderSpec(
            entry=model,
            blocks=blocks,
            used=len(blocks),
            prefix=0,
            class_token=False,
            grid=NOMINAL,
            width=names.width(model) * names.side(model) ** 2,
            packed=True,
            exits=names.exits(model),
        )

    def spec(self) -> EncoderSpec:
        """The encoder as data."""
        return self._spec

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Grids from the call; where windows stand together, the places of their units."""
        kwargs = with_numbers(self, args, kwargs)
        side, (flat, *_) = names.side(self.model), numbers(kwargs)
        grids = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        units = [(t, h // side, w // side) for t, h, w in grids]
        order = kwargs.get(names.ORDER)
        place = None if order is None else order.argsort()
        return Packing(units, side**2, place=place, rows=None)

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """All that the tower works out of the grids; grids and borders as text."""
        given = named(type(self.model).forward, args, kwargs)
        grids = given[names.GRIDS]
        given |= names.foreseen(self.model, grids, given)
        borders = [given.get(name) for name in (names.BORDERS, names.ORDER_BORDERS)]
        rows = ([] if part is None else part.tolist() for part in borders)
        return (), {**given, NUMBERS: text(grids.flatten().tolist(), *rows)}

    def inside(self, kwargs: Arguments, *, graph: bool) -> Arguments:
        """In a graph with borders as numbers, which the tower hands to its blocks as they are."""
        given = without(kwargs)
        if graph:
            _, frames, windows = numbers(kwargs)
            inside = names.computes(self.model)
            given[names.EDGES_INSIDE if inside else names.BORDERS] = tuple(frames)
            if windows:
                given[names.ORDER_BORDERS] = tuple(windows)
        return given

    def loops(self, block: nn.Module) -> bool:
        """Whether its attention does, without dropout and with nothing hung on it."""
        if names.dropout(block) != 0:
            return False
        return loops(block.get_submodule("attn"), self._functions)

    def attention_maps(self, args: tuple[Any, ...], kwargs: Arguments) -> str | None:
        """Asked for by argument, or by the config where the argument is absent."""
        given = kwargs.get(vit_names.MAPS)
        config: Any = self.model.config
        if given is None and getattr(config, vit_names.MAPS, False):
            return f"config.{vit_names.MAPS}"
        return vit_names.MAPS if given else None

    def heads(self, block: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projections, `[1, R, D]` -> three `[1, H, R, d]`.

        Raises:
            UnsupportedCallError: training with dropout on attention weights, or something hangs on
                the attention, which isn't called, or its function is a user's.
        """
        attention = block.get_submodule("attn")
        refuse_unrun(attention, block)
        refuse_registered(attention, block, self._functions)
        refuse_dropout(names.dropout(block), self.model, "Set the attention's dropout to 0")
        return names.heads(block, hidden)

    def join(self, block: nn.Module, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection and residual: `[1, R, D]`, `[1, H, R, d]` -> `[1, R, D]`."""
        return names.join(block, hidden, attended)

    def feed_forward(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Second norm, MLP and residual: `[1, R, D]` -> `[1, R, D]`."""
        return names.feed_forward(block, hidden)
