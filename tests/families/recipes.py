"""How every family's own processor is made, with tiny pictures and the ids of the tiny models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.families.case import Case
from tests.families.models import (
    gemma,
    gemma4,
    llava,
    mistral3,
    perception,
    qwen,
    shuffled,
    tiled,
    video_llava,
)
from tests.families.models.common import BREAK, END, IMAGE, PATCH, START, VIDEO


@dataclass(frozen=True)
class Recipe:
    """A family's processor.

    Attributes:
        processor: makes the processor for a case and a tokenizer.
        special: the family's special tokens, by id.
        picture: what stands for a picture in the text that a user gives.
        named: ids of special tokens by the attributes under which the processor looks for them.
        needs: packages that the processor imports, besides pillow.
    """

    processor: Callable[[Any, Any], Any]
    special: dict[int, str]
    picture: str = "<image>"
    named: dict[str, int] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def made(name: str, **settings: Any) -> Any:
    """An object of a class of transformers."""
    import transformers

    return getattr(transformers, name)(**settings)


def images(name: str, **settings: Any) -> Any:
    """An image processor: on torchvision where it is installed, else the one on pillow."""
    from transformers.utils import is_torchvision_available

    return made(name if is_torchvision_available() else f"{name}Pil", **settings)


def square(side: int) -> dict[str, int]:
    """A size with two equal sides."""
    return {"height": side, "width": side}


def _clip(side: int) -> Any:
    return images("CLIPImageProcessor", size={"shortest_edge": side}, crop_size=square(side))


def _llava(case: llava.Llava, tokenizer: Any) -> Any:
    siglip = case.vision == "siglip"
    shown = images("SiglipImageProcessor", size=square(llava.SIDE)) if siglip else None
    return made(
        "LlavaProcessor",
        image_processor=shown or _clip(llava.SIDE),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full" if siglip else "default",
        num_additional_image_tokens=0 if siglip else 1,
    )


def _tiles(case: tiled.LlavaNext) -> Any:
    return images(
        "LlavaNextImageProcessor",
        size={"shortest_edge": case.side},
        crop_size=square(case.side),
        image_grid_pinpoints=case.pinpoints,
    )


def _llava_next(case: tiled.LlavaNext, tokenizer: Any) -> Any:
    return made(
        "LlavaNextProcessor",
        image_processor=_tiles(case),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _llava_next_video(case: tiled.LlavaNextVideo, tokenizer: Any) -> Any:
    return made(
        "LlavaNextVideoProcessor",
        image_processor=_tiles(case),
        video_processor=made(
            "LlavaNextVideoVideoProcessor",
            size={"shortest_edge": case.side},
            crop_size=square(case.side),
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _llava_onevision(case: tiled.LlavaOnevision, tokenizer: Any) -> Any:
    return made(
        "LlavaOnevisionProcessor",
        image_processor=images(
            "LlavaOnevisionImageProcessor",
            size=square(case.side),
            image_grid_pinpoints=case.pinpoints,
        ),
        video_processor=made("LlavaOnevisionVideoProcessor", size=square(case.side)),
        tokenizer=tokenizer,
        num_image_tokens=case.patches**2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=f"anyres_max_{case.most}",
    )


def _video_llava(case: Case, tokenizer: Any) -> Any:
    sizes: dict[str, Any] = {
        "size": {"shortest_edge": video_llava.SIDE},
        "crop_size": square(video_llava.SIDE),
    }
    return made(
        "VideoLlavaProcessor",
        image_processor=made("VideoLlavaImageProcessor", **sizes),
        video_processor=made("VideoLlavaVideoProcessor", **sizes),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _qwen(processor: str, videos: str) -> Callable[[Any, Any], Any]:
    def build(case: Case, tokenizer: Any) -> Any:
        settings: dict[str, Any] = {
            "size": {"shortest_edge": 4 * qwen.GROUP**2, "longest_edge": 64 * qwen.GROUP**2},
            "patch_size": qwen.PATCH,
            "temporal_patch_size": qwen.TEMPORAL,
            "merge_size": qwen.MERGE,
        }
        return made(
            processor,
            image_processor=images("Qwen2VLImageProcessor", **settings),
            video_processor=made(videos, **settings),
            tokenizer=tokenizer,
        )

    return build


def _internvl(case: Case, tokenizer: Any) -> Any:
    size = square(shuffled.SIDE)
    return made(
        "InternVLProcessor",
        image_processor=images(
            "GotOcr2ImageProcessor", size=size, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        video_processor=made("InternVLVideoProcessor", size=size),
        tokenizer=tokenizer,
        image_seq_length=shuffled.UNITS,
    )


def _split() -> dict[str, Any]:
    """Settings of image processors that cut pictures into tiles."""
    return {
        "size": {"longest_edge": 2 * shuffled.SIDE},
        "max_image_size": {"longest_edge": shuffled.SIDE},
    }


def _idefics3(case: Case, tokenizer: Any) -> Any:
    return made(
        "Idefics3Processor",
        image_processor=images("Idefics3ImageProcessor", **_split()),
        tokenizer=tokenizer,
        image_seq_len=shuffled.UNITS,
    )


def _smolvlm(case: Case, tokenizer: Any) -> Any:
    return made(
        "SmolVLMProcessor",
        image_processor=images("SmolVLMImageProcessor", **_split()),
        video_processor=made("SmolVLMVideoProcessor", **_split()),
        tokenizer=tokenizer,
        image_seq_len=shuffled.UNITS,
    )


def _gemma3(case: Case, tokenizer: Any) -> Any:
    return made(
        "Gemma3Processor",
        image_processor=images("Gemma3ImageProcessor", size=square(gemma.SIDE)),
        tokenizer=tokenizer,
        image_seq_length=gemma.UNITS,
    )


def _paligemma(case: Case, tokenizer: Any) -> Any:
    shown = images("SiglipImageProcessor", size=square(gemma.SIDE), image_seq_length=gemma.PATCHES)
    return made("PaliGemmaProcessor", image_processor=shown, tokenizer=tokenizer)


def _gemma4(case: Case, tokenizer: Any) -> Any:
    settings = {"patch_size": PATCH, "pooling_kernel_size": gemma4.POOL, "max_soft_tokens": 70}
    return made(
        "Gemma4Processor",
        feature_extractor=made("Gemma4AudioFeatureExtractor"),
        image_processor=images("Gemma4ImageProcessor", **settings),
        video_processor=made("Gemma4VideoProcessor", **settings),
        tokenizer=tokenizer,
    )


def _mistral3(case: Case, tokenizer: Any) -> Any:
    shown = images(
        "PixtralImageProcessor", size={"longest_edge": mistral3.LARGEST}, patch_size=square(PATCH)
    )
    return made(
        "PixtralProcessor",
        image_processor=shown,
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=mistral3.MERGE,
    )


def _perception_lm(case: Case, tokenizer: Any) -> Any:
    return made(
        "PerceptionLMProcessor",
        image_processor=made(
            "PerceptionLMImageProcessor",
            tile_size=perception.SIDE,
            max_num_tiles=4,
            vision_input_type="thumb+tile",
        ),
        video_processor=made("PerceptionLMVideoProcessor", size=square(perception.SIDE)),
        tokenizer=tokenizer,
        patch_size=perception.PATCH,
        pooling_ratio=perception.POOL,
    )


VISION = ("torchvision",)
BOTH = {IMAGE: "<image>", VIDEO: "<video>"}
QWEN = {
    IMAGE: "<|image_pad|>",
    VIDEO: "<|video_pad|>",
    START: "<|vision_start|>",
    END: "<|vision_end|>",
}
TILE_TAGS = {shuffled.TILE + n: f"<row_{n // 4 + 1}_col_{n % 4 + 1}>" for n in range(16)}
TILES = {
    **BOTH,
    START: "<fake_token_around_image>",
    shuffled.WHOLE: "<global-img>",
    shuffled.TURN: "<end_of_utterance>",
    **TILE_TAGS,
}


def _packed(processor: str, videos: str) -> Recipe:
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    return Recipe(_qwen(processor, videos), QWEN, picture, needs=VISION)


def _gemma4_recipe() -> Recipe:
    special = {
        IMAGE: "<|image|>",
        VIDEO: "<|video|>",
        START: "<|image>",
        END: "<image|>",
        gemma4.AUDIO: "<|audio|>",
        gemma4.AUDIO + 1: "<|audio>",
        gemma4.AUDIO + 2: "<audio|>",
    }
    named = {
        "image_token": IMAGE,
        "boi_token": START,
        "eoi_token": END,
        "audio_token": gemma4.AUDIO,
        "boa_token": gemma4.AUDIO + 1,
        "eoa_token": gemma4.AUDIO + 2,
    }
    return Recipe(_gemma4, special, "<|image|>", named, VISION)


QWEN3 = _packed("Qwen3VLProcessor", "Qwen3VLVideoProcessor")
LLAVA = Recipe(_llava, {IMAGE: "<image>"})
ONEVISION = Recipe(_llava_onevision, BOTH, needs=VISION)
GEMMA4 = _gemma4_recipe()
INTERNVL = Recipe(
    _internvl,
    {IMAGE: "<IMG_CONTEXT>", VIDEO: "<video>", START: "<img>", END: "</img>"},
    "<IMG_CONTEXT>",
    {
        "context_image_token": IMAGE,
        "video_token": VIDEO,
        "start_image_token": START,
        "end_image_token": END,
    },
    VISION,
)
RECIPES: dict[str, Recipe] = {
    "llava": LLAVA,
    "llava-siglip": LLAVA,
    "vipllava": LLAVA,
    "llava_next": Recipe(_llava_next, {IMAGE: "<image>"}),
    "llava_next_video": Recipe(_llava_next_video, BOTH, needs=VISION),
    "llava_onevision": ONEVISION,
    "llava_onevision-resized": ONEVISION,
    "video_llava": Recipe(_video_llava, BOTH, needs=VISION),
    "qwen2_vl": _packed("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": _packed("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": QWEN3,
    "qwen3_vl_moe": QWEN3,
    "qwen3_5": QWEN3,
    "qwen3_5_moe": QWEN3,
    "internvl": INTERNVL,
    "idefics3": Recipe(_idefics3, TILES),
    "smolvlm": Recipe(_smolvlm, TILES, needs=("torchvision", "num2words")),
    "gemma3": Recipe(
        _gemma3,
        {IMAGE: "<image_soft_token>", START: "<start_of_image>", END: "<end_of_image>"},
        "<start_of_image>",
        {"image_token": IMAGE, "boi_token": START, "eoi_token": END},
    ),
    "gemma4": GEMMA4,
    "gemma4-shared": GEMMA4,
    "paligemma": Recipe(_paligemma, {IMAGE: "<image>"}, named={"image_token": IMAGE}),
    "mistral3": Recipe(
        _mistral3,
        {IMAGE: "[IMG]", BREAK: "[IMG_BREAK]", END: "[IMG_END]"},
        "[IMG]",
        needs=VISION,
    ),
    "perception_lm": Recipe(
        _perception_lm,
        {IMAGE: "<|image|>", VIDEO: "<|video|>"},
        "<|image|>",
        {"image_token": IMAGE, "video_token": VIDEO},
        VISION,
    ),
}
