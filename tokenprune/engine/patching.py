"""Reversible changes to one model instance: attribute overrides and forward hooks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

Override = Callable[..., Any]
_ABSENT = object()


class Patches:
    """Everything that was changed on a model, so that `undo` leaves nothing behind."""

    def __init__(self) -> None:
        self._saved: list[tuple[Any, str, Any]] = []
        self._hooks: list[RemovableHandle] = []

    def override(self, owner: Any, name: str, function: Override) -> None:
        """Replace method `name` of this instance by `function(original, *args, **kwargs)`.

        The class and other instances stay as they are. The signature seen by `inspect` stays the
        original's, which `generate` relies on.
        """
        original = getattr(owner, name)
        self._saved.append((owner, name, owner.__dict__.get(name, _ABSENT)))

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        owner.__dict__[name] = replaced

    def hook(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """Register a forward hook `function(module, args, output)`."""
        self._hooks.append(module.register_forward_hook(function))

    def undo(self) -> None:
        """Take everything back, in reverse order; calling it twice is harmless."""
        while self._hooks:
            self._hooks.pop().remove()
        while self._saved:
            owner, name, before = self._saved.pop()
            if before is _ABSENT:
                owner.__dict__.pop(name, None)
            else:
                owner.__dict__[name] = before
