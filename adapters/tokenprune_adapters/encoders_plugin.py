"""The entry point of the vision encoders that ship with tokenprune."""

from __future__ import annotations

from collections.abc import Callable

from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune_adapters.timm.vit import TimmVitAdapter
from tokenprune_adapters.transformers.clip import ClipAdapter
from tokenprune_adapters.transformers.siglip import SiglipAdapter

ADAPTERS: tuple[type[EncoderAdapter], ...] = (ClipAdapter, SiglipAdapter, TimmVitAdapter)


@hookimpl
def register_adapters(register: Callable[[type[EncoderAdapter]], None]) -> None:
    """Register the encoder families; neither transformers nor timm is imported by this."""
    for adapter in ADAPTERS:
        register(adapter)
