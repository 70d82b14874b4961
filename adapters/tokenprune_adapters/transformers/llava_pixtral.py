"""LLaVA in transformers around a Pixtral tower, which reads pictures of any shape together."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.calls import Written
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers.families import Family, FamilyAdapter, Pictures
from tokenprune_adapters.transformers.family_towers import Followed
from tokenprune_adapters.transformers.llava import LlavaAdapter
from tokenprune_adapters.transformers.pixtral_vision import PixtralVisionAdapter


def _side_by_side(core: Any, units: Tensor) -> Written:
    """Units of one patch as the rows `[K, D]` that the projector takes."""
    return (units.flatten(0, 1),), {}


FAMILY = Family(
    {
        "image": Pictures(
            method="get_image_features",
            placeholder=("image_token_id", "image_token_index"),
            pixels=("pixel_values",),
            read=places.patched,
            tower=Followed(shown=_side_by_side),
        )
    },
    towers=(PixtralVisionAdapter.name,),
    behind=False,
)


class LlavaPixtralAdapter(FamilyAdapter):
    """LlavaForConditionalGeneration with a PixtralVisionModel, such as Pixtral-12B."""

    name: ClassVar[str] = "llava_pixtral"
    claims: ClassVar[tuple[str, ...]] = LlavaAdapter.claims
    family: ClassVar[Family] = FAMILY
    towers: ClassVar[tuple[str, ...] | None] = FAMILY.towers
    behind: ClassVar[bool] = FAMILY.behind

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether it is a LLaVA with a tower of this kind."""
        llava: Any = model
        return super().fits(model) and PixtralVisionAdapter.fits(llava.model.vision_tower)
