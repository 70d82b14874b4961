"""Llama 4: the model with its head is the core, and projects what its tower makes of pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, LayerCall, Rotary, Written
from tokenprune.interface.signals import PromptEmbeddings, View
from tokenprune.interface.specs import Tower
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers import tile_runs as runs
from tokenprune_adapters.transformers import unit_sides as sides
from tokenprune_adapters.transformers.families import Family, FamilyAdapter, Pictures
from tokenprune_adapters.transformers.family_towers import Followed
from tokenprune_adapters.transformers.llama4_vision import class_behind, class_in_front

MODEL = "transformers.models.llama4.modeling_llama4"
PICTURES = Pictures(
    "get_image_features",
    ("image_token_id", "image_token_index"),
    (names.PICTURES,),
    places.square,
    tower=Followed(
        "vision_model.model", layers=(), cut=1, side=sides.shuffled_inside, projector=None
    ),
    begins=runs.closed_by_mark(0),
)


_SHORT = (
    "at the call: beyond a chunk of its attention (8,192 tokens in released models) chunks and the "
    "temperature of queries count places, so longer ones are refused"
)


class Llama4Adapter(FamilyAdapter):
    """Llama4ForConditionalGeneration.

    Stages in front of the LLM act in front of a linear map to its width, so they don't compare
    pictures with words. Rotary rows are complex numbers; the engine sees cosines and sines.
    """

    name: ClassVar[str] = "llama4"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.Llama4ForConditionalGeneration",)
    supplies: ClassVar[frozenset[type[View]]] = FamilyAdapter.supplies - {PromptEmbeddings}
    projected: ClassVar[bool] = False
    made: ClassVar[str] = names.LAST
    family: ClassVar[Family] = Family(
        {"image": PICTURES}, language="language_model.model", joins=True, notes=(_SHORT,)
    )
    towers: ClassVar[tuple[str, ...] | None] = ("llama4-vision",)
    behind: ClassVar[bool] = False
    renumbers: ClassVar[bool] = False
    limits: ClassVar[tuple[str, ...]] = family.limits

    @property
    def core(self) -> Any:
        """The model itself."""
        return self.model

    def spread(self, tower: Tower, output: Any, whole: Callable[[Tensor, int], Tensor]) -> Any:
        """The tower's outputs with rows for all patches, the class token behind them."""

        def turned(hidden: Tensor, level: int) -> Tensor:
            return class_behind(whole(class_in_front(hidden), level))

        return super().spread(tower, output, turned)

    def read_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> LayerCall:
        """What a call of a layer says, with cosines and sines `[B, T, d/2]`."""
        return super().read_layer(layer, args, parted(kwargs))

    def write_layer(
        self, layer: nn.Module, call: LayerCall, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """A layer's arguments as `call` says."""
        put, named = super().write_layer(layer, call, args, kwargs)
        rotary = named.get(names.ROTARY)
        if isinstance(rotary, tuple):
            named[names.ROTARY] = torch.complex(*rotary)
        return put, named

    def rotary(self, layer: nn.Module, hidden: Tensor, positions: Tensor) -> Rotary:
        """Cosines and sines of position ids `[B, T]`."""
        language: Any = self.spec().language_model
        return halves(language.rotary_emb(hidden, positions))


def halves(turn: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of complex numbers."""
    return turn.real, turn.imag


def parted(kwargs: Arguments) -> Arguments:
    """Arguments with cosines and sines in place of complex rotary rows."""
    turn = kwargs.get(names.ROTARY)
    return kwargs if turn is None else {**kwargs, names.ROTARY: halves(turn)}
