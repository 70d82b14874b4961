"""What makes a model's visual features: noted while it runs, or given to it instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.specs import MllmSpec
from tokenprune.testing.plain.standing import Shown


def makers(spec: MllmSpec) -> list[tuple[nn.Module, str]]:
    """Owner and name of every method that makes features: the projector's, or the core's own."""
    if spec.projector is not None:
        return [(spec.projector, "forward")]
    methods = dict.fromkeys(one.method for one in spec.modalities.values())
    return [(spec.core, method) for method in methods]


@dataclass
class Features:
    """What makes features, noted.

    Attributes:
        made: what each call put out, in order; a call inside another isn't noted.
        shown: the pictures of these calls, where the adapter tells.
    """

    made: list[Any] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    _inside: bool = False

    @contextmanager
    def noted(self, adapter: MllmAdapter) -> Iterator[None]:
        """Note what the model makes, until the block ends."""
        spec = adapter.spec()
        with Patches() as patches:
            for owner, method in makers(spec):
                patches.override(owner, method, self._noting)
            if spec.modalities:
                patches.override(adapter, "whole_pictures", self._placed)
            yield

    def _noting(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._inside:
            return original(*args, **kwargs)
        self._inside = True
        try:
            found = original(*args, **kwargs)
        finally:
            self._inside = False
        self.made.append(found)
        return found

    def _placed(self, original: Callable[..., Any], kind: str, *args: Any, **kwargs: Any) -> Any:
        found = original(kind, *args, **kwargs)
        self.shown += [(kind, places) for places in found]
        return found


def give(patches: Patches, spec: MllmSpec, made: Sequence[Any]) -> None:
    """Let the model have these features, call by call, in place of those that it makes."""
    waiting = list(made)

    def given(original: Any, *args: Any, **kwargs: Any) -> Any:
        return waiting.pop(0)

    for owner, method in makers(spec):
        patches.override(owner, method, given)
