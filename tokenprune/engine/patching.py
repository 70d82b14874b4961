"""Reversible changes to one model instance: attribute overrides and forward hooks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from torch import nn
from torch.utils.hooks import RemovableHandle

from tokenprune.errors import AlreadyAttachedError

Override = Callable[..., Any]
_ABSENT = object()
_REDUCE = "__reduce_ex__"  # what `pickle` and `copy.deepcopy` look up on the instance


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
        if isinstance(owner, nn.Module) and _REDUCE not in owner.__dict__ and name != _REDUCE:
            self._refuse_pickling(owner)
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

    def _refuse_pickling(self, module: nn.Module) -> None:
        """Let `pickle` of this module say what to do, and so `torch.save`; copies stay possible.

        Pickled, it would fail at a patch somewhere inside, or come back without its plan.
        """

        def reduced(original: Override, protocol: Any) -> tuple[Any, ...]:
            build, arguments, *rest = original(protocol)
            if rest and isinstance(rest[0], dict):  # the state, without this override
                rest[0] = {key: value for key, value in rest[0].items() if key != _REDUCE}
            return _Copied(module, build), arguments, *rest

        self.override(module, _REDUCE, reduced)


class _Copied:
    """Builds a copy of a patched module; `pickle` has to write it first, and can't."""

    def __init__(self, module: nn.Module, build: Callable[..., Any]) -> None:
        self._kind, self._build = type(module).__name__, build

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise AlreadyAttachedError(
            f"this {self._kind} carries a plan and can't be pickled.",
            remedy="Call detach() on its handle first, or save its state_dict().",
        )
