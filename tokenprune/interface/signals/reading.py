"""Signals of a view, and those that aren't of single tokens."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from tokenprune.interface.signals.signal import Signal
from tokenprune.interface.signals.views import View

WHOLE = frozenset(name for name, one in Signal.shipped().items() if not one.per_token)
"""Names of signals that hold no value per visual token and so stay as they are when tokens go."""

_MEANS = frozenset({Signal.ATTENTION_RECEIVED.name, Signal.ATTENTION_GIVEN.name})
_SUMS = (Signal.ATTENTION_RECEIVED.name, Signal.ATTENTION_RECEIVED_FROM_ALL.name)


def sums_attention(wanted: Iterable[Signal]) -> bool:
    """Whether one of the signals of a site is made of `BlockAttention.received`."""
    # by name: a compiler misses equal signals that aren't the same
    return any(signal.name in _SUMS for signal in wanted)


def both_means(wanted: Iterable[Signal]) -> bool:
    """Whether what tokens receive of an attention and what they give are both among the signals."""
    return _MEANS.issubset([signal.base or signal.name for signal in wanted])


def read(wanted: Iterable[Signal], *views: View) -> dict[str, Tensor]:
    """Those of the signals that one of the views answers, by name."""
    found = {}
    for signal in wanted:
        for view in views:
            if signal.needs is not None and isinstance(view, signal.needs):
                found[signal.name] = signal.of(view)
                break
    return found
