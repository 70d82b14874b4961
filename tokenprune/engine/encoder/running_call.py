"""The running call as an argument of a compiled tower.

Older compilers break a graph at a context variable, so the call comes in with the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tokenprune.engine.call import Owner
from tokenprune.engine.patching import Patches
from tokenprune.engine.tracers import may_compile
from tokenprune.interface.calls import Written

RUNNING = "tokenprune_running"
"""Argument by which the call that runs around the encoder comes into a graph."""


def hand_in_running_call(patches: Patches, owner: Owner, entry: nn.Module) -> None:
    """Let a tower that is compiled by itself have the call that runs around it.

    Args:
        patches: of the attachment; they take the hook.
        owner: the attachment.
        entry: the module that runs the tower's blocks, or what hands its arguments on to that.
    """

    def ahead(entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written | None:
        if not may_compile():
            return None
        running = _current()(owner)
        return None if running is None else (args, {**kwargs, RUNNING: running})

    patches.hook_before(entry, ahead)


def _current() -> Callable[[Owner], Any]:
    # imported here, because it takes the compiler along
    from tokenprune.engine.uncompiled import current_uncompiled

    return current_uncompiled
