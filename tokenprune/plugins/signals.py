"""Every signal that there is: those that ship, and those that installed strategies define."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenprune.errors import TokenpruneError
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import STAGES
from tokenprune.interface.strategy import PruningStrategy, places
from tokenprune.plugins.host import host
from tokenprune.plugins.matrix import families, signals


@dataclass(frozen=True)
class KnownSignal:
    """A signal and who has to do with it.

    Attributes:
        signal: the signal, without a chosen block.
        strategies: names of the strategies that ask for it with default parameters.
        families: names of the model families that supply what it is computed from.
    """

    signal: Signal
    strategies: tuple[str, ...]
    families: tuple[str, ...]

    @property
    def shape(self) -> str:
        """Its axes, as in `[B, N, d]`."""
        return f"[{', '.join(self.signal.axes)}]"

    @property
    def what(self) -> str:
        """What it is, without the shape."""
        return self.signal.meaning.partition("]")[2].strip()

    def data(self) -> dict[str, Any]:
        """As plain data for scripts."""
        needs = self.signal.needs
        return {
            "name": self.signal.name,
            "shape": self.shape,
            "meaning": self.what,
            "stages": list(self.signal.stages),
            "needs": None if needs is None else needs.title,
            "strategies": list(self.strategies),
            "families": list(self.families),
        }


def known_signals(
    strategies: Mapping[str, type[PruningStrategy[Any]]] | None = None,
) -> list[KnownSignal]:
    """The signals that ship in the order of their rows, then others by name.

    Args:
        strategies: by name; default: all installed.
    """
    kinds = host().strategies if strategies is None else strategies
    asked = {name: _asked(kind) for name, kind in sorted(kinds.items())}
    shipped = Signal.shipped().values()
    foreign = sorted(set[Signal]().union(*asked.values()) - {*shipped}, key=str)
    columns = families()
    return [
        KnownSignal(
            signal,
            tuple(name for name, wanted in asked.items() if signal in wanted),
            tuple(one.name for one in columns if any(one.offers(signal, at) for at in STAGES)),
        )
        for signal in (*shipped, *foreign)
    ]


def _asked(kind: type[PruningStrategy[Any]]) -> set[Signal]:
    """What a strategy asks for anywhere; nothing if it can't be built from its defaults."""
    try:
        return {signal.kind for at in places(kind) for signal in signals(kind, at)}
    except TokenpruneError:
        return set()
