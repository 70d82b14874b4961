"""Nemotron 3 Omni: pictures and clips from one placeholder, layers of one mixer each."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import Arguments, Entry, PromptCall, Rotary
from tokenprune.interface.places import Places
from tokenprune.interface.signals import View
from tokenprune_adapters.transformers import unit_sides as sides
from tokenprune_adapters.transformers.families import UNREAD, Family, FamilyAdapter
from tokenprune_adapters.transformers.family_rows import HEARS
from tokenprune_adapters.transformers.picture_kinds import IMAGE_ID, images, videos
from tokenprune_adapters.transformers.picture_places import Features

MODEL = "transformers.models.nemotron_h_omni.modeling_nemotron_h_omni"
GRIDS, CLIPS, RATE = "image_grid_hw", "pixel_values_videos", "video_pruning_rate"
"""Arguments with rows and columns of patches and with clips; what the model prunes clips by."""
_SUMMED = "tokens of a summary stand in front of every picture in its one row"
_ONE_KIND = "pictures and clips in one call, which the model itself refuses"
_FREE = "inside the LLM in front of layers with attention, which isn't read"


def gridded(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Rows and columns of patches of every picture, of which a square makes a unit."""
    side = sides.shuffled(core)
    return [Places((1, h // side, w // side)) for h, w in given[GRIDS].tolist()]


def stacked(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Clips of one size, in several frames a token; an older form is the frames of one clip."""
    pixels, vision = given[CLIPS], core.config.vision_config
    side = sides.shuffled(core) * vision.patch_size
    times = pixels.shape[-4]
    if pixels.dim() == 4:
        times = -(-times // core.config.video_temporal_patch_size)
    height, width = (length // side for length in pixels.shape[-2:])
    return [Places((times, height, width))] * len(features)


class NemotronOmniAdapter(FamilyAdapter):
    """NemotronH_Omni_Reasoning_V3, which is its own core and calls an LLM with its head."""

    name: ClassVar[str] = "nemotron_h_omni"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.NemotronH_Omni_Reasoning_V3",)
    family: ClassVar[Family] = Family(
        {
            **images(gridded, unfollowed=_SUMMED),
            **videos(stacked, placeholder=IMAGE_ID, unfollowed=_SUMMED),
        },
        language="language_model.model",
        notes=(_FREE, _ONE_KIND, HEARS),
    )
    supplies: ClassVar[frozenset[type[View]]] = UNREAD
    towers: ClassVar[tuple[str, ...] | None] = family.towers
    limits: ClassVar[tuple[str, ...]] = family.limits

    @property
    def core(self) -> Any:
        """The model itself."""
        return self.model

    def rotary(self, layer: nn.Module, hidden: Tensor, positions: Tensor) -> Rotary:
        """None, since the LLM rotates nothing."""
        return None

    def read_prompt(self, entry: Entry, args: tuple[Any, ...], kwargs: Arguments) -> PromptCall:
        """What a call of the whole model says.

        Raises:
            UnsupportedCallError: the model would prune its clips by itself, too.
        """
        call = super().read_prompt(entry, args, kwargs)
        if "video" in call.kinds and getattr(self.model, RATE) > 0:
            raise UnsupportedCallError(
                "the model prunes its clips by itself, in front of the plan.",
                where=RATE,
                remedy=f"Set model.{RATE} = 0: a plan prunes instead, by `evs` for one.",
            )
        return call
