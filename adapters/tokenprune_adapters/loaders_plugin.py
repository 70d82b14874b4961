"""Registers the ways to load a model that the command line's `--model` accepts."""

from __future__ import annotations

from collections.abc import Callable

import tokenprune.plugins.hookspecs as hooks
from tokenprune.interface.loading import Loader


@hooks.hookimpl
def register_loaders(register: Callable[[Loader], None]) -> None:
    """Offer transformers folders and timm names; neither library is imported before its use."""
    from tokenprune_adapters.loaders.hf import HfLoader
    from tokenprune_adapters.loaders.timm import TimmLoader

    register(TimmLoader())
    register(HfLoader())
