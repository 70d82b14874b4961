"""Mistral Large 4: Mistral 3's way of seeing, an LLM that scales queries by their places."""

from __future__ import annotations

from typing import ClassVar

from tokenprune.interface.signals import View
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers import unit_sides as sides
from tokenprune_adapters.transformers.families import UNREAD, Family, FamilyAdapter
from tokenprune_adapters.transformers.family_towers import Followed, in_line
from tokenprune_adapters.transformers.picture_kinds import images

MODEL = "transformers.models.mistral_large4.modeling_mistral_large4"
_TOWER = Followed(cut=0, side=sides.merged, shown=in_line)
_FREE = (
    "inside the LLM in front of layers that take neither keys nor an indexer's choice from earlier "
    "ones"
)


class MistralLarge4Adapter(FamilyAdapter):
    """MistralLarge4ForConditionalGeneration."""

    name: ClassVar[str] = "mistral_large4"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.MistralLarge4ForConditionalGeneration",)
    family: ClassVar[Family] = Family(
        images(places.sized, tower=_TOWER),
        towers=("pixtral-vision",),
        behind=False,
        placed=True,
        notes=(_FREE,),
    )
    supplies: ClassVar[frozenset[type[View]]] = UNREAD
    towers: ClassVar[tuple[str, ...] | None] = family.towers
    behind: ClassVar[bool] = family.behind
    limits: ClassVar[tuple[str, ...]] = family.limits
