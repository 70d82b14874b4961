"""The entry point of the multimodal LLMs that ship with tokenprune."""

from __future__ import annotations

from collections.abc import Callable

from tokenprune.interface.adapter import MllmAdapter
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune.testing.kinds import TinyModel
from tokenprune_adapters.transformers.apertus1p5 import Apertus1p5Adapter
from tokenprune_adapters.transformers.family_table import ADAPTERS as FAMILIES
from tokenprune_adapters.transformers.gemma3n import Gemma3nAdapter
from tokenprune_adapters.transformers.glm5_next import Glm5NextAdapter
from tokenprune_adapters.transformers.granite4_vision import Granite4VisionAdapter
from tokenprune_adapters.transformers.hy_v4_vl import HyV4VlAdapter
from tokenprune_adapters.transformers.llama4 import Llama4Adapter
from tokenprune_adapters.transformers.llava import LlavaAdapter
from tokenprune_adapters.transformers.llava_pixtral import LlavaPixtralAdapter
from tokenprune_adapters.transformers.mistral_large4 import MistralLarge4Adapter
from tokenprune_adapters.transformers.molmo2 import Molmo2Adapter
from tokenprune_adapters.transformers.nemotron_omni import NemotronOmniAdapter
from tokenprune_adapters.transformers.qwen4_exp import Qwen4ExpAdapter

ADAPTERS: tuple[type[MllmAdapter], ...] = (
    LlavaPixtralAdapter,
    LlavaAdapter,
    Llama4Adapter,
    *FAMILIES,
    Apertus1p5Adapter,
    Gemma3nAdapter,
    Granite4VisionAdapter,
    Molmo2Adapter,
    Qwen4ExpAdapter,
    Glm5NextAdapter,
    HyV4VlAdapter,
    MistralLarge4Adapter,
    NemotronOmniAdapter,
)


@hookimpl
def register_adapters(register: Callable[[type[MllmAdapter]], None]) -> None:
    """Register the families; transformers isn't imported by this."""
    for adapter in ADAPTERS:
        register(adapter)


@hookimpl
def register_tiny_models(register: Callable[[TinyModel], None]) -> None:
    """Offer a tiny LLaVA to the test kit."""
    from tokenprune_adapters.transformers.tiny import TinyLlava

    register(TinyLlava())
