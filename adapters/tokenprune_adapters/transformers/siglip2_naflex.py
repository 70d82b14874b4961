"""SigLIP 2's vision encoder in transformers where its pictures have several sizes (NaFlex)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import Packing
from tokenprune.interface.specs import Demand
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.foreseen import NUMBERS, numbers, text, with_numbers
from tokenprune_adapters.transformers.any_size import AnySizeAdapter
from tokenprune_adapters.transformers.vit_family_names import PATCHES, SIGLIP2, VisionNames

_MODULE = "transformers.models.siglip2.modeling_siglip2"
PIXELS, MASK, SHAPES = PATCHES


class Siglip2NaflexAdapter(AnySizeAdapter):
    """Siglip2VisionModel inside of a multimodal LLM, on pictures padded to the longest.

    As soon as patches are gone, no padding is computed. A pooling head would pool rows of zeros, so
    no pooled features are given then; `siglip` serves the encoder alone, where all pictures have
    one shape.
    """

    name: ClassVar[str] = "siglip2-naflex"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Siglip2VisionModel",)
    names: ClassVar[VisionNames] = SIGLIP2
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Siglip2EncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODULE}.Siglip2Attention",)
    batched: ClassVar[bool] = True
    raster: ClassVar[bool] = True
    by_segments: ClassVar[bool] = False
    last_norm: ClassVar[str] = "post_layernorm"

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Every patch a unit; behind the patches of a picture stands its padding."""
        kwargs = with_numbers(self, args, kwargs)
        pixels: Tensor = kwargs[PIXELS]
        shapes, long = numbers(kwargs), pixels.shape[1]
        rows = torch.arange(len(pixels) * long, device=pixels.device).view(-1, long)
        own = [row[: high * wide] for row, (high, wide) in zip(rows, shapes, strict=True)]
        grids = [(1, high, wide) for high, wide in shapes]
        return Packing(grids, 1, place=None, rows=torch.cat(own)[:, None])

    def foreseen(self, args: tuple[Any, ...], kwargs: Arguments) -> Given:
        """Rows and columns of patches of every picture as text."""
        given = named(type(self.model).forward, args, kwargs)
        return (), {**given, NUMBERS: text(*given[SHAPES].tolist())}

    def demands(self, args: tuple[Any, ...], kwargs: Arguments) -> Sequence[Demand]:
        """The mask over patches hides what is behind the patches of a picture, and nothing else."""
        given = named(type(self.model).forward, args, kwargs)
        mask, shapes = given.get(MASK), given[SHAPES]
        if mask is None:
            return ()
        place = torch.arange(mask.shape[1], device=mask.device)
        real = place < shapes.prod(dim=-1, keepdim=True).to(mask.device)
        problem = f"'{MASK}' hides other patches than those behind the pictures of '{SHAPES}'."
        remedy = "Give both as the model's processor makes them."
        return (Demand(((mask != 0) == real).all(), problem, remedy),)

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Without the mask: of the rows that are left none is padding."""
        return self.unmasked(kwargs)

    def handed_on(self, output: Any, units: Callable[[Tensor], Tensor]) -> Any:
        """The states without pooled features, which would be of rows of zeros, too."""
        output.pooler_output = None
        return output
