"""Rows of `family_table` with towers like Qwen's, which pack pictures and clips into one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers.families import Family
from tokenprune_adapters.transformers.family_rows import HEARS
from tokenprune_adapters.transformers.picture_kinds import IMAGE_ID, POOLED, images, videos

_SPEAKS = (
    "from transformers 5.21 on; plans are attached to `model.thinker`; sound stays; what speaks "
    "reads, in the place of a removed token, the state of the kept one before it"
)
_ONE_KIND = "pictures and clips in one call, which the model itself refuses"


def packed(module: str = "visual") -> Family:
    """Pictures and clips of which the tower, below the core, makes units by itself."""
    tower = replace(POOLED, module=module)
    grids = {
        **images(places.packed("image_grid_thw"), tower=tower),
        **videos(places.packed("video_grid_thw"), tower=tower),
    }
    return Family(grids, apart=True, towers=("qwen-vision",))


def packed_by_frames(placeholder: tuple[str, ...]) -> Family:
    """Frames of clips are pictures for the tower (GLM)."""
    family = packed()
    tower, read = family.pictures["video"].tower, family.pictures["video"].read
    clips = videos(read, tower=tower, frames=places.gridded, placeholder=placeholder)
    return replace(family, pictures={**family.pictures, **clips})


def _one_kind() -> Family:
    """Clips have the placeholder of pictures."""
    return replace(packed_by_frames(IMAGE_ID), notes=(_ONE_KIND,))


PACKED: Mapping[str, tuple[tuple[str, ...], Family]] = {
    "qwen2_vl": (("Qwen2VL",), packed()),
    "qwen2_5_vl": (("Qwen2_5_VL",), packed()),
    "qwen2_5_omni": (("Qwen2_5OmniThinker",), replace(packed(), notes=(_SPEAKS,))),
    "qwen3_omni_moe": (("Qwen3OmniMoeThinker",), replace(packed(), notes=(_SPEAKS,))),
    "qwen3_vl": (("Qwen3VL",), packed()),
    "qwen3_vl_moe": (("Qwen3VLMoe",), packed()),
    # tower and LLM are Qwen3-VL's own
    "cosmos3_omni": (("Cosmos3Omni",), packed()),
    "qwen3_5": (("Qwen3_5",), packed()),
    "qwen3_5_moe": (("Qwen3_5Moe",), packed()),
    # three of four layers have sliding windows
    "exaone4_5": (("Exaone4_5_",), replace(packed(), apart=False, renumbers=False)),
    # a projector stands behind the tower's own merger
    "hyperclovax_vision_v2": (
        ("HyperCLOVAXVisionV2",),
        replace(packed("vision_model"), apart=False),
    ),
    # most layers have sliding windows
    "dots3_note": (
        ("Dots3Note",),
        replace(packed("vision_tower"), apart=False, renumbers=False, notes=(HEARS,)),
    ),
    "cohere_compass": (("CohereCompass",), packed()),
    "glm4v": (("Glm4v",), _one_kind()),
    "glm46v": (("Glm46V",), _one_kind()),
    "glm4v_moe": (("Glm4vMoe",), _one_kind()),
    "glm_ocr": (("GlmOcr",), _one_kind()),
}
"""See `family_table.TABLE`."""
