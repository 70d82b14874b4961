"""Molmo 2: tokens that pool the patches of overlapping crops, and clips frame by frame."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Rotary
from tokenprune.interface.places import Places
from tokenprune_adapters.transformers import layer_names
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.families import Family, FamilyAdapter, Pictures
from tokenprune_adapters.transformers.picture_places import Features

MODEL = "transformers.models.molmo2.modeling_molmo2"
_AROUND = (
    "low_res_image_start_token_id",
    "image_col_id",
    "image_low_res_id",
    "frame_start_token_id",
    "frame_end_token_id",
)
"""Settings with tokens around maps, their rows and frames, besides those that others have, too."""
_POOLED = "each call says which patches a token pools, those of overlapping crops among them"
_ONE_KIND = "pictures and clips in one call, which the model itself refuses"


def cropped(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Pictures as two maps, of the whole and of the crops put together; clips frame by frame."""
    clips: Tensor | None = given.get("video_grids")
    if clips is not None:
        return [Places((frames, high, wide)) for frames, high, wide in clips.tolist()]
    maps = [((low_h, low_w), (h, w)) for low_h, low_w, h, w in given["image_grids"].tolist()]
    sizes = [math.prod(low) + math.prod(high) for low, high in maps]
    # crops stand one behind the other, and a token names its patches among those of all of them
    pooled = given["image_token_pooling"].amax(dim=1)
    ends = torch.stack([rows.amax() for rows in pooled[pooled >= 0].split(sizes)])
    behind = (ends // given["pixel_values"].shape[-2] + 1).tolist()
    return [
        Places((1, 1, size), parts=parts, tiles=last - first)
        for size, parts, first, last in zip(sizes, maps, [0, *behind], behind, strict=False)
    ]


def _pictures(method: str, placeholder: str, pixels: str) -> Pictures:
    return Pictures(method, (placeholder,), (pixels,), cropped, unfollowed=_POOLED)


class Molmo2Adapter(FamilyAdapter):
    """Molmo2ForConditionalGeneration."""

    name: ClassVar[str] = "molmo2"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.Molmo2ForConditionalGeneration",)
    family: ClassVar[Family] = Family(
        {
            "image": _pictures("get_image_features", "image_token_id", names.PICTURES),
            "video": _pictures("get_video_features", "video_token_id", "pixel_values_videos"),
        },
        masks=True,
        notes=(_ONE_KIND,),
    )
    limits: ClassVar[tuple[str, ...]] = family.limits

    def rotary(self, layer: nn.Module, hidden: Tensor, positions: Tensor) -> Rotary:
        """Cosines and sines of position ids `[B, T]`, scaled in some layers only."""
        language: Any = self.spec().language_model
        number = getattr(layer, layer_names.ATTENTION).layer_idx
        scaled = language.rope_types[number] == "scaled"
        rows = language.rotary_emb if scaled else language.rotary_emb_unscaled
        cos, sin = rows(hidden, position_ids=positions)
        return cos, sin

    def _special_ids(self, placeholders: set[int]) -> frozenset[int]:
        named = (getattr(self.model.config, name, None) for name in _AROUND)
        own = {int(one) for one in named if one is not None}
        return super()._special_ids(placeholders) | own
