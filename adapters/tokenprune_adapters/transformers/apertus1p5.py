"""Apertus 1.5: an LLM whose vocabulary has a token for every code of a picture."""

from __future__ import annotations

from typing import Any, ClassVar

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import Arguments, Entry, PromptCall
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers.families import Family, FamilyAdapter
from tokenprune_adapters.transformers.family_rows import HEARS
from tokenprune_adapters.transformers.picture_kinds import images

MODEL = "transformers.models.apertus1p5.modeling_apertus1p5"
_CODED = "convolutions read every place of a picture, of which a token is the nearest code"
_SPELLED = "at the call: prompts that spell out the codes of a picture are refused"


class Apertus1p5Adapter(FamilyAdapter):
    """Apertus1p5ForConditionalGeneration."""

    name: ClassVar[str] = "apertus1p5"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.Apertus1p5ForConditionalGeneration",)
    family: ClassVar[Family] = Family(
        images(places.coded, unfollowed=_CODED),
        joins=True,
        notes=(_SPELLED, HEARS),
    )
    limits: ClassVar[tuple[str, ...]] = family.limits

    def read_prompt(self, entry: Entry, args: tuple[Any, ...], kwargs: Arguments) -> PromptCall:
        """What a call of the whole model says.

        Raises:
            UnsupportedCallError: ids of codes stand in the prompt, where only the model knows them
                as a picture.
        """
        call = super().read_prompt(entry, args, kwargs)
        # a step has one token, and nothing waits for its value
        if call.ids is None or call.ids.shape[-1] == 1:
            return call
        config: Any = self.model.config
        codes = call.ids >= config.image_token_offset
        codes &= call.ids < config.audio_token_offset
        if bool(codes.any()):
            row, place = codes.nonzero()[0].tolist()
            raise UnsupportedCallError(
                f"id {int(call.ids[row, place])} in row {row}, place {place}, is a code of a "
                "picture, and codes that a prompt spells out wouldn't be pruned.",
                where=names.IDS,
                remedy=f"Give the picture as {names.PICTURES}, with the placeholders that the "
                "processor makes.",
            )
        return call
