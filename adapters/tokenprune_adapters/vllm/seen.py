"""Pictures and clips as a tower will see them; imported when an engine runs a model.

Places of a prompt are counted by a model's config, and processors follow what a request says in
`mm_processor_kwargs`. Where the two part, an error behind the prompt would end the engine.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tokenprune.errors import UnsupportedCallError

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
"""What the data of an item calls its pixels, by its kind; sound has none."""


class SeenItems:
    """Refuses items that don't fit their places; mixed into vLLM's own processors, in front."""

    @abstractmethod
    def fits(self, kind: str, seen: Mapping[str, Tensor]) -> bool:
        """Whether the tower makes as many tokens of an item as places are counted for it.

        Args:
            kind: `image` or `video`.
            seen: what the processor made of the item.
        """

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        for kind, items in out_mm_kwargs.items():
            for item in items:
                seen = {name: part.data for name, part in item.items()}
                if PIXELS.get(kind) in seen and not self.fits(kind, seen):
                    raise _refused(kind, seen[PIXELS[kind]], hf_processor_mm_kwargs)
        processor: Any = super()
        updates: Sequence[Any] = processor._get_prompt_updates(
            mm_items, hf_processor_mm_kwargs, out_mm_kwargs
        )
        return updates


class SquarePictures(SeenItems):
    """The same for towers that see pictures, tiles and frames at one size.

    Their sides are those of the model's config.
    """

    info: Any

    def fits(self, kind: str, seen: Mapping[str, Tensor]) -> bool:
        """Whether pixels `[..., h, w]` have the tower's sides."""
        return of_sides(seen[PIXELS[kind]], self.info.get_hf_config().vision_config.image_size)


def of_sides(pixels: Tensor, sides: int | Sequence[int]) -> bool:
    """Whether pixels `[..., h, w]` have the given sides."""
    wanted = (sides, sides) if isinstance(sides, int) else tuple(sides)
    return tuple(pixels.shape[-2:]) == wanted


def _refused(kind: str, pixels: Tensor, options: Mapping[str, Any]) -> ValueError:
    """The error that the server answers a request with."""
    error = UnsupportedCallError(
        f"the tower would see pixels of shape {tuple(pixels.shape)}, which don't fit the tokens "
        f"that are counted for this {kind}; options of the request are {dict(options)}.",
        where="mm_processor_kwargs",
        remedy="Leave out those that change sizes, tiles or patches.",
    )
    return ValueError(str(error))
