"""GLM 5.3: several streams of every token, keys chosen in pools, pictures beside clips."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Entry, PromptCall, Rotary
from tokenprune.interface.specs import MllmSpec
from tokenprune_adapters.transformers.families import Family
from tokenprune_adapters.transformers.hyper_connected import HyperConnectedAdapter
from tokenprune_adapters.transformers.packed_families import packed_by_frames
from tokenprune_adapters.transformers.picture_kinds import VIDEO_ID

MODEL = "transformers.models.glm5_next.modeling_glm5_next"
_SHORT = "pools of keys, like linear attention, are those of the shortened prompt"


class Glm5NextAdapter(HyperConnectedAdapter):
    """Glm5NextForConditionalGeneration, whose LLM rotates nothing."""

    name: ClassVar[str] = "glm5_next"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.Glm5NextForConditionalGeneration",)
    family: ClassVar[Family] = replace(packed_by_frames(VIDEO_ID), apart=False, notes=(_SHORT,))
    towers: ClassVar[tuple[str, ...] | None] = family.towers
    limits: ClassVar[tuple[str, ...]] = family.limits

    def read_prompt(self, entry: Entry, args: tuple[Any, ...], kwargs: Arguments) -> PromptCall:
        """What a call of the whole model says; placeholders of clips have their own id.

        In a prompt they have that of pictures, between marks around the clip.
        """
        call = super().read_prompt(entry, args, kwargs)
        if call.ids is None:
            return call
        config: Any = self.model.config
        begun = (call.ids == config.video_start_token_id).cumsum(-1)
        ended = (call.ids == config.video_end_token_id).cumsum(-1)
        inside = (call.ids == config.image_token_id) & (begun > ended)
        return replace(call, ids=call.ids.masked_fill(inside, config.video_token_id))

    def rotary(self, layer: nn.Module, hidden: Tensor, positions: Tensor) -> Rotary:
        """None, since the LLM rotates nothing."""
        return None

    def _read(self) -> MllmSpec:
        """The model as data; all of its layers take masks of single tokens."""
        spec = super()._read()
        return replace(spec, flat_layers=frozenset(range(len(spec.layers))))
