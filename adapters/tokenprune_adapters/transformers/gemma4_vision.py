"""Gemma 4's vision tower in transformers: pictures of any shape, padded to the longest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import Packing
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.foreseen import NUMBERS, numbers, text, with_numbers
from tokenprune_adapters.shared.rotary import rotated
from tokenprune_adapters.transformers.any_size import AnySizeAdapter
from tokenprune_adapters.transformers.vit_family_names import GEMMA4, ROTARY, VisionNames

_MODULE = "transformers.models.gemma4.modeling_gemma4"
MASK, PLACES = "attention_mask", "position_ids"
"""What a block is given by name: a mask over padding, and (x, y) of every patch `[n, P, 2]`."""


class Gemma4VisionAdapter(AnySizeAdapter):
    """Gemma4VisionModel, which averages squares of patches behind its blocks: its units.

    As soon as units are gone, no padding is computed.
    """

    name: ClassVar[str] = "gemma4-vision"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Gemma4VisionModel",)
    names: ClassVar[VisionNames] = GEMMA4
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Gemma4VisionEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Gemma4VisionAttention",)
    batched: ClassVar[bool] = True
    by_segments: ClassVar[bool] = False

    @property
    def side(self) -> int:
        """Rows and columns of patches of a unit."""
        config: Any = self.model.config
        return int(config.pooling_kernel_size)

    @property
    def members(self) -> int:
        """Rows of a unit."""
        return self.side**2

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Units by the places of their patches; padding, at -1, is of none."""
        kwargs = with_numbers(self, args, kwargs)
        places: Tensor = kwargs[self.names.takes[1]]
        side, grids = self.side, [(1, height, width) for height, width in numbers(kwargs)]
        counts = torch.tensor([h * w for _, h, w in grids], device=places.device)
        first = (counts.cumsum(0) - counts)[:, None]
        wide = torch.tensor([w for _, _, w in grids], device=places.device)[:, None]
        column, row = places.unbind(dim=-1)
        unit = first + row // side * wide + column // side
        member = row % side * side + column % side
        # one unit more takes what is padding
        total, real = sum(h * w for _, h, w in grids), (places >= 0).all(dim=-1)
        unit, member = torch.where(real, unit, total), torch.where(real, member, 0)
        rows = torch.zeros(total + 1, side**2, dtype=torch.int64, device=places.device)
        at = torch.arange(real.numel(), device=places.device)
        rows = rows.index_put((unit.flatten(), member.flatten()), at)
        return Packing(grids, side**2, place=None, rows=rows[:total])

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """Rows and columns of the units of every picture as text.

        Raises:
            UnsupportedCallError: a picture isn't made of whole units.
        """
        given = named(type(self.model).forward, args, kwargs)
        places: Tensor = given[self.names.takes[1]]
        found = []
        for wide, high in (places.amax(dim=1) + 1).tolist():
            if high % self.side or wide % self.side:
                raise UnsupportedCallError(
                    f"{high} x {wide} patches aren't made of squares of {self.side} x {self.side}.",
                    where="pictures",
                    remedy="Give pictures of sizes that the model's processor makes.",
                )
            found.append((high // self.side, wide // self.side))
        return (), {**given, NUMBERS: text(*found)}

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Places and rotary rows of the rows `[B, L]` or `[R']` that are left, and no mask."""
        rotary = tuple(part.flatten(0, 1)[index.to(part.device)] for part in kwargs[ROTARY])
        places = kwargs[PLACES].flatten(0, 1)[index]
        return args, {**kwargs, ROTARY: rotary, PLACES: places, MASK: None}

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate one half of each head of `[1, H, R, d]` by the column, the other by the row."""
        cos, sin = (part.chunk(2, dim=-1) for part in kwargs[ROTARY])
        made = [
            torch.cat(
                [rotated(*half) for half in zip(part.chunk(2, dim=-1), cos, sin, strict=True)], -1
            )
            for part in (query, key)
        ]
        return made[0], made[1]

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """The pooling, which is given units instead of pictures where some are gone."""
        pooler: Any = self.model.pooler
        return {(pooler, "forward"): self._pool}

    def handed_on(self, output: Any, units: Callable[[Tensor], Tensor]) -> Any:
        """The pooled units in the places of all, with zeros for those that are gone."""
        output.last_hidden_state = units(output.last_hidden_state)
        return output

    def _pool(
        self, original: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if hidden_states.dim() == 3:
            return original(hidden_states, *args, **kwargs)
        # every unit as a picture of its own, in which nothing is padding
        units = torch.unflatten(hidden_states, 0, (-1, self.members))
        inside = torch.arange(self.members, device=units.device)
        places = torch.stack((inside % self.side, inside // self.side), dim=-1)
        real = torch.zeros(units.shape[:2], dtype=torch.bool, device=units.device)
        pooled, _ = original(units, places.expand(len(units), -1, -1), real, 1)
        # in place of a mask over padding, whose values would decide a shape: all there are
        return pooled.flatten(0, 1), ...
