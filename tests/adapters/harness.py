"""A few lines in place of the engine: overrides, and a reduction after the last block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from tokenprune.interface.adapter import EncoderAdapter


@contextmanager
def overridden(adapter: EncoderAdapter) -> Iterator[None]:
    owners = list(adapter.overrides())
    for (owner, name), function in adapter.overrides().items():
        owner.__dict__[name] = partial(function, getattr(owner, name))
    try:
        yield
    finally:
        for owner, name in owners:
            owner.__dict__.pop(name)


@contextmanager
def reduced(
    adapter: EncoderAdapter, reduce: Callable[[Tensor], Tensor], sizes: Tensor | None
) -> Iterator[None]:
    """Put `reduce(hidden)` behind the last block and announce `sizes` `[B, T]`."""

    def after(block: nn.Module, args: Any, output: Tensor) -> Tensor:
        if sizes is not None:
            adapter.weighted_pool(sizes)
        return reduce(output)

    handle = adapter.spec().blocks[-1].register_forward_hook(after)
    try:
        with overridden(adapter):
            yield
    finally:
        handle.remove()
