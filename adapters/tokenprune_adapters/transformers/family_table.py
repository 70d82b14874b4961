"""The families of multimodal LLMs, a row each; what a row means is said in `families`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tokenprune.interface.calls import Refused
from tokenprune_adapters.transformers import aligned_families as aligned
from tokenprune_adapters.transformers import native_families as natives
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers import tile_runs as runs
from tokenprune_adapters.transformers import unfollowed_families as unfollowed
from tokenprune_adapters.transformers import unit_sides as sides
from tokenprune_adapters.transformers.families import (
    Family,
    FamilyAdapter,
    Pictures,
)
from tokenprune_adapters.transformers.family_towers import (
    Followed,
    class_token,
    in_line,
    in_line_of_frames,
    in_line_of_grids,
)
from tokenprune_adapters.transformers.packed_families import PACKED
from tokenprune_adapters.transformers.picture_kinds import LAST as _LAST
from tokenprune_adapters.transformers.picture_kinds import POOLED as _POOLED
from tokenprune_adapters.transformers.picture_kinds import images as _images
from tokenprune_adapters.transformers.picture_kinds import videos as _videos
from tokenprune_adapters.transformers.tile_runs import Begins

_EITHER = ("clip", "siglip")
_RESIZED = "its frames are resized, so that every token shows several patches."
_LARGER = (
    "the same (image), at the call: depends on the picture's size; one with more tiles than "
    "`vision_aspect_ratio` allows is resized"
)
_APART = (
    "frames of a video are pictures of their own, with words between them; `images: frames` in a "
    "plan makes one video of those of a prompt"
)
_MASKED = (
    "`encoder`, and `pre_llm` by the tower's signals, at the call: depends on the picture's size; "
    "padding that hides patches is refused"
)
_COMPRESSED = Refused(
    "the processor left tokens of frames that resemble the one before out of the prompt.",
    "Call it with use_token_compression=False: a plan prunes instead.",
)
_AVERAGED = replace(_POOLED, module="vision_model")
"""The same of a tower that its core calls so."""
_RESAMPLED = replace(_LAST, projector="resampler_model", shown=in_line_of_frames)
"""The same where squares become units behind the tower, of clips those of two frames (ERNIE)."""
_ENCODED = Followed(
    layers=(),
    cut=class_token,
    side=sides.averaged_behind,
    projector=None,
    blocks="timm_model.blocks",
)
"""The last states of a tower of timm, of which squares are averaged behind the projector."""


def _tiled_and_resized() -> Mapping[str, Pictures]:
    (image,) = _images(places.tiled, tower=Followed()).values()
    told = replace(image, overlaps=places.resized, may_overlap=places.may_be_resized)
    return {"image": told}


def _worded() -> Mapping[str, Pictures]:
    """Tiles behind their overview, of which a head makes words of a visual vocabulary."""
    tower = Followed(
        "vision_tower.transformer",
        layers=(),
        cut=0,
        side=sides.strode,
        projector="vision_tower.head_linear",
    )
    (image,) = _images(places.square, tower=tower, begins=runs.one_between).values()
    return {"image": replace(image, overview=0)}


def _shuffled() -> Family:
    tower = Followed(
        "vision_model",
        layers=(),
        cut=0,
        side=sides.scaled,
        projector="connector.modality_projection",
    )
    read = _images(places.rows_of_tiles, tower=tower, begins=runs.between_marks)
    return Family(
        read,
        language="text_model",
        towers=("idefics3-vision",),
        behind=False,
        joins=True,
        notes=(_MASKED, _APART),
    )


def _side_by_side(tower: str) -> Family:
    """Tiles one behind the other, of whose patches squares become units (InternVL)."""
    followed = Followed(side=sides.shuffled)
    read = _images(places.square, tower=followed, begins=runs.without_gap)
    return Family(read, towers=(tower,), behind=False, joins=True)


def _shuffled_inside(tower: Followed, begins: Begins) -> Family:
    """Squares become units inside of the projector, which runs on all patches."""
    shuffled = replace(tower, side=sides.downsampled, projector=None)
    read = _images(places.square, tower=shuffled, begins=begins)
    return Family(read, towers=("siglip",), behind=False, joins=True, renumbers=False)


TABLE: Mapping[str, tuple[tuple[str, ...], Family]] = {
    "llava_next": (("LlavaNext",), Family(_images(places.tiled, tower=Followed()), towers=_EITHER)),
    "llava_next_video": (
        ("LlavaNextVideo",),
        Family(
            {
                **_images(places.tiled, tower=Followed()),
                **_videos(places.frames, tower=Followed(side=sides.strided, frames=True)),
            },
            towers=_EITHER,
        ),
    ),
    "llava_onevision": (
        ("LlavaOnevision",),
        Family(
            {
                **_tiled_and_resized(),
                **_videos(
                    places.frames_with_newline, tower=Followed(blended=_RESIZED, frames=True)
                ),
            },
            towers=_EITHER,
            notes=(_LARGER,),
        ),
    ),
    "video_llava": (
        ("VideoLlava",),
        Family(
            {
                **_images(places.square, "pixel_values_images", tower=Followed("image_tower")),
                **_videos(
                    places.frames_with_class, tower=Followed("video_tower", cut=1, frames=True)
                ),
            },
            towers=("clip",),
        ),
    ),
    "vipllava": (
        ("VipLlava",),
        Family(_images(places.square, tower=Followed(cut=1)), towers=("clip",), joins=True),
    ),
    **PACKED,
    "internvl": (("InternVL",), replace(_side_by_side("internvl-vision"), notes=(_APART,))),
    "qianfan_ocr": (("QianfanOCR",), _side_by_side("qianfan-vision")),
    "aya_vision": (("AyaVision",), _shuffled_inside(Followed(), runs.closed_by_mark(0))),
    # a line break stands behind every tile
    "cohere2_vision": (("Cohere2Vision",), _shuffled_inside(_LAST, runs.closed_by_mark(1))),
    "idefics3": (("Idefics3",), _shuffled()),
    "smolvlm": (("SmolVLM",), _shuffled()),
    "mistral3": (
        ("Mistral3",),
        Family(
            _images(places.sized, tower=Followed(cut=0, side=sides.merged, shown=in_line)),
            towers=("pixtral-vision",),
            behind=False,
        ),
    ),
    "paddleocr_vl": (
        ("PaddleOCRVL",),
        Family(
            _images(
                places.packed("image_grid_thw"),
                tower=Followed(
                    "visual",
                    layers=(),
                    cut=0,
                    side=sides.merged_inside,
                    projector="projector",
                    shown=in_line_of_grids,
                ),
            ),
            apart=True,
            towers=("paddleocr-vision",),
            behind=False,
        ),
    ),
    "ernie4_5_vl_moe": (
        ("Ernie4_5_VLMoe",),
        Family(
            {
                **_images(places.packed("image_grid_thw"), tower=_RESAMPLED),
                **_videos(places.packed_in_time("video_grid_thw"), tower=_RESAMPLED),
            },
            apart=True,
            towers=("ernie-vision",),
            behind=False,
            per_token={"moe_mm_token_type_ids": 1},
        ),
    ),
    "gemma3": (
        ("Gemma3",),
        Family(
            _images(places.square, tower=replace(_LAST, side=sides.averaged, projector=None)),
            masks=True,
            renumbers=False,
            towers=("siglip",),
            behind=False,
            joins=True,
        ),
    ),
    "gemma4": (
        ("Gemma4",),
        Family(
            {
                **_images(places.placed, tower=_POOLED),
                **_videos(places.placed, tower=_POOLED, frames=places.counted),
            },
            towers=("gemma4-vision",),
            behind=False,
            masks=True,
            renumbers=False,
            per_token={"per_layer_inputs": 1, "per_layer_input": 1},
            # layers that share keys would compute the last tokens only
            whole={"logits_to_keep": 0},
        ),
    ),
    "paligemma": (
        ("PaliGemma",),
        Family(
            _images(places.square, tower=_LAST),
            masks=True,
            towers=("siglip",),
            behind=False,
            joins=True,
        ),
    ),
    "lfm2_vl": (
        ("Lfm2Vl",),
        Family(
            _images(
                places.shaped,
                tower=replace(_POOLED, side=sides.downsampled, encoder="siglip2-naflex"),
                begins=runs.one_between,
            ),
            towers=("siglip2-naflex",),
            behind=False,
        ),
    ),
    "video_llama_3": (
        ("VideoLlama3",),
        Family(
            {
                **_images(places.packed_by("image_grid_thw", "image_merge_sizes"), tower=_AVERAGED),
                **_videos(places.packed_by("video_grid_thw", "video_merge_sizes"), tower=_AVERAGED),
            },
            towers=("video-llama-3-vision",),
            behind=False,
            full={"video_compression_mask": _COMPRESSED},
            notes=(f"clips, at the call: {_COMPRESSED.reason} {_COMPRESSED.remedy}",),
        ),
    ),
    "ovis2": (
        ("Ovis2",),
        Family(
            _worded(),
            towers=("ovis2-vision",),
            behind=False,
            joins=True,
        ),
    ),
    "janus": (("Janus",), aligned.JANUS),
    "deepseek_vl_hybrid": (("DeepseekVLHybrid",), aligned.DEEPSEEK_VL_HYBRID),
    "lighton_ocr": (("LightOnOcr",), natives.LIGHTON_OCR),
    "hunyuan_vl": (("HunYuanVL",), natives.HUNYUAN),
    "kimi_k25": (("Kimi_K25",), natives.KIMI),
    "minimax_m3_vl": (("MiniMaxM3Sparse",), natives.MINIMAX),
    "cosmos3_edge": (("Cosmos3Edge",), natives.COSMOS3_EDGE),
    "fast_vlm": (("FastVlm",), unfollowed.FAST_VLM),
    "got_ocr2": (("GotOcr2",), unfollowed.GOT_OCR2),
    "granite_docling": (("GraniteDocling",), unfollowed.GRANITE_DOCLING),
    "idefics2": (("Idefics2",), unfollowed.IDEFICS2),
    "aria": (("Aria",), unfollowed.ARIA),
    "deepseek_ocr2": (("DeepseekOcr2",), unfollowed.DEEPSEEK_OCR2),
    "step3p7": (("Step3p7",), unfollowed.STEP3P7),
    "lfm3_vl": (("Lfm3Vl",), unfollowed.LFM3_VL),
    "gemma4_unified": (("Gemma4Unified",), unfollowed.GEMMA4_UNIFIED),
    "muse_glimmer": (("MuseGlimmer",), natives.MUSE),
    "muse_spark": (("MuseSpark",), natives.MUSE_HEARING),
    "minicpmv4_6": (("MiniCPMV4_6",), natives.MINICPM),
    "minicpm_ocr": (("MiniCPMOcr",), natives.MINICPM),
    "minicpmv4_7": (("MiniCPMV4_7",), natives.MINICPM_CANVAS),
    "perception_lm": (
        ("PerceptionLM",),
        Family(
            {
                **_images(places.stacked_tiles, tower=_ENCODED),
                **_videos(
                    places.stacked_frames,
                    "get_image_features",
                    tower=replace(_ENCODED, frames=True),
                ),
            },
            towers=("timm",),
            behind=False,
        ),
    ),
}
"""Beginning of the class names, and what is the family's own, by the name of its folder."""


def _adapter(name: str, beginnings: tuple[str, ...], family: Family) -> type[FamilyAdapter]:
    module = f"transformers.models.{name}.modeling_{name}"
    claims = tuple(f"{module}.{one}ForConditionalGeneration" for one in beginnings)
    return type(
        f"{beginnings[0]}Adapter",
        (FamilyAdapter,),
        {
            "__doc__": f"{beginnings[0]} in transformers.",
            "__module__": __name__,
            "name": name,
            "claims": claims,
            "family": family,
            "towers": family.towers,
            "behind": family.behind,
            "renumbers": family.renumbers and not family.apart,
            "limits": family.limits,
        },
    )


ADAPTERS: tuple[type[FamilyAdapter], ...] = tuple(
    _adapter(name, beginnings, family) for name, (beginnings, family) in TABLE.items()
)
"""An adapter for every family of the table."""
