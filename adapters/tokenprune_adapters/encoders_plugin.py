"""The entry point of the vision encoders that ship with tokenprune."""

from __future__ import annotations

from collections.abc import Callable

from tokenprune.adapter import EncoderAdapter
from tokenprune.hookspecs import hookimpl
from tokenprune_adapters.clip import ClipAdapter
from tokenprune_adapters.siglip import SiglipAdapter
from tokenprune_adapters.timm_vit import TimmVitAdapter

ADAPTERS: tuple[type[EncoderAdapter], ...] = (ClipAdapter, SiglipAdapter, TimmVitAdapter)


@hookimpl
def register_adapters(register: Callable[[type[EncoderAdapter]], None]) -> None:
    """Register the encoder families; neither transformers nor timm is imported by this."""
    for adapter in ADAPTERS:
        register(adapter)
