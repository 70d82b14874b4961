"""The entry point of the vision encoders that ship with tokenprune."""

from __future__ import annotations

from collections.abc import Callable

from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.text_tower import TextTower
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune_adapters.timm.vit import TimmVitAdapter
from tokenprune_adapters.transformers.clip import ClipAdapter
from tokenprune_adapters.transformers.cosmos3_vision import Cosmos3VisionAdapter
from tokenprune_adapters.transformers.dino import Dinov2Adapter, Dinov3Adapter
from tokenprune_adapters.transformers.ernie_vision import ErnieVisionAdapter
from tokenprune_adapters.transformers.gemma4_vision import Gemma4VisionAdapter
from tokenprune_adapters.transformers.hunyuan_vision import HunYuanVisionAdapter
from tokenprune_adapters.transformers.idefics3_vision import Idefics3VisionAdapter
from tokenprune_adapters.transformers.internvl_vision import (
    InternVLVisionAdapter,
    QianfanVisionAdapter,
)
from tokenprune_adapters.transformers.janus_vision import JanusVisionAdapter
from tokenprune_adapters.transformers.kimi_vision import KimiVisionAdapter
from tokenprune_adapters.transformers.llama4_vision import Llama4VisionAdapter
from tokenprune_adapters.transformers.minicpm_vision import MiniCpmVisionAdapter
from tokenprune_adapters.transformers.minimax_vision import MiniMaxVisionAdapter
from tokenprune_adapters.transformers.muse_vision import MuseVisionAdapter
from tokenprune_adapters.transformers.ovis2_vision import Ovis2VisionAdapter
from tokenprune_adapters.transformers.packed import PackedVisionAdapter
from tokenprune_adapters.transformers.paddleocr_vision import PaddleOcrVisionAdapter
from tokenprune_adapters.transformers.pixtral_vision import PixtralVisionAdapter
from tokenprune_adapters.transformers.siglip import SiglipAdapter
from tokenprune_adapters.transformers.siglip2_naflex import Siglip2NaflexAdapter
from tokenprune_adapters.transformers.video_llama3_vision import VideoLlama3VisionAdapter

ADAPTERS: tuple[type[EncoderAdapter], ...] = (
    ClipAdapter,
    SiglipAdapter,
    Siglip2NaflexAdapter,
    InternVLVisionAdapter,
    QianfanVisionAdapter,
    Idefics3VisionAdapter,
    Dinov2Adapter,
    Dinov3Adapter,
    PackedVisionAdapter,
    ErnieVisionAdapter,
    PixtralVisionAdapter,
    PaddleOcrVisionAdapter,
    Gemma4VisionAdapter,
    VideoLlama3VisionAdapter,
    MiniCpmVisionAdapter,
    KimiVisionAdapter,
    HunYuanVisionAdapter,
    MiniMaxVisionAdapter,
    Cosmos3VisionAdapter,
    MuseVisionAdapter,
    Ovis2VisionAdapter,
    JanusVisionAdapter,
    Llama4VisionAdapter,
    TimmVitAdapter,
)


@hookimpl
def register_adapters(register: Callable[[type[EncoderAdapter]], None]) -> None:
    """Register the encoder families; neither transformers nor timm is imported by this."""
    for adapter in ADAPTERS:
        register(adapter)


@hookimpl
def register_text_towers(register: Callable[[type[TextTower]], None]) -> None:
    """Register CLIP's text tower; transformers isn't imported by this."""
    from tokenprune_adapters.loaders.text_tower import ClipTextTower

    register(ClipTextTower)
