"""Registers the serving engines that the command line knows."""

from __future__ import annotations

from collections.abc import Callable

import tokenprune.plugins.hookspecs as hooks
from tokenprune.interface.serving import Server


@hooks.hookimpl
def register_servers(register: Callable[[Server], None]) -> None:
    """Register vLLM, which isn't imported by it."""
    from tokenprune_adapters.vllm.server import VllmServer

    register(VllmServer())
